"""Both as sums over windows, which a TPU computes in place.

To cut a row into pairs of pixels, or to put them together, moves values between the sublanes of a vector register where pixels lie there: the
compiler then writes the whole map once more. A pixel is repeated by a window as large as a block over the map with zeros between its pixels: each
window holds one of them. From a batch of 8 on the compiler lays examples along the sublanes, and repetition is free of moves; means are still ahead
as windows, up to batches that fill the lanes. Larger blocks are rare, and their windows would add more zeros than copying costs.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LARGEST = 4  # pixels a side
SUBLANES, LANES = 8, 128


def mean(image: Float[Array, "b h w c"], scale: int, interpret: bool = False) -> Float[Array, "b p q c"]:
    return (_summed(image, scale) / scale**2).astype(image.dtype)


def mean_cotangents(cotangent: Float[Array, "b p q c"], image: Float[Array, "b h w c"], scale: int, interpret: bool) -> tuple[Array]:
    return (repeat(cotangent / scale**2, scale),)


def covers_mean(image: jax.ShapeDtypeStruct, scale: int) -> bool:
    return _covers(image, scale) and image.shape[0] < LANES


def repeat(image: Float[Array, "b h w c"], scale: int, interpret: bool = False) -> Float[Array, "b p q c"]:
    zero, between = np.zeros((), image.dtype), (scale - 1, scale - 1, scale - 1)
    apart = jax.lax.pad(image, zero, ((0, 0, 0), between, between, (0, 0, 0)))
    return jax.lax.reduce_window(apart, zero, jax.lax.add, (1, scale, scale, 1), (1, 1, 1, 1), "VALID")


def repeat_cotangents(cotangent: Float[Array, "b p q c"], image: Float[Array, "b h w c"], scale: int, interpret: bool) -> tuple[Array]:
    return (_summed(cotangent, scale).astype(image.dtype),)


def covers_repeat(image: jax.ShapeDtypeStruct, scale: int) -> bool:
    return _covers(image, scale) and image.shape[0] < SUBLANES


def _summed(image: Float[Array, "b h w c"], scale: int) -> Float[Array, "b p q c"]:
    block = (1, scale, scale, 1)
    return jax.lax.reduce_window(image.astype(jnp.float32), 0.0, jax.lax.add, block, block, "VALID")


def _covers(image: jax.ShapeDtypeStruct, scale: int) -> bool:
    return scale <= LARGEST and jnp.issubdtype(image.dtype, jnp.floating)

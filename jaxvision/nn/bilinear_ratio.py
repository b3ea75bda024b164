"""Bilinear resizing by a whole factor, up or down, as sums of shifted copies: what `nn.resize.resize` computes by matrices of the picture's size.

For the feature maps of networks: the work a pixel is 2 products an axis upwards and 2 x factor downwards, at any size of the map.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.errors import ModelError


def enlarge(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b p q c"]:
    """`factor` times as many rows and columns; beyond the border the outermost pixels continue."""
    return _enlarged(_enlarged(x, factor, 1), factor, 2) if factor > 1 else x


def shrink(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b p q c"]:
    """One of `factor` rows and columns, antialiased: weighted by a triangle that reaches `factor` pixels far and is cut at the border.

    Raises ModelError when the sides do not divide by `factor`, or when it is odd.
    """
    if factor == 1:
        return x
    if factor % 2 or x.shape[1] % factor or x.shape[2] % factor:
        raise ModelError(f"a map of {x.shape[1]}x{x.shape[2]} does not shrink to one in {factor}; the factor is even and divides both sides")
    return _shrunk(_shrunk(x, factor, 1), factor, 2)


def _enlarged(x: Array, factor: int, axis: int) -> Array:
    size = x.shape[axis]
    padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)], mode="edge")
    pixels = lambda first: jnp.take(padded, np.arange(first, first + size), axis=axis)
    before, here, after = pixels(0), pixels(1), pixels(2)
    phases = []
    for place in (np.arange(factor) + 0.5) / factor - 0.5:
        other, share = (before, -place) if place < 0 else (after, place)
        phases.append(here * (1 - share).astype(x.dtype) + other * share.astype(x.dtype))
    shape = list(x.shape)
    shape[axis] *= factor
    return jnp.stack(phases, axis + 1).reshape(shape)


def _shrunk(x: Array, factor: int, axis: int) -> Array:
    half, size = factor // 2, x.shape[axis] // factor
    weights = 1 - np.abs(np.arange(2 * factor) + 0.5 - factor) / factor
    # An output pixel reads two neighbouring groups of `factor` pixels, which begin half a group before it.
    inside = np.pad(np.ones(x.shape[axis]), half).reshape(size + 1, factor)
    sums = inside[:-1] @ weights[:factor] + inside[1:] @ weights[factor:]
    padded = jnp.pad(x, [(half, half) if i == axis else (0, 0) for i in range(x.ndim)])
    groups = jnp.moveaxis(padded.reshape(*x.shape[:axis], size + 1, factor, *x.shape[axis + 1 :]), axis + 1, 0)
    first, second = (sum(group * np.asarray(w, x.dtype) for group, w in zip(groups, part)) for part in (weights[:factor], weights[factor:]))
    total = jnp.take(first, np.arange(size), axis=axis) + jnp.take(second, np.arange(1, size + 1), axis=axis)
    along = [1] * x.ndim
    along[axis] = size
    return total * (1 / sums).astype(x.dtype).reshape(along)

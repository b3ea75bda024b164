"""Vectors of parameters on maps of 16 bits: computed in float32 where the values are on chip anyway, rounded once, stored in 16 bits.

What matters is the way back. A parameter that was rounded to 16 bits first gets its gradient as a sum of 16 bits over all pixels of a batch: it is
rounded at every addition, and on TPUs, whose vector unit adds in float32 alone, slower too.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def add_bias(x: Float[Array, "... c"], bias: Float[Array, "... c"]) -> Float[Array, "... c"]:
    """x + bias, in the dtype of x."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return (x.astype(wide) + bias.astype(wide)).astype(x.dtype)


def scale_by(x: Float[Array, "... c"], gain: Float[Array, "... c"]) -> Float[Array, "... c"]:
    """x * gain, in the dtype of x."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return (x.astype(wide) * gain.astype(wide)).astype(x.dtype)

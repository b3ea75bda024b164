"""What the two resizings mean: a mean over two axes of a reshape, and repetition along both sides."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num


def mean(image: Float[Array, "b h w c"], scale: int) -> Float[Array, "b p q c"]:
    b, h, w, c = image.shape
    return image.reshape(b, h // scale, scale, w // scale, scale, c).mean((2, 4))


def repeat(image: Num[Array, "b h w c"], scale: int) -> Num[Array, "b p q c"]:
    return jnp.repeat(jnp.repeat(image, scale, axis=1), scale, axis=2)

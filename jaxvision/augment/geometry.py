"""Flips and shifted crops: the augmentation of small images (Krizhevsky et al. 2012; He et al. 2016, section 4.2, pad 4 and crop)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Num

from jaxvision.augment.rows import row_keys

PAD_MODES = {"zero": "constant", "reflect": "reflect"}


def flip(image: Num[Array, "b h w c"], where: Bool[Array, "b"]) -> Num[Array, "b h w c"]:
    """Mirrors left and right the examples where `where` holds."""
    return jnp.where(where[:, None, None, None], image[:, :, ::-1], image)


def shifted_crop(
    image: Num[Array, "b h w c"], top: Int[Array, "b"], left: Int[Array, "b"], *, padding: int, mode: str = "zero"
) -> Num[Array, "b h w c"]:
    """Pads every side by `padding` pixels and cuts a window of the old size whose corner is at (top, left), both in 0..2*padding.

    mode: "zero" or "reflect" (without repeating the border).
    """
    height, width, channels = image.shape[1:]
    padded = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=PAD_MODES[mode])
    return jax.vmap(lambda x, y0, x0: jax.lax.dynamic_slice(x, (y0, x0, 0), (height, width, channels)))(padded, top, left)


def random_flip(key: Array, image: Num[Array, "b h w c"], row: Int[Array, "b"], probability: float = 0.5) -> Num[Array, "b h w c"]:
    """Mirrors each example with the given probability."""
    return flip(image, jax.vmap(lambda k: jax.random.bernoulli(k, probability))(row_keys(key, row)))


def pad_crop(
    key: Array, image: Num[Array, "b h w c"], row: Int[Array, "b"], padding: int, mode: str = "zero"
) -> Num[Array, "b h w c"]:
    """A window of the old size at a uniform place of the image padded by `padding` pixels on every side."""
    corner = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, 2 * padding + 1))(row_keys(key, row))
    return shifted_crop(image, corner[:, 0], corner[:, 1], padding=padding, mode=mode)

"""Flips and shifted crops: the augmentation of small images (Krizhevsky et al. 2012; He et al. 2016, section 4.2, pad 4 and crop)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Num

from jaxvision.augment.rows import row_keys
from jaxvision.errors import ConfigError

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


def random_window(key: Array, image: Num[Array, "b h w c"], row: Int[Array, "b"], size: tuple[int, int]) -> Num[Array, "b p q c"]:
    """A window of `size` at a uniform place inside each image. Raises ConfigError when the images are smaller."""
    height, width, channels = image.shape[1:]
    if size[0] > height or size[1] > width:
        raise ConfigError(f"a window of {size[0]} x {size[1]} pixels does not lie in an image of {height} x {width}")
    limit = jnp.asarray((height - size[0] + 1, width - size[1] + 1))
    corner = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, limit))(row_keys(key, row))
    return jax.vmap(lambda x, yx: jax.lax.dynamic_slice(x, (yx[0], yx[1], 0), (*size, channels)))(image, corner)


def dihedral(key: Array, image: Num[Array, "b h w c"], row: Int[Array, "b"]) -> Num[Array, "b h w c"]:
    """One of the eight symmetries of the square for each image; of the four of the rectangle where the sides differ."""
    choice = jax.vmap(lambda k: jax.random.bernoulli(k, 0.5, (3,)))(row_keys(key, row))[:, :, None, None, None]
    image = jnp.where(choice[:, 0], image[:, ::-1], image)
    image = jnp.where(choice[:, 1], image[:, :, ::-1], image)
    return jnp.where(choice[:, 2], image.swapaxes(1, 2), image) if image.shape[1] == image.shape[2] else image

"""Random erasing (Zhong et al. 2020, arXiv 1708.04896) as timm has it: after normalizing, one rectangle an image."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxvision.augment.rows import row_keys

MODES = ("const", "rand", "pixel")
ATTEMPTS = 10


class Box(NamedTuple):
    """Rectangles in pixels; rows top <= y < bottom and columns left <= x < right."""

    top: Int[Array, "b"]
    bottom: Int[Array, "b"]
    left: Int[Array, "b"]
    right: Int[Array, "b"]

    def mask(self, height: int, width: int) -> Array:
        """Whether a pixel lies inside, (b, h, w, 1) (or without the first axis for a single box)."""
        rows, columns = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
        top, bottom, left, right = (jnp.asarray(side)[..., None, None, None] for side in self)
        return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def random_boxes(
    keys: Array,
    height: int,
    width: int,
    *,
    probability: float,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Box:
    """One rectangle a key, empty where nothing is erased.

    Its area is uniform in `area` (share of the image) and the logarithm of its aspect, height over width, uniform too; rounded sides must be
    smaller than the image's, the first of ten tries that is counts, and its place is uniform.
    """

    def one(key):
        happens_key, area_key, aspect_key, place_key = jax.random.split(key, 4)
        pixels = jax.random.uniform(area_key, (ATTEMPTS,), minval=area[0], maxval=area[1]) * (height * width)
        ratio = jnp.exp(jax.random.uniform(aspect_key, (ATTEMPTS,), minval=math.log(aspect[0]), maxval=math.log(aspect[1])))
        tall, wide = jnp.round(jnp.sqrt(pixels * ratio)).astype(jnp.int32), jnp.round(jnp.sqrt(pixels / ratio)).astype(jnp.int32)
        fits = (tall < height) & (wide < width)
        first = jnp.argmax(fits)
        happens = jax.random.bernoulli(happens_key, probability) & fits[first]
        tall, wide = jnp.where(happens, tall[first], 0), jnp.where(happens, wide[first], 0)
        top, left = jax.random.randint(place_key, (2,), 0, jnp.stack([height - tall, width - wide]) + 1)
        return Box(top, top + tall, left, left + wide)

    return jax.vmap(one)(keys)


def random_erasing(
    key: Array,
    image: Float[Array, "b h w c"],
    row: Int[Array, "b"],
    *,
    probability: float,
    mode: str = "pixel",
    area: tuple[float, float] = (0.02, 1 / 3),
) -> Float[Array, "b h w c"]:
    """Erases a rectangle (see `random_boxes`) of a normalized image with the given probability; `area` is the range of its share of the image.

    mode: "const" fills with 0, "rand" with one N(0, 1) colour an image, "pixel" with N(0, 1) noise.
    """
    height, width, channels = image.shape[1:]
    keys = jax.vmap(jax.random.split)(row_keys(key, row))
    box = random_boxes(keys[:, 0], height, width, probability=probability, area=area)
    noise_shape = {"const": None, "rand": (1, 1, channels), "pixel": (height, width, channels)}[mode]
    if noise_shape is None:
        content = jnp.zeros((), image.dtype)
    else:
        content = jax.vmap(lambda k: jax.random.normal(k, noise_shape, image.dtype))(keys[:, 1])
    return jnp.where(box.mask(height, width), content, image)

"""Augmentation of pictures together with their boxes, inside the step: flip, scale and shift, colours.

Scale and shift are CenterNet's affine crop (Zhou et al. 2019, arXiv 1904.07850) for pictures that lie in memory; pictures of files are cropped so on
the host (data/decode.py, "center_affine"), where all their pixels are. A picture is resampled along rows and along columns, two products with sparse
matrices, bilinear and black outside. Boxes are cut at the edges, and one of which less than a pixel is left is no longer valid.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from jaxvision.augment.color import color_jitter
from jaxvision.augment.geometry import flip
from jaxvision.augment.normalize import normalize
from jaxvision.augment.rows import row_keys
from jaxvision.errors import ConfigError, nearest

# Eigenvalues and -vectors of the colours of ImageNet (Krizhevsky et al. 2012), red, green, blue.
EIGENVALUES = (0.2141788, 0.01817699, 0.00341571)
EIGENVECTORS = ((-0.56089297, 0.71832671, 0.41158938), (-0.5832747, 0.00994535, -0.81221408), (-0.58752847, -0.69563484, 0.40340352))
Boxes = Float[Array, "b n 4"]


def flip_boxes(boxes: Boxes, where: Bool[Array, "b"], width: int) -> Boxes:
    """Boxes yxyx of pictures of `width` pixels, mirrored left and right where `where` holds."""
    top, left, bottom, right = jnp.moveaxis(boxes, -1, 0)
    return jnp.where(where[:, None, None], jnp.stack([top, width - right, bottom, width - left], -1), boxes)


def move(image: Num[Array, "b h w c"], corner: Float[Array, "b 2"], unit: Float[Array, "b"]) -> Float[Array, "b h w c"]:
    """Pictures whose upper left corner shows the place `corner`, (row, column), and whose pixels show `unit` pixels; bilinear, 0 outside."""

    def weights(axis: int):
        n = image.shape[axis + 1]
        source = corner[:, axis, None] + (jnp.arange(n) + 0.5) * unit[:, None] - 0.5
        return jnp.maximum(1 - jnp.abs(source[:, :, None] - jnp.arange(n)), 0)

    moved = jnp.einsum("bph,bhwc->bpwc", weights(0), image.astype(jnp.float32), precision="high")
    return jnp.einsum("bqw,bpwc->bpqc", weights(1), moved, precision="high")


def move_boxes(boxes: Boxes, corner: Float[Array, "b 2"], unit: Float[Array, "b"]) -> Boxes:
    """Boxes yxyx in what `move` makes of their pictures; not cut."""
    return (boxes - jnp.tile(corner, 2)[:, None]) / unit[:, None, None]


def cut(boxes: Boxes, valid: Bool[Array, "b n"], size: tuple[int, int], least: float = 1.0) -> tuple[Boxes, Bool[Array, "b n"]]:
    """Boxes cut at the edges of pictures of `size`; those of which less than `least` pixels are left either way are not valid."""
    boxes = jnp.clip(boxes, 0, jnp.asarray((*size, *size), jnp.float32))
    return boxes, valid & (boxes[..., 2] - boxes[..., 0] >= least) & (boxes[..., 3] - boxes[..., 1] >= least)


def lighting(key: Array, image: Float[Array, "b h w 3"], row: Int[Array, "b"], deviation: float) -> Float[Array, "b h w 3"]:
    """Colours in 0..255 moved along ImageNet's principal components by normal numbers of this deviation, in their eigenvalues; not clipped."""
    alpha = deviation * jax.vmap(lambda k: jax.random.normal(k, (3,)))(row_keys(key, row))
    shift = jnp.einsum("rc,bc->br", jnp.asarray(EIGENVECTORS), alpha * jnp.asarray(EIGENVALUES), precision="highest")
    return image + 255 * shift[:, None, None]


@dataclasses.dataclass(frozen=True)
class BoxAugment:
    """Settings; 0 or () is off.

    Attributes:
      mean, std: of normalizing, for pixels scaled to 0..1.
      flip: probability.
      affine: smallest and largest share of the picture's sides that the crop shows, and how far its centre moves at most, as a share of them.
      color_jitter: strengths of brightness, contrast, saturation. lighting: deviation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: float = 0.0
    affine: tuple[float, ...] = ()
    color_jitter: tuple[float, ...] = ()
    lighting: float = 0.0
    size = ()  # of another size than the host's: none

    def __call__(
        self, key: Array, image: Num[Array, "b h w c"], boxes: Boxes, valid: Bool[Array, "b n"], row: Int[Array, "b"]
    ) -> tuple[Float[Array, "b h w c"], Boxes, Bool[Array, "b n"]]:
        """Normalized pictures with their boxes; `row`, the examples' numbers in the global batch, chooses the random numbers."""
        keys = [jax.random.fold_in(key, i) for i in range(4)]
        size = image.shape[1:3]
        if self.flip:
            where = jax.vmap(lambda k: jax.random.bernoulli(k, self.flip))(row_keys(keys[0], row))
            image, boxes = flip(image, where), flip_boxes(boxes, where, size[1])
        if self.affine:
            low, high, shift = self.affine
            draws = jax.vmap(lambda k: jax.random.uniform(k, (3,)))(row_keys(keys[1], row))
            unit, sides = low + (high - low) * draws[:, 0], jnp.asarray(size, jnp.float32)
            centre = sides * (0.5 + shift * (2 * draws[:, 1:] - 1))
            corner = centre - unit[:, None] * sides / 2
            image, boxes = move(image, corner, unit), move_boxes(boxes, corner, unit)
            boxes, valid = cut(boxes, valid, size)
        if self.color_jitter:
            image = color_jitter(keys[2], image, row, **dict(zip(("brightness", "contrast", "saturation"), self.color_jitter)))
        if self.lighting:
            image = lighting(keys[3], image.astype(jnp.float32), row, self.lighting)
        scale = 255 if jnp.issubdtype(image.dtype, jnp.floating) else 1
        return normalize(image / scale if scale > 1 else image, self.mean, self.std), boxes, valid

    def normalize(self, image: Num[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return normalize(image, self.mean, self.std)


def make_box_augment(config: Mapping[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> BoxAugment:
    """Reads `config.augment` of a run with boxes; a key that is absent, None, False or 0 is off.

    flip: True (a half) or a probability. affine: (smallest, largest share of the sides, shift of the centre): (0.6, 1.4, 0.2). color_jitter: one
    strength, or three, of brightness, contrast and saturation. lighting: a deviation (0.1). Raises ConfigError for another key or value.
    """
    known = {field.name for field in dataclasses.fields(BoxAugment)} - {"mean", "std"}
    settings: dict[str, Any] = {}
    for key, value in config.items():
        if key not in known:
            raise ConfigError(f"augment.{key} is unknown for pictures with boxes; {nearest(key, known)}")
        if not value:
            continue
        wanted = 3 if key in ("affine", "color_jitter") else 1
        value = (value,) * wanted if key == "color_jitter" and isinstance(value, int | float) else value
        numbers = tuple(value) if isinstance(value, tuple | list) else (0.5 if value is True and key == "flip" else value,)
        if len(numbers) != wanted or not all(isinstance(number, int | float) and number >= 0 for number in numbers):
            raise ConfigError(f"augment.{key} is {value!r}, must be {'three numbers' if wanted == 3 else 'a number'} of at least 0")
        if (key == "affine" and not 0 < numbers[0] <= numbers[1]) or (key == "flip" and numbers[0] > 1):
            raise ConfigError(f"augment.{key} is {value!r}; see augment/boxes.py for what it takes")
        settings[key] = tuple(map(float, numbers)) if wanted == 3 else float(numbers[0])
    return BoxAugment(tuple(map(float, mean)), tuple(map(float, std)), **settings)

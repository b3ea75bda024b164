"""Views of one picture, made on the device: what contrastive and self-distilled methods compare with each other.

A view is a random resized crop, then colour and blur in the order of MoCo v2 (Chen et al. 2020, arXiv 2003.04297), SwAV (2006.09882) and DINO
(2104.14294): crop and mirror, RandAugment, colour jitter, grey, blur, solarize, normalize, erasing. Each is a pure function of (key, pictures), the
draws belong to the global row and to the view's number, so any split of the batch over devices sees the same views.

Crop, resize and mirror are two matrix products a picture, with antialiased weights as Pillow has them; so is the blur, with the border repeated.
Different from the published pipelines: pixels stay float32 between the steps (Pillow rounds after each), blurs are exact Gaussians (Pillow stacks
three boxes), and crops are cut from what the host decoded at config.image_size instead of from the file at its full resolution.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxvision.augment.color import color_jitter, solarize
from jaxvision.augment.erasing import MODES, random_erasing
from jaxvision.augment.normalize import normalize
from jaxvision.augment.randaugment import RandAugment, parse
from jaxvision.augment.rows import row_keys
from jaxvision.errors import ConfigError, nearest

TRIES = 10


def _triangle(x: Array) -> Array:
    return jnp.maximum(1 - jnp.abs(x), 0)


def _keys(x: Array) -> Array:
    """Cubic convolution with a = -0.5, Pillow's "bicubic"."""
    x = jnp.abs(x)
    inner, outer = ((1.5 * x - 2.5) * x) * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x <= 1, inner, jnp.where(x < 2, outer, 0.0))


FILTERS = {"bilinear": _triangle, "bicubic": _keys}


@dataclasses.dataclass(frozen=True)
class View:
    """Static settings of one view; hashable. A probability of 0 leaves its operation out of the program.

    Attributes:
      size: (height, width) in pixels of the view.
      scale, ratio: smallest and largest share of the picture's area, and width / height, of the crop.
      interpolation: "bilinear" or "bicubic", antialiased.
      flip: probability of mirroring left and right.
      randaugment: its settings, or None.
      color_jitter, jitter: strengths of brightness, contrast, saturation and hue, and the probability that they act at all.
      grey: probability of taking the luma for all channels.
      blur, sigma: probability of a Gaussian blur, and the range of its standard deviation in pixels.
      solarize: probability of inverting what is at least half as bright as white.
      erasing, erasing_area: probability and mode, and the range of the rectangle's share of the view.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    flip: float = 0.5
    randaugment: RandAugment | None = None
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter: float = 0.8
    grey: float = 0.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    erasing: tuple[float, str] = (0.0, "pixel")
    erasing_area: tuple[float, float] = (0.02, 1 / 3)

    def __call__(
        self, key: Array, image: UInt8[Array, "b h w c"], row: Int[Array, "b"], *, mean: Sequence[float], std: Sequence[float]
    ) -> Float[Array, "b p q c"]:
        """The view of each picture, normalized. `row`: the pictures' numbers in the global batch. Raises ConfigError unless they are uint8."""
        if image.dtype != jnp.uint8:
            raise ConfigError(f"views are defined for uint8 pictures, not {image.dtype}")
        happens = lambda number, probability: _draw(jax.random.fold_in(key, number), row, probability)
        mirrored = happens(0, self.flip) if self.flip else jnp.zeros(row.shape, bool)
        x = random_resized_crop(jax.random.fold_in(key, 1), image, row, self, mirrored)
        if self.randaugment:
            fill = tuple(min(255, round(255 * m)) for m in mean)
            whole = jnp.floor(x + 0.5).astype(jnp.uint8)
            x = self.randaugment(jax.random.fold_in(key, 2), whole, row, fill=fill).astype(jnp.float32)
        if any(self.color_jitter) and self.jitter:
            strengths = dict(zip(("brightness", "contrast", "saturation", "hue"), self.color_jitter))
            x = _where(happens(3, self.jitter), color_jitter(jax.random.fold_in(key, 4), x, row, **strengths), x)
        if self.grey and x.shape[-1] == 3:
            luma = jnp.sum(x * jnp.asarray([0.299, 0.587, 0.114]), axis=-1, keepdims=True)
            x = _where(happens(5, self.grey), luma, x)
        if self.blur:
            low, high = self.sigma
            sigma = jax.vmap(lambda k: jax.random.uniform(k, minval=low, maxval=high))(row_keys(jax.random.fold_in(key, 6), row))
            x = _where(happens(7, self.blur), gaussian_blur(x, sigma, high), x)
        if self.solarize:
            x = solarize(x, jnp.where(happens(8, self.solarize), 128, 256))
        x = normalize(x / 255, mean, std)
        if self.erasing[0]:
            probability, mode = self.erasing
            x = random_erasing(jax.random.fold_in(key, 9), x, row, probability=probability, mode=mode, area=self.erasing_area)
        return x


def make_views(
    key: Array, image: UInt8[Array, "b h w c"], row: Int[Array, "b"], views: Sequence[View], *, mean: Sequence[float], std: Sequence[float]
) -> tuple[Float[Array, "b p q c"], ...]:
    """One array a view, each (B, height, width, C) of its own size."""
    return tuple(view(jax.random.fold_in(key, number), image, row, mean=mean, std=std) for number, view in enumerate(views))


def random_resized_crop(
    key: Array, image: UInt8[Array, "b h w c"], row: Int[Array, "b"], view: View, mirrored: Bool[Array, "b"]
) -> Float[Array, "b p q c"]:
    """A random box of each picture at view.size, in 0..255; mirrored left and right where asked."""
    top, left, height, width = crop_boxes(key, row, image.shape[1:3], view.scale, view.ratio)
    rows = jax.vmap(lambda start, length: resize_weights(start, length, image.shape[1], view.size[0], view.interpolation))(top, height)
    columns = jax.vmap(lambda start, length: resize_weights(start, length, image.shape[2], view.size[1], view.interpolation))(left, width)
    columns = jnp.where(mirrored[:, None, None], columns[:, ::-1], columns)
    x = jnp.einsum("bph,bhwc->bpwc", rows, image.astype(jnp.float32))
    return jnp.clip(jnp.einsum("bqw,bpwc->bpqc", columns, x), 0, 255)


def crop_boxes(
    key: Array, row: Int[Array, "b"], picture: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Int[Array, "b"], Int[Array, "b"], Int[Array, "b"], Int[Array, "b"]]:
    """(top, left, height, width) in whole pixels, as torchvision's RandomResizedCrop draws them: the first of ten tries that lies inside, and
    else the largest central box whose ratio is allowed."""
    height, width = picture
    tallest, widest = min(height, max(1, round(width / ratio[0]))), min(width, max(1, round(height * ratio[1])))

    def one(key):
        area_key, ratio_key, place_key = jax.random.split(key, 3)
        area = height * width * jax.random.uniform(area_key, (TRIES,), minval=scale[0], maxval=scale[1])
        aspect = jnp.exp(jax.random.uniform(ratio_key, (TRIES,), minval=math.log(ratio[0]), maxval=math.log(ratio[1])))
        h, w = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32), jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
        fits = (h > 0) & (w > 0) & (h <= height) & (w <= width)
        first = jnp.argmax(fits)
        found = fits[first]
        h, w = jnp.where(found, h[first], tallest), jnp.where(found, w[first], widest)
        place = jnp.where(found, jax.random.uniform(place_key, (2,)), 0.5)
        top, left = jnp.floor(place * (jnp.stack([height - h, width - w]) + found)).astype(jnp.int32)
        return top, left, h, w

    return jax.vmap(one)(row_keys(key, row))


def resize_weights(
    start: Int[Array, ""], length: Int[Array, ""], full: int, size: int, interpolation: str = "bicubic"
) -> Float[Array, "size full"]:
    """Weights of `size` output pixels over `full` input ones, of which start … start + length - 1 are seen; rows sum to 1."""
    stretch = length / size
    centre = start + (jnp.arange(size) + 0.5) * stretch
    at = jnp.arange(full) + 0.5
    weights = FILTERS[interpolation]((at - centre[:, None]) / jnp.maximum(stretch, 1.0))
    weights = jnp.where((at > start) & (at < start + length), weights, 0)
    return weights / weights.sum(1, keepdims=True)


def gaussian_blur(image: Float[Array, "b h w c"], sigma: Float[Array, "b"], largest: float) -> Float[Array, "b h w c"]:
    """A Gaussian of `sigma` pixels, at most `largest`, cut at three times that; the border is repeated."""
    reach = math.ceil(3 * largest)

    def weights(sigma, size):
        distance = jnp.arange(-reach, size + reach) - jnp.arange(size)[:, None]
        bell = jnp.where(jnp.abs(distance) <= reach, jnp.exp(-0.5 * jnp.square(distance / sigma)), 0)
        bell = bell / bell.sum(1, keepdims=True)
        inner = bell[:, reach : reach + size]
        inner = inner.at[:, 0].add(bell[:, :reach].sum(1))
        return inner.at[:, -1].add(bell[:, reach + size :].sum(1))

    rows, columns = (jax.vmap(lambda s, size=size: weights(s, size))(sigma) for size in image.shape[1:3])
    return jnp.einsum("bqw,bpwc->bpqc", columns, jnp.einsum("bph,bhwc->bpwc", rows, image))


def _draw(key: Array, row: Int[Array, "b"], probability: float) -> Bool[Array, "b"]:
    return jax.vmap(lambda k: jax.random.bernoulli(k, probability))(row_keys(key, row))


def _where(chosen: Bool[Array, "b"], one: Array, other: Array) -> Array:
    return jnp.where(chosen[:, None, None, None], one, other)


# --- reading a config ---


def _probability(key: str, value: Any) -> float:
    value = 0.5 if value is True else value or 0.0
    if isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    raise ConfigError(f"views: {key} is {value!r}, must be a probability in 0..1")


def _range(key: str, value: Any) -> tuple[float, float]:
    if isinstance(value, tuple | list) and len(value) == 2 and 0 < value[0] <= value[1]:
        return float(value[0]), float(value[1])
    raise ConfigError(f"views: {key} is {value!r}, must be (smallest, largest) with 0 < smallest <= largest")


def _size(key: str, value: Any) -> tuple[int, int]:
    value = (value, value) if isinstance(value, int) else tuple(value)
    if len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value):
        return value
    raise ConfigError(f"views: {key} is {value!r}, must be a number of pixels, or (height, width)")


def _strengths(key: str, value: Any) -> tuple[float, ...]:
    strengths = tuple(value) if isinstance(value, tuple | list) else (value or 0.0,) * 3
    strengths = (*strengths, 0.0)[:4] if len(strengths) in (3, 4) else ()
    if strengths and all(isinstance(s, int | float) and s >= 0 for s in strengths) and strengths[3] <= 0.5:
        return tuple(float(s) for s in strengths)
    raise ConfigError(f"views: {key} is {value!r}, must be one strength, three (brightness, contrast, saturation) or four (and hue, at most 0.5)")


def _filter(key: str, value: Any) -> str:
    if value in FILTERS:
        return value
    raise ConfigError(f"views: {key} {value!r} is unknown; {nearest(value, FILTERS)}")


def _erasing(key: str, value: Any) -> tuple[float, str]:
    probability, mode = value if isinstance(value, tuple | list) and len(value) == 2 else (value, "pixel")
    if mode not in MODES:
        raise ConfigError(f"views: {key} has the mode {mode!r}; {nearest(mode, MODES)}")
    return _probability(key, probability), mode


def _randaugment(key: str, value: Any) -> RandAugment | None:
    """A string, or a pair of a string and the operations that are drawn from."""
    return parse(*((value,) if isinstance(value, str) else value)) if value else None


_READERS = {
    "size": _size,
    "scale": _range,
    "ratio": _range,
    "interpolation": _filter,
    "flip": _probability,
    "randaugment": _randaugment,
    "color_jitter": _strengths,
    "jitter": _probability,
    "grey": _probability,
    "blur": _probability,
    "sigma": _range,
    "solarize": _probability,
    "erasing": _erasing,
    "erasing_area": _range,
}


def read_views(shared: Mapping[str, Any], views: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> tuple[View, ...]:
    """The views of `({"count": 2}, {"count": 6, "size": 96, "scale": (0.05, 0.14)})`; what a group leaves out is as in `shared`, then as in View.

    Args:
      shared: settings of all views, config.augment.
      size: of views that state none.

    Raises:
      ConfigError: an unknown key, a value outside its range, or fewer than two views.
    """
    found: list[View] = []
    for group in views:
        settings = {"size": size, **dict(shared), **dict(group)}
        count = settings.pop("count", 1)
        for key in settings:
            if key not in _READERS:
                raise ConfigError(f"views: the key {key!r} is unknown; {nearest(key, ('count', *_READERS))}")
        found += [View(**{key: _READERS[key](key, value) for key, value in settings.items()})] * count
    if len(found) < 2:
        raise ConfigError(f"task.views gives {len(found)} view of a picture; at least two are compared, ({{'count': 2}},)")
    return tuple(found)

"""The augmentation of a training step, read from `config.augment`; what is off leaves no trace in the program."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from jaxvision.augment.color import color_jitter
from jaxvision.augment.erasing import MODES, random_erasing
from jaxvision.augment.geometry import PAD_MODES, pad_crop, random_flip
from jaxvision.augment.mix import mix_batch
from jaxvision.augment.normalize import normalize
from jaxvision.augment.randaugment import RandAugment, parse
from jaxvision.augment.resize import lanczos
from jaxvision.augment.spectrum import low_frequency_crop
from jaxvision.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Augment:
    """Static settings of the training augmentation; hashable.

    Attributes:
      mean, std: of normalizing, a channel, for pixels scaled to 0..1.
      flip: probability of mirroring left and right.
      pad_crop: pixels of padding and its mode, "zero" or "reflect".
      color_jitter: strengths of brightness, contrast, saturation and hue.
      randaugment: its settings, or None.
      erasing: probability and mode.
      mixup, cutmix: the alpha of their Beta distributions.
      patch_mixing: the alpha of its Beta distribution, and the grids of which one is drawn a batch.
      mix_prob, switch_prob: whether a batch is mixed, and then by CutMix when both are on.
      size, crop: of a phase (train/phases.py): "spectrum" keeps the low frequencies, after erasing; "resize" is Lanczos, before normalizing.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: float = 0.0
    pad_crop: tuple[int, str] = (0, "zero")
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    randaugment: RandAugment | None = None
    erasing: tuple[float, str] = (0.0, "pixel")
    mixup: float = 0.0
    cutmix: float = 0.0
    patch_mixing: tuple[float, tuple[tuple[int, int], ...]] = (0.0, ())
    mix_prob: float = 1.0
    switch_prob: float = 0.5
    size: tuple[int, ...] = ()
    crop: str = ""

    def image(
        self, key: Array, image: Num[Array, "b h w c"], row: Int[Array, "b"], *, magnitude: float | Float[Array, ""] | None = None
    ) -> Float[Array, "b p q c"]:
        """flip, pad_crop, randaugment, resize, color_jitter, normalize, erasing, spectrum crop, in this order; float32 out.

        Args:
          image: stored pixels; RandAugment and colour jitter want uint8.
          row: the examples' numbers in the global batch; they choose the random numbers.
          magnitude: replaces RandAugment's, may be traced.

        Raises:
          ConfigError: when RandAugment or colour jitter meets another type than uint8.
        """
        if image.dtype != jnp.uint8 and (self.randaugment or any(self.color_jitter)):
            raise ConfigError(f"augment.randaugment and augment.color_jitter are defined for uint8 images, not {image.dtype}; set them to None and 0")
        if self.flip:
            image = random_flip(jax.random.fold_in(key, 0), image, row, self.flip)
        if self.pad_crop[0]:
            image = pad_crop(jax.random.fold_in(key, 1), image, row, *self.pad_crop)
        if self.randaugment:
            image = self.randaugment(jax.random.fold_in(key, 2), image, row, fill=self.fill, magnitude=magnitude)
        image = self._resized(image)
        if any(self.color_jitter):
            names = ("brightness", "contrast", "saturation", "hue")
            image = color_jitter(jax.random.fold_in(key, 3), image, row, **dict(zip(names, self.color_jitter))) / 255
        image = normalize(image, self.mean, self.std)
        if self.erasing[0]:
            image = random_erasing(jax.random.fold_in(key, 4), image, row, probability=self.erasing[0], mode=self.erasing[1])
        return self._low_frequencies(image)

    def mix(self, key: Array, image: Float[Array, "b h w c"], label: Float[Array, "b k"]) -> tuple[Float[Array, "b h w c"], Float[Array, "b k"]]:
        """Mixup, CutMix and Patch Mixing of a batch and its one-hot labels, one of them a batch; the same arrays when all are off."""
        return mix_batch(
            key, image, label, mixup_alpha=self.mixup, cutmix_alpha=self.cutmix, probability=self.mix_prob, switch_probability=self.switch_prob,
            patch_alpha=self.patch_mixing[0], patch_grids=self.patch_mixing[1],
        )  # fmt: skip

    def normalize(self, image: Num[Array, "b h w c"]) -> Float[Array, "b p q c"]:
        """What evaluation does instead of `image`: normalized floats, at the size of the phase."""
        return self._low_frequencies(normalize(self._resized(image), self.mean, self.std))

    def _resized(self, image: Array) -> Array:
        return lanczos(image, self.size) if self.crop == "resize" else image

    def _low_frequencies(self, image: Array) -> Array:
        return low_frequency_crop(image, self.size) if self.crop == "spectrum" else image

    @property
    def fill(self) -> tuple[int, ...]:
        """The mean colour in grey levels, for points that RandAugment takes from outside an image."""
        return tuple(min(255, round(255 * m)) for m in self.mean)


def make_augment(
    config: Mapping[str, Any] | Any, *, mean: tuple[float, ...], std: tuple[float, ...], size: tuple[int, ...] = (), crop: str = ""
) -> Augment:
    """Reads `config.augment`; a key that is absent, None, False or 0 is off.

    flip: True (a half) or a probability. pad_crop: pixels, or (pixels, "reflect"). color_jitter: one strength for brightness, contrast and
    saturation, or three, or four with hue. randaugment: a string such as "rand-m9-mstd0.5-inc1", or a pair of
    it and the operations that are drawn from. erasing: a probability, or (probability, mode) with mode "const", "rand" or "pixel" (default). mixup,
    cutmix: alphas. patch_mixing: an alpha (the paper's: 0.3), or the alpha and then the grids' sides, (0.3, 7, 14); one side, 7, without them.
    mix_prob, switch_prob: probabilities. size, crop: a phase's.

    Raises:
      ConfigError: an unknown key, or a value outside its range.
    """
    settings = {}
    for key in config:
        if key not in _READERS:
            raise ConfigError(f"augment.{key} is unknown; {nearest(key, _READERS)}")
        value = config[key]
        if value is None and key in ("mix_prob", "switch_prob"):
            continue
        settings[key] = _READERS[key](key, value)
    return Augment(mean=tuple(float(m) for m in mean), std=tuple(float(s) for s in std), size=tuple(size), crop=crop, **settings)


def _number(key: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    if isinstance(value, (int, float)) and low <= value <= high:
        return float(value)
    raise ConfigError(f"augment.{key} is {value!r}, must be a number " + (f"in {low:g}..{high:g}" if high < math.inf else f"of at least {low:g}"))


def _choice(key: str, value: Any, choices: Any) -> str:
    if value in choices:
        return value
    raise ConfigError(f"augment.{key} has the mode {value!r}; {nearest(value, choices)}")


def _pair(value: Any, default: str) -> tuple[Any, str]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, default)
    return pair if len(pair) == 2 else (value, default)


def _read_alpha(key: str, value: Any) -> float:
    return _number(key, value or 0.0)


def _read_probability(key: str, value: Any) -> float:
    return _number(key, value or 0.0, 0.0, 1.0)


def _read_flip(key: str, value: Any) -> float:
    return 0.5 if value is True else _read_probability(key, value)


def _read_pad_crop(key: str, value: Any) -> tuple[int, str]:
    pixels, mode = _pair(value, "zero")
    if pixels and not isinstance(pixels, int):
        raise ConfigError(f"augment.{key} is {value!r}, must be a whole number of pixels, or (pixels, 'reflect')")
    return int(_number(key, pixels or 0)), _choice(key, mode, PAD_MODES)


def _read_jitter(key: str, value: Any) -> tuple[float, ...]:
    strengths = tuple(value) if isinstance(value, (tuple, list)) else (value or 0.0,) * 3
    if len(strengths) not in (3, 4):
        raise ConfigError(f"augment.{key} is {value!r}, must be one strength, three (brightness, contrast, saturation) or four (and hue)")
    strengths = (*strengths, 0.0)[:4]
    return (*(_number(key, strength) for strength in strengths[:3]), _number(key, strengths[3], 0.0, 0.5))


def _read_randaugment(key: str, value: Any) -> RandAugment | None:
    return parse(*((value,) if isinstance(value, str) else value)) if value else None


def _read_erasing(key: str, value: Any) -> tuple[float, str]:
    probability, mode = _pair(value, "pixel")
    return _read_probability(key, probability), _choice(key, mode, MODES)


def _read_patch_mixing(key: str, value: Any) -> tuple[float, tuple[tuple[int, int], ...]]:
    alpha, *sides = value if isinstance(value, (tuple, list)) and value else (value or 0.0,)
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise ConfigError(f"augment.{key} is {value!r}, must be an alpha, or an alpha and the sides of grids, (0.3, 7, 14)")
    return _number(key, alpha), tuple((side, side) for side in sides or (7,))


_READERS = {
    "flip": _read_flip,
    "pad_crop": _read_pad_crop,
    "color_jitter": _read_jitter,
    "randaugment": _read_randaugment,
    "erasing": _read_erasing,
    "mixup": _read_alpha,
    "cutmix": _read_alpha,
    "patch_mixing": _read_patch_mixing,
    "mix_prob": _read_probability,
    "switch_prob": _read_probability,
}

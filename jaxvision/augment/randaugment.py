"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719) with the semantics of timm's `rand-m9-mstd0.5-inc1` strings.

Each layer draws for every example one of 15 operations, whether it happens, a magnitude from a normal distribution, and a sign. A vmapped
switch over operations would run all of them on all examples. Here a layer is one chain whose parameters are the identity except for the example's
own operation: threshold, posterize, one blend, two selects (autocontrast and equalize) and one bilinear warp for all geometry. Exactly one
parameter differs from the identity, so the chain equals the operation.
Compiler figures for v5e, 128 images of 224x224x3: a layer is 14.7 M predicted cycles, of which equalize 6.6 M and the warp 5.2 M; flip, two
layers, normalize and erasing together 30.8 M.
Different from timm: the warp is always bilinear (timm draws between bilinear and bicubic), and images without three channels skip `Color`.
"""

import dataclasses
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxvision.augment import color
from jaxvision.augment.rows import row_keys
from jaxvision.augment.warp import Motion, Reach, warp
from jaxvision.errors import ConfigError, nearest

OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast", "Brightness", "Sharpness",
    "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip
FULL_LEVEL = 10.0
# What the full level means: degrees, slope, share of the side, grey levels, distance of a blend from 1.
ROTATE, SHEAR, TRANSLATE, SOLARIZE_ADD, ENHANCE = 30.0, 0.3, 0.45, 110, 0.9

# Weights of a choice without replacement. "w0" is timm's first table, "tweights" the one that replaced it.
WEIGHTS = {
    "w0": {
        "Rotate": 0.3, "ShearX": 0.2, "ShearY": 0.2, "TranslateXRel": 0.1, "TranslateYRel": 0.1, "Color": 0.025, "Sharpness": 0.025,
        "AutoContrast": 0.025, "Solarize": 0.005, "SolarizeAdd": 0.005, "Contrast": 0.005, "Brightness": 0.005, "Equalize": 0.005,
        "Posterize": 0.0, "Invert": 0.0,
    },
    "tweights": {
        "Rotate": 3.0, "ShearX": 2.0, "ShearY": 2.0, "TranslateXRel": 1.0, "TranslateYRel": 1.0, "Color": 0.25, "Sharpness": 0.25,
        "AutoContrast": 0.25, "Solarize": 0.05, "SolarizeAdd": 0.05, "Contrast": 0.05, "Brightness": 0.05, "Equalize": 0.05, "Posterize": 0.05,
        "Invert": 0.05,
    },
}  # fmt: skip


class Draw(NamedTuple):
    """What one layer does to each example: an index into OPERATIONS (-1: nothing), a level in 0..magnitude_max, and a sign of 1 or -1."""

    operation: Int[Array, "b"]
    level: Float[Array, "b"]
    sign: Float[Array, "b"]


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Static settings; see `parse` for their meaning."""

    magnitude: float = FULL_LEVEL
    layers: int = 2
    probability: float = 0.5
    magnitude_std: float = 0.0
    magnitude_max: float = FULL_LEVEL
    increasing: bool = False
    weights: str = ""
    operations: tuple[str, ...] = OPERATIONS

    def __call__(
        self,
        key: Array,
        image: UInt8[Array, "b h w c"],
        row: Int[Array, "b"],
        *,
        fill: tuple[int, ...],
        magnitude: float | Float[Array, ""] | None = None,
    ) -> UInt8[Array, "b h w c"]:
        """The augmented images. `fill` is a colour for points from outside; `magnitude` may be traced and replaces the string's (curricula)."""
        height, width = image.shape[1:3]
        for draw in self.draw(key, row, self.magnitude if magnitude is None else magnitude):
            image = apply_layer(image, draw, increasing=self.increasing, fill=fill, reach=reach_of(self.magnitude_max, height, width))
        return image

    def draw(self, key: Array, row: Int[Array, "b"], magnitude: float | Float[Array, ""]) -> list[Draw]:
        """What each layer does. Operations are drawn with replacement when they are equally likely, without when they have weights (as timm)."""
        draws = jax.vmap(lambda k: self._draw_one(k, magnitude))(row_keys(key, row))
        return [Draw(*(field[:, layer] for field in draws)) for layer in range(self.layers)]

    def _draw_one(self, key: Array, magnitude: float | Float[Array, ""]) -> Draw:
        choice_key, happens_key, level_key, sign_key = jax.random.split(key, 4)
        shape = (self.layers,)
        if self.weights:
            weights = jnp.asarray([WEIGHTS[self.weights][name] for name in OPERATIONS])
            operation = jax.random.choice(choice_key, len(OPERATIONS), shape, replace=False, p=weights / weights.sum())
        else:
            operation = jax.random.randint(choice_key, shape, 0, len(self.operations))
            if self.operations != OPERATIONS:
                operation = jnp.asarray([OPERATIONS.index(name) for name in self.operations])[operation]
        happens = jax.random.bernoulli(happens_key, self.probability, shape)
        if math.isinf(self.magnitude_std):
            level = magnitude * jax.random.uniform(level_key, shape)
        else:
            level = magnitude + self.magnitude_std * jax.random.normal(level_key, shape)
        sign = jnp.where(jax.random.bernoulli(sign_key, 0.5, shape), -1.0, 1.0)
        return Draw(jnp.where(happens, operation, -1), jnp.clip(level, 0, self.magnitude_max), sign)


def parse(text: str, operations: tuple[str, ...] = OPERATIONS) -> RandAugment:
    """Reads `rand-m9-n2-mstd0.5-inc1`; `operations` are those that are drawn from.

    Sections: m magnitude (default 10), n layers (2), p probability of each layer (0.5), mstd standard deviation of the magnitude (0; above 100:
    uniform in 0..m), mmax its upper bound (10), inc1 operations that grow with the magnitude, w0 or tweights weights of the choice.

    Raises:
      ConfigError: for another scheme, an unknown section or a value that is not a number.
    """
    scheme, *sections = str(text).split("-")
    if scheme != "rand":
        raise ConfigError(f"augment.randaugment {text!r} must start with 'rand', as in 'rand-m9-mstd0.5-inc1'")
    readers = {
        "m": ("magnitude", float),
        "n": ("layers", int),
        "p": ("probability", float),
        "mstd": ("magnitude_std", lambda value: math.inf if float(value) > 100 else float(value)),
        "mmax": ("magnitude_max", float),
        "inc": ("increasing", lambda value: bool(int(value))),
    }
    settings = {}
    for section in sections:
        if section in WEIGHTS:
            settings["weights"] = section
            continue
        parts = re.fullmatch(r"([a-z]+)([0-9.]+|inf)", section)
        if not parts or parts[1] not in readers:
            choices = [*readers, *WEIGHTS]
            raise ConfigError(f"augment.randaugment {text!r}: section {section!r} is unknown; {nearest(parts[1] if parts else section, choices)}")
        name, read = readers[parts[1]]
        try:
            settings[name] = read(parts[2])
        except ValueError:
            raise ConfigError(f"augment.randaugment {text!r}: {parts[2]!r} in section {section!r} is not the number it should be") from None
    for name in operations:
        if name not in OPERATIONS:
            raise ConfigError(f"augment.randaugment: the operation {name!r} is unknown; {nearest(name, OPERATIONS)}")
    if settings.get("weights") and tuple(operations) != OPERATIONS:
        raise ConfigError(f"augment.randaugment {text!r}: {settings['weights']} weighs all operations; leave it out, or the list of operations")
    ours = RandAugment(**settings, operations=tuple(operations))
    if not 0 <= ours.probability <= 1 or ours.layers < 1 or not 0 < ours.magnitude_max < 30:
        raise ConfigError(f"augment.randaugment {text!r}: p must lie in 0..1, n be at least 1 and mmax lie in 0..30")
    return ours


def reach_of(magnitude_max: float, height: int, width: int) -> Reach:
    """Bounds of what a layer moves, from the largest level."""
    share = magnitude_max / FULL_LEVEL
    return Reach(ROTATE * share, SHEAR * share, SHEAR * share, TRANSLATE * share * width, TRANSLATE * share * height)


def motion_of(draw: Draw, height: int, width: int) -> Motion:
    """Rotation up to 30 degrees, shears up to 0.3, translations up to 0.45 of the side, of either sign, at the full level."""
    signed = draw.sign * draw.level / FULL_LEVEL

    def when(name: str, amount: float) -> Float[Array, "b"]:
        return jnp.where(_is(draw, name), signed * amount, 0.0)

    return Motion(
        angle=when("Rotate", ROTATE),
        shear_x=when("ShearX", SHEAR),
        shear_y=when("ShearY", SHEAR),
        move_x=when("TranslateXRel", TRANSLATE * width),
        move_y=when("TranslateYRel", TRANSLATE * height),
    )


def bits_of(level: Float[Array, "b"], increasing: bool) -> Float[Array, "b"]:
    """Bits that Posterize keeps: 0..4 with the level, or 4 minus that when increasing (10: an empty image, as in timm)."""
    kept = jnp.floor(level / FULL_LEVEL * 4)
    return jnp.clip(4 - kept if increasing else kept, 0, 8)


def threshold_of(level: Float[Array, "b"], increasing: bool) -> Float[Array, "b"]:
    """Threshold of Solarize: 0..256 with the level, or 256 minus that when increasing."""
    threshold = jnp.minimum(256, jnp.floor(level / FULL_LEVEL * 256))
    return 256 - threshold if increasing else threshold


def addition_of(level: Float[Array, "b"]) -> Float[Array, "b"]:
    """Grey levels that SolarizeAdd adds, 0..110."""
    return jnp.minimum(128, jnp.floor(level / FULL_LEVEL * SOLARIZE_ADD))


def factor_of(level: Float[Array, "b"], sign: Float[Array, "b"], increasing: bool) -> Float[Array, "b"]:
    """Blend factor of Color, Contrast, Brightness, Sharpness: 0.1 + 1.8 level/10, or when increasing 1 +- 0.9 level/10, at least 0.1."""
    share = ENHANCE * level / FULL_LEVEL
    return jnp.maximum(0.1, 1 + sign * share) if increasing else 0.1 + 2 * share


def apply_layer(
    image: UInt8[Array, "b h w c"], draw: Draw, *, increasing: bool, fill: tuple[int, ...], reach: Reach
) -> UInt8[Array, "b h w c"]:
    """One operation an example; `reach` bounds the motion (see `reach_of`)."""
    x = image.astype(jnp.float32)
    factor = factor_of(draw.level, draw.sign, increasing)
    threshold = jnp.where(_is(draw, "Solarize"), threshold_of(draw.level, increasing), jnp.where(_is(draw, "Invert"), 0, 256))
    # The fields that are read at a pixel's neighbours or over the whole image see the unchanged one: each example has one operation.
    other = jnp.where(_pick(draw, "Contrast"), color.mean_grey(x), jnp.where(_pick(draw, "Sharpness"), color.smooth(x), 0))
    blends = ["Contrast", "Brightness", "Sharpness"]
    if image.shape[-1] == 3:
        other = jnp.where(_pick(draw, "Color"), color.grey(x), other)
        blends.append("Color")
    blended = jnp.any(jnp.stack([_is(draw, name) for name in blends]), axis=0)
    y = color.blend(other, x, jnp.where(blended, factor, 1))
    y = color.solarize(y, threshold)
    y = color.solarize_add(y, jnp.where(_is(draw, "SolarizeAdd"), addition_of(draw.level), 0))
    y = color.posterize(y, jnp.where(_is(draw, "Posterize"), bits_of(draw.level, increasing), 8))
    y = jnp.where(_pick(draw, "AutoContrast"), color.autocontrast(x), y)
    y = jnp.where(_pick(draw, "Equalize"), color.equalize(x), y)
    return warp(y.astype(jnp.uint8), motion_of(draw, *image.shape[1:3]), fill, reach)


def _is(draw: Draw, name: str) -> Bool[Array, "b"]:
    return draw.operation == OPERATIONS.index(name)


def _pick(draw: Draw, name: str) -> Bool[Array, "b 1 1 1"]:
    return _is(draw, name)[:, None, None, None]

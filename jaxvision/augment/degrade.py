"""Degradation inside the step: the damaged picture of a pair is made from the clean one, so any folder of pictures is a data set of pairs.

A recipe is a tuple of steps, each a name or (name, strength) or (name, lowest, highest), drawn anew for each image where there are two strengths:

    ("bicubic",)                                     MATLAB's imresize by 1 / scale
    (("blur", 0.2, 3.0), "bicubic", ("noise", 0.0, 25 / 255), ("jpeg", 30, 95))
    ("real",)                                        the two-stage chain of augment/real_world.py

Pixels are in 0..1, lengths in pixels of the picture that the step gets, noise in units of the pixel range. Every draw belongs to an example's
row. A network of scale r needs one step that makes the picture smaller (bicubic, bicubic_cut, average, subsample, real), one of scale 1 none.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvision.augment.jpeg import jpeg
from jaxvision.augment.real_world import real_world
from jaxvision.augment.rows import row_keys
from jaxvision.errors import ConfigError, nearest
from jaxvision.kernels.block_resize import average_pool
from jaxvision.nn.resize import resize


def quantize(image: Float[Array, "..."]) -> Float[Array, "..."]:
    """Clipped to 0..1 and rounded to 1/255, as a picture in a file is."""
    return jnp.floor(jnp.clip(image, 0, 1) * 255 + 0.5) / 255


def _bicubic(key, row, image, scale, strength):
    return resize(image, (image.shape[1] // scale, image.shape[2] // scale))


def _bicubic_cut(key, row, image, scale, strength):
    return resize(image, (image.shape[1] // scale, image.shape[2] // scale), border="cut")


def _average(key, row, image, scale, strength):
    return average_pool(image, scale)


def _subsample(key, row, image, scale, strength):
    return image[:, ::scale, ::scale]


def _blur(key, row, image, scale, deviation):
    """A Gaussian of this deviation in pixels, the picture mirrored beyond its border, as two matrix products an image."""
    along = lambda size: jax.vmap(lambda d: _gaussian_matrix(size, d))(deviation)
    image = jnp.einsum("bph,bhwc->bpwc", along(image.shape[1]), image, precision="highest")
    return jnp.einsum("bqw,bpwc->bpqc", along(image.shape[2]), image, precision="highest")


def _gaussian_matrix(size: int, deviation: Array) -> Float[Array, "n n"]:
    distance = np.arange(size)[:, None] - np.arange(-size, 2 * size)
    weight = jnp.exp(-0.5 * (distance / jnp.maximum(deviation, 1e-3)) ** 2)
    weight = weight / weight.sum(1, keepdims=True)
    return weight[:, size : 2 * size] + weight[:, :size][:, ::-1] + weight[:, 2 * size :][:, ::-1]


def _noise(key, row, image, scale, deviation):
    normal = jax.vmap(lambda k: jax.random.normal(k, image.shape[1:]))(row_keys(key, row))
    return image + deviation[:, None, None, None] * normal


def _jpeg(key, row, image, scale, quality):
    return jpeg(quantize(image), jnp.round(quality))


def _real(key, row, image, scale, strength):
    return real_world(key, image, row, scale)


class Step(NamedTuple):
    """A function of (key, row, image, scale, strength an image), whether it divides the size by `scale`, and the strengths it can have."""

    function: Callable
    shrinks: bool = False
    limits: tuple[float, float] | None = None


STEPS = {
    "bicubic": Step(_bicubic, True),
    "bicubic_cut": Step(_bicubic_cut, True),
    "average": Step(_average, True),
    "subsample": Step(_subsample, True),
    "blur": Step(_blur, limits=(0.0, 50.0)),
    "noise": Step(_noise, limits=(0.0, 10.0)),
    "jpeg": Step(_jpeg, limits=(1, 100)),
    "real": Step(_real, True),
}


@dataclasses.dataclass(frozen=True)
class Degrade:
    """A recipe, read and checked; hashable.

    Attributes:
      steps: ((name, lowest strength, highest strength), …).
      scale: by which the picture shrinks.
      rounded: the result is rounded to 8 bits and clipped, as files are.
    """

    steps: tuple[tuple[str, float, float], ...]
    scale: int
    rounded: bool = True

    def __call__(self, key: Array, image: Float[Array, "b h w c"], row: Int[Array, "b"]) -> Float[Array, "b p q c"]:
        """The damaged pictures of clean ones in 0..1. Raises ConfigError when the sides do not divide by `scale`."""
        if image.shape[1] % self.scale or image.shape[2] % self.scale:
            size = f"{image.shape[1]} x {image.shape[2]}"
            raise ConfigError(f"pictures of {size} do not shrink by {self.scale}: image_size and task.patch are multiples of it")
        for number, (name, low, high) in enumerate(self.steps):
            step_key = jax.random.fold_in(key, number)
            draw = jax.vmap(lambda k: jax.random.uniform(k))(row_keys(jax.random.fold_in(step_key, 1), row))
            image = STEPS[name].function(jax.random.fold_in(step_key, 0), row, image, self.scale, low + (high - low) * draw)
        return quantize(image) if self.rounded else image


def make_degrade(recipe: Sequence[Any], scale: int, rounded: bool = True) -> Degrade:
    """Reads a recipe. Raises ConfigError: an unknown step, a strength outside its range, a size that the steps do not bring about."""
    steps = []
    for item in recipe:
        name, *strength = item if isinstance(item, tuple | list) else (item,)
        if name not in STEPS:
            raise ConfigError(f"task.degrade has a step {name!r}; {nearest(name, STEPS)}")
        limits = STEPS[name].limits
        if len(strength) not in ((1, 2) if limits else (0,)):
            takes = "one strength, or the lowest and the highest" if limits else "no strength"
            raise ConfigError(f"task.degrade: {name!r} takes {takes}, got {item!r}")
        low, high = (strength * 2)[:2] if strength else (0.0, 0.0)
        if limits and not limits[0] <= low <= high <= limits[1]:
            raise ConfigError(f"task.degrade: the strength of {name!r} must lie in {limits[0]:g}..{limits[1]:g}, got {item!r}")
        steps.append((name, float(low), float(high)))
    shrinking = [name for name, *_ in steps if STEPS[name].shrinks]
    if len(shrinking) != (scale > 1):
        wanted = "exactly one step that makes the picture smaller" if scale > 1 else "no step that makes the picture smaller"
        raise ConfigError(f"task.degrade for a network of scale {scale} needs {wanted}, got {', '.join(shrinking) or 'none'}")
    return Degrade(tuple(steps), scale, rounded)

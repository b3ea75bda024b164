"""Augmentation of clips: one draw a clip, the same for all its frames, and frames that are shown twice.

Whatever `augment/pipeline.py` does to a picture it does here to every frame by the same random numbers: mirrored, shifted, jittered and erased alike.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from jaxvision.augment.pipeline import Augment, make_augment
from jaxvision.augment.rows import row_keys
from jaxvision.errors import ConfigError


def repeat_frames(key: Array, clip: Num[Array, "b t h w c"], row: Int[Array, "b"], probability: float) -> Num[Array, "b t h w c"]:
    """Each frame but the first is replaced, with this probability, by what is shown before it."""
    t = clip.shape[1]
    again = jax.vmap(lambda k: jax.random.bernoulli(k, probability, (t,)))(row_keys(key, row))
    source = jax.lax.cummax(jnp.where(again, 0, jnp.arange(t)), axis=1)
    return jnp.take_along_axis(clip, source[:, :, None, None, None], axis=1)


@dataclasses.dataclass(frozen=True)
class ClipAugment:
    """Static settings; hashable. `frames`: of each frame. `repeat`: probability of showing the frame before instead."""

    frames: Augment
    repeat: float = 0.0

    def __call__(self, key: Array, clip: Num[Array, "b t h w c"], row: Int[Array, "b"]) -> Float[Array, "b t h w c"]:
        """Repeated and augmented frames, normalized. `row`: the clips' numbers in the global batch."""
        if self.repeat:
            clip = repeat_frames(jax.random.fold_in(key, 0), clip, row, self.repeat)
        key = jax.random.fold_in(key, 1)
        return jax.vmap(lambda frame: self.frames.image(key, frame, row), in_axes=1, out_axes=1)(clip)

    def normalize(self, clip: Num[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """What evaluation does instead."""
        return self.frames.normalize(clip)


def make_clip_augment(config: Mapping[str, Any], *, mean: tuple[float, ...], std: tuple[float, ...]) -> ClipAugment:
    """Reads `config.augment`: `repeat`, a probability, and the keys of pictures (see `make_augment`); those that mix examples do not act on clips.

    Raises ConfigError as `make_augment` does, and for a key that mixes examples.
    """
    settings = {key: config[key] for key in config}
    repeat = settings.pop("repeat", None) or 0.0
    if not isinstance(repeat, int | float) or not 0 <= repeat <= 1:
        raise ConfigError(f"augment.repeat is {repeat!r}, must be a number in 0..1")
    for key in ("mixup", "cutmix", "patch_mixing"):
        if settings.get(key, None):
            raise ConfigError(f"augment.{key} mixes pictures and their labels; clips with texts are not mixed, leave it out")
    return ClipAugment(make_augment(settings, mean=mean, std=std), float(repeat))

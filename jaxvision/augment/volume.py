"""Augmentation of volumes with their masks, inside the step: flips, rotation and scaling, noise, blur, brightness, contrast, gamma.

The kinds and their probabilities are those of nnU-Net (Isensee et al. 2021), without its simulated low resolution; each example draws its own.
Rotation and scaling are one gather of eight neighbours a voxel for the volume, and of one for the mask; the border is repeated.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxvision.augment.rows import row_keys
from jaxvision.errors import ConfigError, nearest

# Share of the examples that each change happens to.
PROBABILITIES = {"rotate": 0.2, "scale": 0.2, "noise": 0.1, "blur": 0.2, "brightness": 0.15, "contrast": 0.15, "gamma": 0.3}
_TAPS = 3  # on each side, of a blur


@dataclasses.dataclass(frozen=True)
class VolumeAugment:
    """Settings; 0 or () is off.

    Attributes:
      flip: axes of (D, H, W) that are mirrored, each with probability 1/2.
      rotate: largest angles in degrees about the D, H and W axes.
      scale: smallest and largest factor by which the picture grows.
      aspect: size of a voxel along D, H, W, in any unit; rotations are rigid in it.
      noise: largest variance. blur: smallest and largest deviation in voxels. brightness, contrast: factors within 1 -+ this.
      gamma: smallest and largest exponent of values brought to 0..1.
    """

    flip: tuple[int, ...] = ()
    rotate: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    aspect: tuple[float, float, float] = (1.0, 1.0, 1.0)
    noise: float = 0.0
    blur: tuple[float, float] = ()
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: tuple[float, float] = ()

    def __call__(
        self, key: Array, volume: Float[Array, "b d h w c"], mask: Int[Array, "b d h w"], row: Int[Array, "b"]
    ) -> tuple[Float[Array, "b d h w c"], Int[Array, "b d h w"]]:
        """Volumes and masks changed alike; `row` are the examples' numbers in the global batch, which choose the random numbers."""
        return jax.vmap(self._one)(row_keys(key, row), volume, mask)

    def _one(self, key, volume, mask):
        keys = dict(zip(("flip", *PROBABILITIES), jax.random.split(key, 1 + len(PROBABILITIES))))
        happens = {name: jax.random.bernoulli(jax.random.fold_in(keys[name], 9), share) for name, share in PROBABILITIES.items()}
        if any(self.rotate) or self.scale != (1.0, 1.0):
            volume, mask = self._warped(keys, happens, volume, mask)
        mirrored = jax.random.bernoulli(keys["flip"], 0.5, (3,))
        for axis in self.flip:
            volume, mask = (jnp.where(mirrored[axis], jnp.flip(x, axis), x) for x in (volume, mask))
        changes = [(name, getattr(self, f"_{name}")) for name in ("noise", "blur", "brightness", "contrast", "gamma") if getattr(self, name)]
        for name, change in changes:
            volume = jnp.where(happens[name], change(keys[name], volume), volume)
        return volume, mask

    def _warped(self, keys, happens, volume, mask):
        size = volume.shape[:3]
        limit = jnp.radians(jnp.asarray(self.rotate))
        angles = jnp.where(happens["rotate"], jax.random.uniform(keys["rotate"], (3,), minval=-limit, maxval=limit), 0.0)
        factor = jnp.where(happens["scale"], jax.random.uniform(keys["scale"], minval=self.scale[0], maxval=self.scale[1]), 1.0)
        aspect = jnp.asarray(self.aspect)
        matrix = rotation(angles) * (aspect[None] / aspect[:, None]) / factor
        places = jnp.stack(jnp.meshgrid(*(jnp.arange(n) - (n - 1) / 2 for n in size), indexing="ij"))
        places = jnp.einsum("ij,jdhw->idhw", matrix, places) + (jnp.asarray(size)[:, None, None, None] - 1) / 2
        sample = lambda x, order: jax.scipy.ndimage.map_coordinates(x, list(places), order=order, mode="nearest")
        return jnp.stack([sample(volume[..., c], 1) for c in range(volume.shape[-1])], -1), sample(mask, 0).astype(mask.dtype)

    def _noise(self, key, volume):
        first, second = jax.random.split(key)
        return volume + jnp.sqrt(jax.random.uniform(first, maxval=self.noise)) * jax.random.normal(second, volume.shape)

    def _blur(self, key, volume):
        deviation = jax.random.uniform(key, minval=self.blur[0], maxval=self.blur[1])
        weights = jnp.exp(-0.5 * (jnp.arange(-_TAPS, _TAPS + 1) / deviation) ** 2)
        for axis in range(3):
            around = jnp.pad(volume, [(_TAPS, _TAPS) if i == axis else (0, 0) for i in range(4)], mode="edge")
            taps = (jax.lax.slice_in_dim(around, i, i + volume.shape[axis], axis=axis) * w for i, w in enumerate(weights / weights.sum()))
            volume = sum(taps)
        return volume

    def _brightness(self, key, volume):
        return volume * jax.random.uniform(key, minval=1 - self.brightness, maxval=1 + self.brightness)

    def _contrast(self, key, volume):
        mean = volume.mean((0, 1, 2), keepdims=True)
        made = mean + (volume - mean) * jax.random.uniform(key, minval=1 - self.contrast, maxval=1 + self.contrast)
        return jnp.clip(made, volume.min((0, 1, 2), keepdims=True), volume.max((0, 1, 2), keepdims=True))

    def _gamma(self, key, volume):
        """With mean and deviation as they were."""
        axes = {"axis": (0, 1, 2), "keepdims": True}
        low = volume.min(**axes)
        reach = volume.max(**axes) - low
        made = ((volume - low) / (reach + 1e-7)) ** jax.random.uniform(key, minval=self.gamma[0], maxval=self.gamma[1]) * reach + low
        return (made - made.mean(**axes)) / (made.std(**axes) + 1e-7) * volume.std(**axes) + volume.mean(**axes)


def rotation(angles: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """The product of rotations by angles about the axes D, H, W, in radians, of coordinates (d, h, w)."""
    result = jnp.eye(3)
    for axis, (i, j) in enumerate(((1, 2), (0, 2), (0, 1))):
        cos, sin = jnp.cos(angles[axis]), jnp.sin(angles[axis])
        turn = jnp.eye(3).at[i, i].set(cos).at[j, j].set(cos).at[i, j].set(-sin).at[j, i].set(sin)
        result = result @ turn
    return result


def make_volume_augment(config: Mapping[str, Any], aspect: tuple[float, ...] | None) -> VolumeAugment:
    """Reads `config.augment` of a run on volumes; a key that is absent, None, False or 0 is off.

    flip: True, or axes such as (1, 2). rotate: degrees, one number or three about D, H, W. scale: (smallest, largest). noise: variance. blur:
    (smallest, largest) deviation. brightness, contrast: shares. gamma: (smallest, largest). Raises ConfigError for another key or value.
    """
    known = {field.name for field in dataclasses.fields(VolumeAugment)} - {"aspect"}
    settings: dict[str, Any] = {"aspect": tuple(map(float, aspect or (1, 1, 1)))}
    lengths = {"rotate": 3, "scale": 2, "blur": 2, "gamma": 2}
    for key, value in config.items():
        if key not in known:
            raise ConfigError(f"augment.{key} is unknown for volumes; {nearest(key, known)}")
        if not value:
            continue
        if key == "flip":
            value = (0, 1, 2) if value is True else tuple(value)
        elif key == "rotate" and isinstance(value, (int, float)):
            value = (float(value),) * 3
        try:
            value = tuple(map(float, value)) if key in lengths else value if key == "flip" else float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"augment.{key} is {value!r}; see augment/volume.py for what it takes") from None
        fits = len(value) == lengths[key] if key in lengths else key != "flip" or set(value) <= {0, 1, 2}
        if not fits:
            raise ConfigError(f"augment.{key} is {value!r}; see augment/volume.py for what it takes")
        settings[key] = value
    return VolumeAugment(**settings)

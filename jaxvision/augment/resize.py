"""Lanczos down-sampling as Pillow does it, inside the step: what EfficientTrain++ (Wang et al. 2024, arXiv 2405.08768) puts in place of the spectrum
crop.

Two static matrix products, along the rows first as Pillow does for square pictures, each rounded to grey levels. Pillow's weights are in fixed
point, so a pixel in some thousands differs by one grey level.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxvision.errors import ConfigError

SUPPORT = 3.0


@functools.cache
def lanczos_matrix(full: int, size: int) -> Float[np.ndarray, "size full"]:
    """Weights of `size` output pixels over `full` input ones: sinc(x) sinc(x / 3), stretched by full / size, cut at the border, of sum 1."""
    stretch = max(full / size, 1.0)
    x = (np.arange(full)[None] + 0.5 - (np.arange(size)[:, None] + 0.5) * full / size) / stretch
    weights = np.where(np.abs(x) < SUPPORT, np.sinc(x) * np.sinc(x / SUPPORT), 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def lanczos(image: UInt8[Array, "b h w c"], size: tuple[int, int]) -> UInt8[Array, "b p q c"]:
    """The images at `size`. Raises ConfigError for other types than uint8, whose grey levels Pillow's result is rounded to."""
    if image.dtype != jnp.uint8:
        raise ConfigError(f"a phase's crop 'resize' is defined for uint8 images, not {image.dtype}; 'spectrum' takes any")
    rows, columns = (lanczos_matrix(full, small) for full, small in zip(image.shape[1:3], size))
    level = lambda x: jnp.clip(jnp.floor(x + 0.5), 0, 255)
    across = level(jnp.einsum("qw,bhwc->bhqc", columns, jax.lax.stop_gradient(image).astype(jnp.float32), precision="highest"))
    return level(jnp.einsum("ph,bhqc->bpqc", rows, across, precision="highest")).astype(jnp.uint8)

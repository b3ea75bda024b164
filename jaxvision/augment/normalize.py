"""From stored pixels to what a network reads."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxvision.errors import ConfigError


def normalize(image: Num[Array, "b h w c"], mean: Sequence[float], std: Sequence[float]) -> Float[Array, "b h w c"]:
    """float32 `(image / scale - mean) / std`, a channel; scale is the largest value of an integer type (255, 65535) and 1 for floats.

    Raises:
      ConfigError: when `mean` and `std` do not have one number a channel.
    """
    channels = image.shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise ConfigError(f"mean {tuple(mean)} and std {tuple(std)} must have one number for each of the {channels} channels of the image")
    scale = jnp.iinfo(image.dtype).max if jnp.issubdtype(image.dtype, jnp.integer) else 1
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return image.astype(jnp.float32) * (1 / (scale * std)) - mean / std

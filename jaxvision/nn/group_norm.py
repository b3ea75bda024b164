"""Group normalization (Wu and He 2018, arXiv 1803.08494): statistics of one example over the map and a group of channels, in float32."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.kernels.normalize import standardize


class GroupNorm(nn.Module):
    """Normalizes each of `groups` blocks of neighbouring channels of each example.

    `train` changes nothing; it is taken so that the layer may stand wherever a `BatchNorm` does.
    """

    groups: int = 32
    epsilon: float = 1e-5
    use_bias: bool = True
    scale_init: Any = nn.initializers.ones
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"], *, train: bool = False) -> Float[Array, "b ... c"]:
        dim = x.shape[-1]
        if dim % self.groups:
            raise ModelError(f"{dim} channels do not divide into {self.groups} groups for group normalization")
        grouped = x.reshape(*x.shape[:-1], self.groups, dim // self.groups)
        y = standardize(grouped, (*range(1, x.ndim - 1), grouped.ndim - 1), self.epsilon).reshape(x.shape)
        scale = self.param("scale", self.scale_init, (dim,), self.param_dtype)
        y = y * scale
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (dim,), self.param_dtype)
        return y.astype(self.dtype)

"""Convolution with weight standardization (Qiao et al. 2019, arXiv 1903.10520): every filter has mean 0 and variance 1 before it is used."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.nn.conv import convolve, explicit_padding


class StandardizedConv(nn.Module):
    """A 2-D convolution without bias whose filters are standardized over rows, columns and input channels, in float32.

    Attributes:
      epsilon: added to a filter's variance.
    """

    features: int
    kernel_size: int
    strides: int = 1
    epsilon: float = 1e-8
    kernel_init: Callable = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        window = (self.kernel_size, self.kernel_size)
        kernel = self.param("kernel", self.kernel_init, (*window, x.shape[-1], self.features), self.param_dtype).astype(jnp.float32)
        centred = kernel - kernel.mean((0, 1, 2))
        kernel = centred * jax.lax.rsqrt(jnp.square(centred).mean((0, 1, 2)) + self.epsilon)
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, explicit_padding(None, window, (1, 1)))

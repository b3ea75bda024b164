"""Squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507): each channel is scaled by a gate computed from the means of all channels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.nn.conv import Conv


class SqueezeExcite(nn.Module):
    """x * gate(expand(activation(reduce(mean of x)))), both 1x1 convolutions with bias.

    Attributes:
      reduced: channels between the two.
      names: of the two convolutions; timm calls them fc1, fc2 in ResNet-like networks and conv_reduce, conv_expand in EfficientNets.
    """

    reduced: int
    activation: Callable = nn.relu
    gate: Callable = jax.nn.sigmoid
    names: tuple[str, str] = ("fc1", "fc2")
    kernel_init: Callable = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        shared = {"kernel_init": self.kernel_init, "dtype": self.dtype, "param_dtype": self.param_dtype}
        mean = x.astype(jnp.float32).mean((1, 2), keepdims=True)
        y = self.activation(Conv(self.reduced, **shared, name=self.names[0])(mean))
        return x * self.gate(Conv(x.shape[-1], **shared, name=self.names[1])(y))

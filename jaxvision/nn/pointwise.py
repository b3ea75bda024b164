"""The same linear map at every pixel: a 1x1 convolution, or a dense layer over channels, computed as one matrix product either way."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.kernels.dense import dense
from jaxvision.kernels.wide import add_bias
from jaxvision.nn.resizing import resizable


class Pointwise(nn.Module):
    """x @ kernel + bias over the last axis.

    Attributes:
      as_conv: the kernel has a 1x1 convolution's shape (1, 1, in, features), as the checkpoints of some models have it; else (in, features).
    """

    features: int
    as_conv: bool = True
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... d"]:
        kernel, bias = self.weights(x.shape[-1])
        y = dense(x.astype(self.dtype), kernel.astype(self.dtype))
        return y if bias is None else add_bias(y, bias)

    @nn.compact
    def weights(self, channels: int) -> tuple[Float[Array, "c d"], Float[Array, "d"] | None]:
        """Kernel and bias, as parameters have them, for an op that computes more than this layer; None without bias."""
        shape = (channels, resizable(self, "features", self.features))
        kernel = self.param("kernel", self.kernel_init, (1, 1, *shape) if self.as_conv else shape, self.param_dtype)
        return kernel.reshape(shape), self.param("bias", self.bias_init, shape[1:], self.param_dtype) if self.use_bias else None


Dense = functools.partial(Pointwise, as_conv=False)

"""The same linear map at every pixel: a 1x1 convolution, or a dense layer over channels, computed as one matrix product either way."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.kernels.dense import dense
from jaxvision.nn.resizing import resizable
from jaxvision.nn.wide import add_bias


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

    @nn.compact
    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... d"]:
        shape = (x.shape[-1], resizable(self, "features", self.features))
        kernel = self.param("kernel", self.kernel_init, (1, 1, *shape) if self.as_conv else shape, self.param_dtype)
        y = dense(x.astype(self.dtype), kernel.reshape(shape).astype(self.dtype))
        if self.use_bias:
            y = add_bias(y, self.param("bias", self.bias_init, shape[1:], self.param_dtype))
        return y


Dense = functools.partial(Pointwise, as_conv=False)

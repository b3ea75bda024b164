"""The end of a convolutional classifier: global mean, dropout, one dense layer; and PyTorch's initial values of such a layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> Callable:
    """An initializer: uniform within 1 / sqrt(fan_in), as torch.nn.Linear and Conv2d start their biases."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def global_mean(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """Mean over rows and columns in float32."""
    return x.astype(jnp.float32).mean((1, 2))


class Classifier(nn.Module):
    """A dense layer whose logits are float32 whatever the parameters' dtype.

    Attributes:
      features: number of classes.
      kernel_init, bias_init: PyTorch's own when left out.
    """

    features: int
    kernel_init: Callable = torch_kernel
    bias_init: Callable | None = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b c"]) -> Float[Array, "b classes"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init or torch_bias(x.shape[-1]), (self.features,), self.param_dtype)
        return x.astype(jnp.float32) @ kernel.astype(jnp.float32) + bias.astype(jnp.float32)

"""Two-layer perceptrons."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.kernels.mlp import gelu
from jaxvision.nn.pointwise import Dense
from jaxvision.nn.taps import tap

gelu_tanh = functools.partial(nn.gelu, approximate=True)
ACTIVATIONS = {"gelu": gelu, "gelu_tanh": gelu_tanh, "relu": nn.relu, "silu": nn.silu}


class Mlp(nn.Module):
    """Dense (`fc1`), activation, dropout, dense (`fc2`), dropout, as in every transformer block; `hidden` is the inner width."""

    hidden: int
    out: int | None = None
    activation: Callable = gelu
    dropout: float = 0.0
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.xavier_uniform()
    bias_init: Callable = nn.initializers.normal(1e-6)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... d"], *, train: bool = False) -> Float[Array, "... o"]:
        dense = functools.partial(
            Dense,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        y = dense(self.hidden, name="fc1")(x)
        tap(self, "pre_activation", lambda: y)
        y = self.activation(y)
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        y = dense(self.out or x.shape[-1], name="fc2")(y)
        return nn.Dropout(self.dropout)(y, deterministic=not train)

"""Multi-head self-attention."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.kernels.attention import attention_weights, self_attention
from jaxvision.nn.taps import tap


def weights_of(qkv: Float[Array, "b t m"], heads: int, bias: Float[Array, "#b #n t t"] | None = None) -> Float[Array, "b n t t"]:
    """What `self_attention` weighs the values with, float32."""
    b, t, width = *qkv.shape[:2], qkv.shape[2] // (3 * heads)
    q, k, _ = jnp.moveaxis(qkv.reshape(b, t, 3, heads, width), 2, 0)
    return attention_weights(q, k, bias)


class Attention(nn.Module):
    """Self-attention with one fused projection `qkv` (d -> 3 d, ordered q, k, v, each heads x width as timm has it) and `proj`.

    Taps `weights` (B, heads, T, T), float32.
    """

    heads: int
    qkv_bias: bool = True
    dropout: float = 0.0
    kernel_init: Callable = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    proj_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], bias: Float[Array, "#b #n t t"] | None = None, *, train: bool = False):
        dim = x.shape[-1]
        # Each of q, k, v has a d x d matrix: its fans are those of a square matrix, not of the fused one.
        def init(key, shape, dtype):
            return jnp.concatenate([self.kernel_init(k, (dim, dim), dtype) for k in jax.random.split(key, 3)], axis=1)

        qkv = nn.Dense(3 * dim, use_bias=self.qkv_bias, kernel_init=init, dtype=self.dtype, param_dtype=self.param_dtype, name="qkv")(x)
        tap(self, "weights", lambda: weights_of(qkv, self.heads, bias))
        y = self_attention(qkv, self.heads, bias)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = nn.Dense(dim, use_bias=self.proj_bias, kernel_init=self.kernel_init, **dtypes, name="proj")(y)
        return nn.Dropout(self.dropout)(y, deterministic=not train)

"""Multi-head self-attention."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.nn.taps import tap


def dot_product_attention(
    q: Float[Array, "b q n k"], k: Float[Array, "b t n k"], v: Float[Array, "b t n d"], bias: Float[Array, "#b #n q t"] | None = None
) -> Float[Array, "b q n d"]:
    """softmax(q k^T / sqrt(k) + bias) v with scores and softmax in float32; the result has v's dtype."""
    return jnp.einsum("bnqt,btnd->bqnd", attention_weights(q, k, bias).astype(v.dtype), v)


def attention_weights(
    q: Float[Array, "b q n k"], k: Float[Array, "b t n k"], bias: Float[Array, "#b #n q t"] | None = None
) -> Float[Array, "b n q t"]:
    """softmax(q k^T / sqrt(k) + bias) in float32."""
    scores = jnp.einsum("bqnk,btnk->bnqt", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    return jax.nn.softmax(scores, axis=-1)


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
        b, t, dim = x.shape
        # Each of q, k, v has a d x d matrix: its fans are those of a square matrix, not of the fused one.
        def init(key, shape, dtype):
            return jnp.concatenate([self.kernel_init(k, (dim, dim), dtype) for k in jax.random.split(key, 3)], axis=1)

        qkv = nn.Dense(3 * dim, use_bias=self.qkv_bias, kernel_init=init, dtype=self.dtype, param_dtype=self.param_dtype, name="qkv")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(b, t, 3, self.heads, dim // self.heads), 2, 0)
        tap(self, "weights", lambda: attention_weights(q, k, bias))
        y = dot_product_attention(q, k, v, bias).reshape(b, t, dim)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = nn.Dense(dim, use_bias=self.proj_bias, kernel_init=self.kernel_init, **dtypes, name="proj")(y)
        return nn.Dropout(self.dropout)(y, deterministic=not train)

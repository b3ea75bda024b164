"""Multi-head self-attention."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.kernels.attention import attention_weights, self_attention
from jaxvision.kernels.dense import dense
from jaxvision.kernels.norm_dense import ahead, norm_dense
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.pointwise import Dense
from jaxvision.nn.resizing import resizable
from jaxvision.nn.taps import tap, watched


class QKV(nn.Module):
    """(x @ kernel, bias or None): the projection that makes q, k and v, its bias left for `self_attention` to add.

    With `norm`, which has a scale and a bias, that of norm(x), in one op where a kernel is ahead (kernels/norm_dense): the norm's bias is then
    multiplied by the kernel and part of the bias that is returned.
    """

    features: int
    use_bias: bool
    kernel_init: Callable
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... d"], norm: LayerNorm | None = None) -> tuple[Float[Array, "... m"], Float[Array, "m"] | None]:
        features = resizable(self, "features", self.features)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (features,), self.param_dtype) if self.use_bias else None
        if norm is not None and x.dtype == self.dtype and ahead(x, features) and not watched(self):
            scale, shift = norm.affine(x.shape[-1])
            shift = jnp.dot(shift, kernel, precision="highest")
            y = norm_dense(x, scale[:, None] * kernel, epsilon=norm.epsilon)
            return y, (shift if bias is None else bias + shift).astype(self.dtype)
        x = x if norm is None else norm(x)
        return dense(x.astype(self.dtype), kernel.astype(self.dtype)), None if bias is None else bias.astype(self.dtype)


def weights_of(qkv: Float[Array, "b t m"], heads: int, bias: Float[Array, "#b #n t t"] | None = None, *, offset=None) -> Float[Array, "b n t t"]:
    """What `self_attention` weighs the values with, float32."""
    qkv = qkv if offset is None else qkv + offset
    b, t, width = *qkv.shape[:2], qkv.shape[2] // (3 * heads)
    q, k, _ = jnp.moveaxis(qkv.reshape(b, t, 3, heads, width), 2, 0)
    return attention_weights(q, k, bias)


class Attention(nn.Module):
    """Self-attention with one fused projection `qkv` (d -> 3 d, ordered q, k, v, each heads x width as timm has it) and `proj`.

    Taps `weights` (B, heads, T, T), float32. Called with `norm` it is attention over norm(x).
    """

    heads: int
    qkv_bias: bool = True
    dropout: float = 0.0
    kernel_init: Callable = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    proj_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "#b #n t t"] | None = None, *, norm: LayerNorm | None = None, train: bool = False
    ) -> Float[Array, "b t d"]:
        dim = x.shape[-1]

        # Each of q, k, v has a d x d matrix: its fans are those of a square matrix, not of the fused one.
        def init(key, shape, dtype):
            width = shape[1] // 3
            return jnp.concatenate([self.kernel_init(k, (dim, max(dim, width)), dtype)[:, :width] for k in jax.random.split(key, 3)], axis=1)

        heads, dtypes = resizable(self, "heads", self.heads), {"dtype": self.dtype, "param_dtype": self.param_dtype}
        qkv, offset = QKV(3 * dim, self.qkv_bias, init, **dtypes, name="qkv")(x, norm)
        tap(self, "weights", lambda: weights_of(qkv, heads, bias, offset=offset))
        y = self_attention(qkv, heads, bias, offset=offset)
        y = Dense(dim, use_bias=self.proj_bias, kernel_init=self.kernel_init, **dtypes, name="proj")(y)
        return nn.Dropout(self.dropout)(y, deterministic=not train)

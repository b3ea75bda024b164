"""Normalization. Statistics and arithmetic are float32 whatever the dtype; the result is cast to `dtype`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ConfigError
from jaxvision.kernels.normalize import normalize, standardize


class LayerNorm(nn.Module):
    """Layer normalization over the last axis (Ba et al. 2016, arXiv 1607.06450). `epsilon` is timm's 1e-6 for vision models."""

    epsilon: float = 1e-6
    use_bias: bool = True
    use_scale: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        scale, bias = self.affine(x.shape[-1])
        y = standardize(x, (x.ndim - 1,), self.epsilon)
        y = y if scale is None else y * scale
        y = y if bias is None else y + bias
        return y.astype(self.dtype)

    @nn.compact
    def affine(self, dim: int) -> tuple[Float[Array, "d"] | None, Float[Array, "d"] | None]:
        """Scale and bias, for an op that normalizes by itself; None where there is none."""
        scale = self.param("scale", nn.initializers.ones, (dim,), self.param_dtype) if self.use_scale else None
        return scale, self.param("bias", nn.initializers.zeros, (dim,), self.param_dtype) if self.use_bias else None


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe and Szegedy 2015, arXiv 1502.03167) whose statistics do not depend on the number of devices.

    In training the batch is cut into `groups` equal blocks of neighbouring rows, each normalized by its own mean and biased variance (1 = the
    global batch, under any sharding); running statistics move by the mean over groups, the variance unbiased as PyTorch keeps it.

    Attributes:
      momentum: share of the old running statistics kept a step (PyTorch's `momentum` is one minus this).
      epsilon: added to the variance.
      groups: blocks of the batch with statistics of their own.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    groups: int = 1
    use_bias: bool = True
    use_scale: bool = True
    scale_init: Any = nn.initializers.ones
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"], *, train: bool) -> Float[Array, "b ... c"]:
        dim = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (dim,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (dim,), jnp.float32)
        scale = self.param("scale", self.scale_init, (dim,), self.param_dtype) if self.use_scale else jnp.ones(dim)
        bias = self.param("bias", nn.initializers.zeros, (dim,), self.param_dtype) if self.use_bias else jnp.zeros(dim)
        if not train:
            y = (x.astype(jnp.float32) - running_mean.value) * (jax.lax.rsqrt(running_var.value + self.epsilon) * scale) + bias
            return y.astype(self.dtype)
        if x.shape[0] % self.groups:
            raise ConfigError(f"model.norm_groups={self.groups} does not divide the batch of {x.shape[0]} examples")
        grouped = x.astype(jnp.float32).reshape(self.groups, x.shape[0] // self.groups, *x.shape[1:])
        last = (1,) * (grouped.ndim - 1) + (dim,)
        gain, shift = (v.astype(jnp.float32).reshape(last) for v in (scale, bias))
        y, mean, var = normalize(grouped, gain, shift, tuple(range(1, grouped.ndim - 1)), self.epsilon)
        if not self.is_initializing():
            count = grouped.size // (self.groups * dim)
            unbiased = var * (count / max(count - 1, 1))
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean.reshape(self.groups, dim).mean(0)
            running_var.value = keep * running_var.value + (1 - keep) * unbiased.reshape(self.groups, dim).mean(0)
        return y.reshape(x.shape).astype(self.dtype)

"""Normalization. Statistics and arithmetic are float32 whatever the dtype; the result is cast to `dtype`."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ConfigError


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def normalize(
    x: Float[Array, "..."], gain: Float[Array, "..."], shift: Float[Array, "..."], axes: Sequence[int], epsilon: float
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """(x - mean) / sqrt(variance + epsilon) * gain + shift, the mean, and the biased variance, both over `axes`, which they keep with length 1.

    `gain` and `shift` have the statistics' number of axes, and broadcast with them. The forward derivative is written so that its transpose
    is the closed form with two sums, of the gradient and of its product with x - mean; what JAX derives by itself takes four.
    """
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    variance = jnp.square(centred).mean(axes, keepdims=True)
    return centred * (jax.lax.rsqrt(variance + epsilon) * gain) + shift, mean, variance


@normalize.defjvp
def _normalize_jvp(axes, epsilon, primals, tangents):
    (x, gain, shift), (dx, dgain, dshift) = primals, tangents
    y, mean, variance = normalize(x, gain, shift, axes, epsilon)
    count, centred, scale = x.size // mean.size, x - mean, jax.lax.rsqrt(variance + epsilon)
    dmean, half = dx.sum(axes, keepdims=True) / count, (centred * dx).sum(axes, keepdims=True) / count
    slope = scale * gain
    dy = slope * dx + centred * (scale * dgain - slope * jnp.square(scale) * half) + (dshift - slope * dmean)
    return (y, mean, variance), (dy, dmean, 2 * half)


def standardize(x: Float[Array, "..."], axes: Sequence[int], epsilon: float) -> Float[Array, "..."]:
    """(x - mean) / sqrt(variance + epsilon) over `axes`, in float32."""
    one = jnp.ones((1,) * x.ndim)
    return normalize(x.astype(jnp.float32), one, jnp.zeros_like(one), tuple(axes), epsilon)[0]


class LayerNorm(nn.Module):
    """Layer normalization over the last axis (Ba et al. 2016, arXiv 1607.06450). `epsilon` is timm's 1e-6 for vision models."""

    epsilon: float = 1e-6
    use_bias: bool = True
    use_scale: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        dim = x.shape[-1]
        y = standardize(x, (x.ndim - 1,), self.epsilon)
        if self.use_scale:
            y = y * self.param("scale", nn.initializers.ones, (dim,), self.param_dtype)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (dim,), self.param_dtype)
        return y.astype(self.dtype)


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

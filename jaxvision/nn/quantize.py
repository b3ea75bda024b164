"""Quantization-aware training: weights and activations rounded to few bits in the forward pass, derivatives passed straight through.

The rules are those of CoDeNet's public code (Dong et al. 2021, arXiv 2006.08357; its quantizer is that of Dong et al. 2019, HAWQ, 1905.03696).
Weights: symmetric, a range for each output channel, the batch norm that follows folded into them by its running statistics, which stay as they are.
Activations: asymmetric, one range a tensor that follows its least and largest value slowly; values outside of it are rounded on the same grid, and
not cut. We keep ranges still in evaluation, where the public code goes on moving them.

A network takes a `Quantization` or None and calls `conv_norm`, `conv`, `Activation` for its layers: parameters have the same names either way, so
a float checkpoint starts a quantized network; only the ranges are new (`RANGES`).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.nn.conv import Conv, convolve, explicit_padding
from jaxvision.nn.norm import BatchNorm

RANGES = r".*/(x_min|x_max)"  # leaves that a float network does not have
LOWER, UPPER = 0.001, 0.999  # of values, where ranges are percentiles
SMALL = 10  # a channel of fewer weights has no such percentiles: its range shrinks by a twentieth


@dataclasses.dataclass(frozen=True)
class Quantization:
    """Bits and ranges.

    Attributes:
      weight_bits: of all weights but the first convolution's, which have `first_bits`.
      activation_bits: of what layers hand on.
      percentile: weights range from their 0.1 to their 99.9 percentile instead of from least to largest.
      activation_percentile: the same of activations; a sort of each of them.
      momentum: share of an activation's old range that a step keeps.
    """

    weight_bits: int = 4
    activation_bits: int = 8
    first_bits: int = 8
    percentile: bool = False
    activation_percentile: bool = False
    momentum: float = 0.99

    def __post_init__(self):
        for name in ("weight_bits", "activation_bits", "first_bits"):
            if not 2 <= getattr(self, name) <= 16:
                raise ModelError(f"{name}={getattr(self, name)} is not within 2..16 bits")


@jax.custom_jvp
def straight_through(x: Float[Array, "..."], value: Float[Array, "..."]) -> Float[Array, "..."]:
    """`value`, with the derivative of `x`."""
    return value


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    return primals[1], tangents[0].astype(primals[1].dtype)


def symmetric(x: Float[Array, "..."], bits: int, low: Float[Array, "..."], high: Float[Array, "..."]) -> Float[Array, "..."]:
    """x on the grid n / max(|low|, |high|), n = 2^(bits - 1) - 1, cut to the codes -n - 1 … n."""
    n = 2 ** (bits - 1) - 1
    scale = n / jnp.maximum(jnp.maximum(jnp.abs(low), jnp.abs(high)), 1e-10)
    return straight_through(x, jnp.clip(jnp.round(scale * x), -n - 1, n) / scale)


def asymmetric(x: Float[Array, "..."], bits: int, low: Float[Array, "..."], high: Float[Array, "..."]) -> Float[Array, "..."]:
    """x on a grid of 2^bits - 1 steps from low to high that holds 0; outside of them the grid goes on."""
    scale = (2**bits - 1) / jnp.maximum(high - low, 1e-10)
    zero = jnp.round(scale * low) + 2 ** (bits - 1)
    return straight_through(x, (jnp.round(scale * x - zero) + zero) / scale)


def weight_range(kernel: Float[Array, "... d"], percentile: bool) -> tuple[Float[Array, "d"], Float[Array, "d"]]:
    """(low, high) of each output channel."""
    flat = jax.lax.stop_gradient(kernel).reshape(-1, kernel.shape[-1])
    if not percentile:
        return flat.min(0), flat.max(0)
    if len(flat) < SMALL:
        return 0.95 * flat.min(0), 0.95 * flat.max(0)
    ordered = jnp.sort(flat, axis=0)
    return tuple(ordered[math.ceil(len(flat) * share) - 1] for share in (LOWER, UPPER))


def quantized_weight(kernel: Float[Array, "... d"], quant: Quantization, bits: int | None = None) -> Float[Array, "... d"]:
    """A kernel at `bits`, by default those of the network's inner layers."""
    kernel = kernel.astype(jnp.float32)
    return symmetric(kernel, bits or quant.weight_bits, *weight_range(kernel, quant.percentile))


class Activation(nn.Module):
    """What one layer hands to the next, rounded to `quant.activation_bits`; without quantization, as it is.

    `x_min`, `x_max` (1,) in the collection "batch_stats": the first batch sets them, each further one in training moves them by 1 - momentum. They
    are of the global batch. Where no batch was seen, evaluation takes each batch's own range.
    """

    quant: Quantization | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."], train: bool) -> Float[Array, "..."]:
        if (quant := self.quant) is None:
            return x
        ranges = [self.variable("batch_stats", name, jnp.zeros, (1,), jnp.float32) for name in ("x_min", "x_max")]
        kept = [variable.value for variable in ranges]
        fresh = kept[0] == kept[1]
        values = jax.lax.stop_gradient(x).astype(jnp.float32)
        if quant.activation_percentile:
            ordered = jnp.sort(values.ravel())
            seen = [ordered[max(round(len(ordered) * share), 1) - 1] for share in (LOWER, UPPER)]
        else:
            seen = [values.min(), values.max()]
        moved = quant.momentum if train else 1.0
        now = [jnp.where(fresh, new, moved * old + (1 - moved) * new) for old, new in zip(kept, seen)]
        if train and not self.is_initializing():
            for variable, value in zip(ranges, now):
                variable.value = value
        return asymmetric(x.astype(jnp.float32), quant.activation_bits, *now).astype(x.dtype)


class Weights(nn.Module):
    """The parameters of a convolution, by its names, for who computes it otherwise: (kernel, bias or None)."""

    shape: tuple[int, ...]
    use_bias: bool
    kernel_init: Callable
    bias_init: Callable
    param_dtype: Any

    @nn.compact
    def __call__(self) -> tuple[Array, Array | None]:
        kernel = self.param("kernel", self.kernel_init, self.shape, self.param_dtype)
        return kernel, self.param("bias", self.bias_init, self.shape[-1:], self.param_dtype) if self.use_bias else None


class Folding(nn.Module):
    """The parameters of a batch norm, by its names, as what they do to the convolution before: (factor, shift). Running statistics do not move."""

    epsilon: float
    param_dtype: Any

    @nn.compact
    def __call__(self, dim: int) -> tuple[Float[Array, "d"], Float[Array, "d"]]:
        mean = self.variable("batch_stats", "mean", jnp.zeros, (dim,), jnp.float32).value
        var = self.variable("batch_stats", "var", jnp.ones, (dim,), jnp.float32).value
        scale = self.param("scale", nn.initializers.ones, (dim,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (dim,), self.param_dtype)
        factor = scale.astype(jnp.float32) / jnp.sqrt(var + self.epsilon)
        return factor, bias.astype(jnp.float32) - mean * factor


@dataclasses.dataclass(frozen=True)
class Layers:
    """What all convolutions of a network have in common. Its methods make sub-modules of the module that calls them.

    Attributes:
      groups: of the batch norms, see nn.norm.BatchNorm.
    """

    quant: Quantization | None = None
    groups: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def conv(self, x, features: int, kernel_size: int = 1, strides: int = 1, *, name: str, groups: int = 1, use_bias: bool = False, **inits):
        """A convolution called `name`, its weights quantized. `inits`: kernel_init, bias_init."""
        inits = {"kernel_init": torch_conv_kernel, "bias_init": nn.initializers.zeros, **inits}
        common = dict(use_bias=use_bias, param_dtype=self.param_dtype, name=name, **inits)
        if self.quant is None:
            return Conv(features, kernel_size, strides, groups=groups, dtype=self.dtype, **common)(x)
        kernel, bias = Weights((kernel_size, kernel_size, x.shape[-1] // groups, features), **common)()
        return self._apply(x, quantized_weight(kernel, self.quant), bias, strides, groups)

    def conv_norm(self, x, features: int, kernel_size: int = 1, strides: int = 1, *, names: tuple[str, str], train: bool, groups: int = 1,
                  bits: int | None = None, **inits):  # fmt: skip
        """A convolution and its batch norm, called `names`; quantized, the one folded into the other. `bits`: of its weights, if not the usual."""
        common = dict(use_bias=False, param_dtype=self.param_dtype, name=names[0], **{"kernel_init": torch_conv_kernel, **inits})
        if self.quant is None:
            y = Conv(features, kernel_size, strides, groups=groups, dtype=self.dtype, **common)(x)
            return self.norm(y, names[1], train)
        shape = (kernel_size, kernel_size, x.shape[-1] // groups, features)
        kernel, _ = Weights(shape, bias_init=nn.initializers.zeros, **common)()
        factor, shift = Folding(1e-5, self.param_dtype, name=names[1])(features)
        return self._apply(x, quantized_weight(kernel.astype(jnp.float32) * factor, self.quant, bits), shift, strides, groups)

    def norm(self, x, name: str, train: bool):
        return BatchNorm(groups=self.groups, dtype=self.dtype, param_dtype=self.param_dtype, name=name)(x, train=train)

    def activation(self, name: str) -> Activation:
        return Activation(self.quant, name=name)

    def _apply(self, x, kernel, bias, strides, groups):
        size = kernel.shape[:2]
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), (strides, strides), explicit_padding(None, size, (1, 1)), (1, 1), groups)
        return y if bias is None else y + bias.astype(y.dtype)


torch_conv_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

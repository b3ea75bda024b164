"""Layers of networks on volumes (B, D, H, W, C): depthwise convolution, patches, merging and expanding, as U-shaped 3-D transformers have them."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.kernels.dense import dense
from jaxvision.kernels.depthwise_conv import depthwise_conv
from jaxvision.kernels.wide import add_bias
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.pointwise import Dense

EPSILON = 1e-5


def depthwise_conv3d(x: Float[Array, "b d h w c"], kernel: Float[Array, "kd kh kw 1 c"]) -> Float[Array, "b d h w c"]:
    """One kernel of odd sides a channel, zeros around: a sum over the kernel's planes of 2-D depthwise convolutions of all slices at once."""
    b, d, h, w, c = x.shape
    reach = kernel.shape[0] // 2
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0), (0, 0), (0, 0)))
    planes = (
        depthwise_conv(padded[:, i : i + d].reshape(b * d, h, w, c), plane, padding=tuple(side // 2 for side in plane.shape[:2]))
        for i, plane in enumerate(kernel)
    )
    return sum(planes).reshape(x.shape)


class DepthwiseConv3D(nn.Module):
    """Parameters `kernel` (k, k, k, 1, C) and `bias` (C,)."""

    side: int = 3
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d h w c"]) -> Float[Array, "b d h w c"]:
        kernel = self.param("kernel", self.kernel_init, (self.side,) * 3 + (1, x.shape[-1]), self.param_dtype)
        bias = self.param("bias", self.bias_init, (x.shape[-1],), self.param_dtype)
        return add_bias(depthwise_conv3d(x.astype(self.dtype), kernel.astype(self.dtype)), bias)


def blocks_of(x: Float[Array, "b d h w c"], sides: tuple[int, int, int]) -> Float[Array, "b d2 h2 w2 m"]:
    """Space to depth: each block of `sides` voxels becomes one of sides x C channels, voxels row-major, channels innermost; padded with zeros."""
    p, q, r = sides
    x = jnp.pad(x, ((0, 0), *((0, -length % side) for length, side in zip(x.shape[1:4], sides)), (0, 0)))
    b, d, h, w, c = x.shape
    x = x.reshape(b, d // p, p, h // q, q, w // r, r, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, d // p, h // q, w // r, p * q * r * c)


def from_blocks(x: Float[Array, "b d h w m"], sides: tuple[int, int, int]) -> Float[Array, "b d2 h2 w2 c"]:
    """The inverse of `blocks_of`, without the cut."""
    (p, q, r), (b, d, h, w, m) = sides, x.shape
    c = m // (p * q * r)
    x = x.reshape(b, d, h, w, p, q, r, c).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, d * p, h * q, w * r, c)


class PatchProjection3D(nn.Module):
    """A convolution whose stride is its kernel, as one matrix product. Parameters `kernel` (p, q, r, in, dim), `bias` (dim,). Odd ends are padded."""

    patch: tuple[int, int, int]
    dim: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d h w c"]) -> Float[Array, "b d2 h2 w2 m"]:
        kernel = self.param("kernel", self.kernel_init, (*self.patch, x.shape[-1], self.dim), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.dim,), self.param_dtype)
        return add_bias(dense(blocks_of(x.astype(self.dtype), self.patch), kernel.reshape(-1, self.dim).astype(self.dtype)), bias)


class PatchMerging3D(nn.Module):
    """2x2x2 tokens become one of twice the channels: concatenated (width fastest), normalized, projected. Odd sides are padded with zeros."""

    kernel_init: Callable
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d h w c"]) -> Float[Array, "b d2 h2 w2 m"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        merged = LayerNorm(EPSILON, **dtypes, name="norm")(blocks_of(x, (2, 2, 2)))
        return Dense(2 * x.shape[-1], use_bias=False, kernel_init=self.kernel_init, **dtypes, name="reduction")(merged)


class PatchExpand3D(nn.Module):
    """Each token becomes a block of `sides` tokens of `dim` channels: projected without bias, rearranged, normalized."""

    sides: tuple[int, int, int]
    dim: int
    kernel_init: Callable
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d h w c"]) -> Float[Array, "b d2 h2 w2 m"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        p, q, r = self.sides
        x = Dense(p * q * r * self.dim, use_bias=False, kernel_init=self.kernel_init, **dtypes, name="expand")(x)
        return LayerNorm(EPSILON, **dtypes, name="norm")(from_blocks(x, self.sides))

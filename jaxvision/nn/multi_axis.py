"""Multi-axis gated MLPs (Tu et al. 2022, MAXIM, arXiv 2201.02973): half of the channels is mixed inside blocks of fixed size, the other half over a
grid of fixed size, whose points lie as far apart as the map is large. Both are matrices of fixed size at every resolution of the map.

Layers are named as in the released weights. Only the mixing itself looks at the map in pieces; norms and dense layers see pixels.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.nn.mlp import gelu_tanh
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.pointwise import Dense, Pointwise
from jaxvision.nn.residual import residual

NORMAL = nn.initializers.normal(0.02)
# Which of the released names a layer has, by whether it mixes over the grid.
NAMES = {True: "Grid", False: "Block"}


class TokenMix(nn.Module):
    """A dense layer over positions, the same for every channel.

    Attributes:
      window: (rows, columns) of a block, or of the grid.
      grid: mix the pixels that have the same place in each of rows x columns parts of the map; otherwise those of one block.
    """

    window: tuple[int, int]
    grid: bool
    bias_init: Callable = nn.initializers.zeros
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        (b, h, w, c), (p, q) = x.shape, self.window
        if h % p or w % q:
            raise ModelError(f"a map of {h}x{w} does not divide into {p}x{q}; pad the image first")
        kernel = self.param("kernel", NORMAL, (p * q, p * q), self.param_dtype).astype(self.dtype).reshape(p, q, p, q)
        bias = self.param("bias", self.bias_init, (p * q,), self.param_dtype).astype(self.dtype).reshape(p, q)
        x = x.astype(self.dtype)
        if self.grid:
            parts = x.reshape(b, p, h // p, q, w // q, c)
            mixed = jnp.einsum("bphqwc,pqrs->brhswc", parts, kernel) + bias[:, None, :, None, None]
        else:
            parts = x.reshape(b, h // p, p, w // q, q, c)
            mixed = jnp.einsum("bhpwqc,pqrs->bhrwsc", parts, kernel) + bias[:, None, :, None]
        return mixed.reshape(b, h, w, c)


class GatingUnit(nn.Module):
    """Half of the channels times 1 + the other half, normalized and mixed over positions (Liu et al. 2021, gMLP, arXiv 2105.08050)."""

    window: tuple[int, int]
    grid: bool
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        u, v = jnp.split(x, 2, axis=-1)
        v = LayerNorm(**dtypes, name="intermediate_layernorm")(v)
        return u * (TokenMix(self.window, self.grid, **dtypes, name="Dense_0")(v) + 1)


class GatedMlp(nn.Module):
    """x + dense(gating unit(gelu(dense(norm(x)))))."""

    window: tuple[int, int]
    grid: bool
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = LayerNorm(**dtypes, name="LayerNorm")(x)
        y = gelu_tanh(Dense(2 * x.shape[-1], kernel_init=NORMAL, **dtypes, name="in_project")(y))
        y = GatingUnit(self.window, self.grid, **dtypes, name=f"{NAMES[self.grid]}GatingUnit")(y)
        return residual(x, Dense(x.shape[-1], kernel_init=NORMAL, **dtypes, name="out_project")(y))


class MultiAxisBlock(nn.Module):
    """The multi-axis gated MLP block: one half of the projected channels through the grid's MLP, the other through the blocks'; and what came in."""

    window: tuple[int, int]
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = LayerNorm(**dtypes, name="LayerNorm_in")(x)
        y = gelu_tanh(Dense(2 * x.shape[-1], kernel_init=NORMAL, **dtypes, name="in_project")(y))
        halves = jnp.split(y, 2, axis=-1)
        y = [GatedMlp(self.window, grid, **dtypes, name=f"{NAMES[grid]}GmlpLayer")(half) for half, grid in zip(halves, (True, False))]
        return residual(x, Dense(x.shape[-1], kernel_init=NORMAL, **dtypes, name="out_project")(jnp.concatenate(y, -1)))


class GatingWeights(nn.Module):
    """Weights for another map, near one at the start: both mixings of what was projected, without norm or gate between them."""

    window: tuple[int, int]
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = LayerNorm(**dtypes, name="LayerNorm_in")(x)
        halves = jnp.split(gelu_tanh(Dense(2 * x.shape[-1], **dtypes, name="in_project")(y)), 2, axis=-1)
        mix = lambda half, number, grid: TokenMix(self.window, grid, nn.initializers.ones, **dtypes, name=f"Dense_{number}")(half)
        y = jnp.concatenate([mix(halves[0], 0, True), mix(halves[1], 1, False)], -1)
        return Dense(x.shape[-1], **dtypes, name="out_project")(y)


class CrossGating(nn.Module):
    """(x, y) -> (x', y'): each is projected, gated by the weights of the other, and added to itself; x' takes y' as well.

    Attributes:
      features: of both results.
      enlarge: y has half the size of x, and is brought to it by a transposed convolution.
    """

    features: int
    window: tuple[int, int]
    enlarge: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], y: Float[Array, "b p q d"]) -> tuple[Float[Array, "b h w f"], Float[Array, "b h w f"]]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.enlarge:
            y = UpConv(self.features, **dtypes, name="ConvTranspose_0")(y)
        plain, projected, weights = {}, {}, {}
        for name, value, conv in (("x", x, "Conv_0"), ("y", y, "Conv_1")):
            plain[name] = Pointwise(self.features, **dtypes, name=conv)(value)
            z = LayerNorm(**dtypes, name=f"LayerNorm_{name}")(plain[name])
            projected[name] = gelu_tanh(Dense(self.features, **dtypes, name=f"in_project_{name}")(z))
            weights[name] = GatingWeights(self.window, **dtypes, name=f"SplitHeadMultiAxisGating_{name}")(projected[name])
        gated = lambda name, other: Dense(self.features, **dtypes, name=f"out_project_{name}")(projected[name] * weights[other]) + plain[name]
        y = gated("y", "x")
        return gated("x", "y") + y, y


class UpConv(nn.Module):
    """A transposed convolution of 2x2 with stride 2: every pixel becomes four. The kernel lies as flax's ConvTranspose has it: not flipped."""

    features: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b p q d"]:
        b, h, w, c = x.shape
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (2, 2, c, self.features), self.param_dtype).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype).astype(self.dtype)
        # The last row of the kernel makes the first of the two rows of pixels.
        y = jnp.einsum("bhwc,ijcd->bhiwjd", x.astype(self.dtype), kernel[::-1, ::-1])
        return y.reshape(b, 2 * h, 2 * w, self.features) + bias

"""InceptionNeXt (Yu et al. 2024, arXiv 2303.16900).

A ConvNeXt whose 7x7 depthwise convolution is taken apart: most channels are left alone, and three small groups see a 3x3 square, a horizontal band
and a vertical band. Batch norms instead of layer norms, and a classifier of two layers.

Names and shapes are timm's, which are the official code's. The published launcher of `atto` passes a path as its drop-path rate, and that of `base`
names the tiny model; both are taken for what they mean.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.models.convnext import ConvNeXtMlp
from jaxvision.models.registry import Variant
from jaxvision.nn.classifier import Classifier, global_mean
from jaxvision.nn.conv import Conv
from jaxvision.nn.mlp import gelu
from jaxvision.nn.norm import BatchNorm, LayerNorm
from jaxvision.nn.patch import PatchProjection, whole_patches
from jaxvision.nn.pointwise import Dense
from jaxvision.nn.regularize import DropPath, drop_path_rates
from jaxvision.nn.residual import residual
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap

# The published code draws from a normal cut at +-2, which is a hundred standard deviations away.
init = nn.initializers.normal(0.02)
BRANCHES = ("square", "row", "column")


class InceptionMixer(nn.Module):
    """Depthwise convolutions of different shapes on the last channels, a group of `share` of them to a branch; the channels before are left alone.

    Attributes:
      branches: in the order of the channels: "square" (3x3), "row" (1 x band), "column" (band x 1). Fewer of them are the paper's ablations.
      band: length of a band in pixels.
    """

    band: int = 11
    share: float = 0.125
    branches: tuple[str, ...] = BRANCHES
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels, width, count = x.shape[-1], int(x.shape[-1] * self.share), len(self.branches)
        if count and not 0 < count * width <= channels:
            raise ModelError(f"model.share={self.share} of {channels} channels for {count} branches: it is between 1/{channels} and 1/{count}")
        kernels = {"square": ("dwconv_hw", (3, 3)), "row": ("dwconv_w", (1, self.band)), "column": ("dwconv_h", (self.band, 1))}
        if unknown := [branch for branch in self.branches if branch not in kernels]:
            raise ModelError(f"model.branches has {unknown[0]!r}; {nearest(unknown[0], kernels)}")
        rest, *parts = jnp.split(x, [channels - width * left for left in range(count, 0, -1)], axis=-1)
        for i, branch in enumerate(self.branches):
            name, size = kernels[branch]
            dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            parts[i] = Conv(width, size, groups=width, kernel_init=init, **dtypes, name=name)(parts[i])
        return jnp.concatenate([rest, *parts], axis=-1)


class InceptionNeXtBlock(nn.Module):
    """x + drop_path(gamma * mlp(norm(mixer(x)))). Taps `out`."""

    mlp_ratio: float
    drop_path: float = 0.0
    band: int = 11
    share: float = 0.125
    branches: tuple[str, ...] = BRANCHES
    layer_scale: float = 1e-6
    norm_groups: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dim = x.shape[-1]
        y = InceptionMixer(self.band, self.share, self.branches, **dtypes, name="token_mixer")(x)
        y = BatchNorm(groups=self.norm_groups, **dtypes, name="norm")(y, train=train)
        y = ConvNeXtMlp(as_conv=True, ratio=self.mlp_ratio, **dtypes, name="mlp")(y)
        y = y * self.param("gamma", nn.initializers.constant(self.layer_scale), (dim,), self.param_dtype).astype(self.dtype)
        out = residual(x, DropPath(self.drop_path)(y, train=train))
        tap(self, "out", lambda: out)
        return out


class InceptionNeXtStage(nn.Module):
    """Batch norm and a 2x2 convolution of stride 2 (not in the first stage), then blocks."""

    dim: int
    drop_path: tuple[float, ...]
    downsample: bool
    block: functools.partial
    norm_groups: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.downsample:
            x = BatchNorm(groups=self.norm_groups, **dtypes, name="downsample_0")(x, train=train)
            x = PatchProjection((2, 2), self.dim, kernel_init=init, **dtypes, name="downsample_1")(whole_patches(x, 2))
        for i, rate in enumerate(self.drop_path):
            x = self.block(drop_path=rate, name=f"blocks_{i}")(x, train)
        return x


class InceptionNeXtHead(nn.Module):
    """Mean over the map, a dense layer three times as wide, GELU, LayerNorm, dropout, and the classifier; in float32."""

    num_classes: int
    dropout: float = 0.0
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b classes"]:
        x = global_mean(x)
        if not self.num_classes:
            return x
        x = gelu(Dense(3 * x.shape[-1], kernel_init=init, param_dtype=self.param_dtype, name="fc1")(x))
        x = LayerNorm(1e-6, param_dtype=self.param_dtype, name="norm")(x)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return Classifier(self.num_classes, init, nn.initializers.zeros, self.param_dtype, name="fc2")(x)


class InceptionNeXt(StagedClassifier):
    """Logits (B, num_classes) float32; with num_classes=0 the pooled features (B, dims[-1]).

    `method="stages"`: one map a stage: strides `patch`, twice, four times and eight times that.

    Attributes:
      depths, dims, mlp_ratios: blocks, channels and inner over outer width of the bottleneck, a stage.
      patch: side and stride of the stem's kernel, in pixels.
      band, share, branches: of the mixer, see `InceptionMixer`.
      layer_scale: initial value.
      norm_groups: blocks of the batch that are normalized by statistics of their own; 1 is the whole batch.
      drop_path: rate of the last block; the others' rise linearly from 0. `dropout`: before the classifier.
      remat: recompute each block in the backward pass instead of keeping its activations.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 3)
    patch: int = 4
    band: int = 11
    share: float = 0.125
    branches: tuple[str, ...] = BRANCHES
    layer_scale: float = 1e-6
    norm_groups: int = 1
    drop_path: float = 0.0
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.check_size(image, self.patch * 2 ** (len(self.depths) - 1))
        x = PatchProjection((self.patch,) * 2, self.dims[0], kernel_init=init, **dtypes, name="stem_0")(whole_patches(image, self.patch))
        x = BatchNorm(groups=self.norm_groups, **dtypes, name="stem_1")(x, train=train)
        block = nn.remat(InceptionNeXtBlock, static_argnums=(2,)) if self.remat else InceptionNeXtBlock
        fields = {name: getattr(self, name) for name in ("band", "share", "branches", "layer_scale", "norm_groups")} | dtypes
        rates, maps = drop_path_rates(self.drop_path, sum(self.depths)), []
        for i, (depth, dim, ratio) in enumerate(zip(self.depths, self.dims, self.mlp_ratios, strict=True)):
            own, rates = rates[:depth], rates[depth:]
            make = functools.partial(block, ratio, **fields)
            x = InceptionNeXtStage(dim, own, i > 0, make, self.norm_groups, **dtypes, name=f"stages_{i}")(x, train)
            maps.append(x)
        if not head:
            return tuple(maps)
        return InceptionNeXtHead(self.num_classes, self.dropout, self.param_dtype, name="head")(x, train)


_SMALL = {"depths": (3, 3, 27, 3)}
_BASE = {**_SMALL, "dims": (128, 256, 512, 1024)}
_ATTO = {"depths": (2, 2, 6, 2), "dims": (40, 80, 160, 320), "band": 9, "share": 0.25}
VARIANTS = {
    "inception_next_atto": Variant(InceptionNeXt, _ATTO, parameters=4_156_520),
    "inception_next_tiny": Variant(InceptionNeXt, {}, parameters=28_055_680),
    "inception_next_small": Variant(InceptionNeXt, _SMALL, parameters=49_374_016),
    "inception_next_base": Variant(InceptionNeXt, _BASE, crop=0.95, parameters=86_672_136),
}
CHECKPOINT = {"torch": ()}

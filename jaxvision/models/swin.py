"""Swin Transformer (Liu et al. 2021, arXiv 2103.14030), and the searched Swin-S3 (Chen et al. 2021, arXiv 2111.14725).

Attention is local to windows of a map, every other block shifts them by half a window so that neighbours meet, and merging 2x2 pixels between
stages makes a pyramid; learned biases tell relative positions.

As in timm: a map that is no whole number of windows is padded after the shift, unmasked, and a window is never larger than its map, in which case
nothing is shifted. The windows are those of `image_size`; an image of another size passes through the same windows. `window=None` makes them grow
with the image (side / 32), as EfficientTrain (arXiv 2211.09703) has it at 96 to 224 pixels, and the tables are resized bilinearly.
"""

import functools
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.models.registry import Variant
from jaxvision.models.rules import Rule
from jaxvision.nn.classifier import Classifier, global_mean, torch_bias, torch_kernel
from jaxvision.nn.mlp import Mlp, mlp_residual
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.patch import PatchEmbed, patch_grid
from jaxvision.nn.pointwise import Dense
from jaxvision.nn.regularize import DropPath, drop_path_rates
from jaxvision.nn.residual import residual
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap
from jaxvision.nn.window import WindowAttention, resize_relative_table, shifted_regions, window_partition, window_reverse

PATCH, EPSILON = 4, 1e-5
# The published code draws from a normal cut at +-2, which is a hundred standard deviations away.
init = nn.initializers.normal(0.02)


class SwinBlock(nn.Module):
    """x + window attention(norm1(x)), then x + mlp(norm2(x)). Taps `out`."""

    heads: int
    window: tuple[int, int]
    shift: tuple[int, int]
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        (_, h, w, dim), (rows, columns) = x.shape, self.window
        y = LayerNorm(EPSILON, **dtypes, name="norm1")(x)
        shifted = any(self.shift)
        if shifted:
            y = jnp.roll(y, (-self.shift[0], -self.shift[1]), (1, 2))
        below, right = -h % rows, -w % columns
        y = jnp.pad(y, ((0, 0), (0, below), (0, right), (0, 0)))
        size = (h + below, w + right)
        regions = shifted_regions(size, self.window, self.shift) if shifted else None
        y = WindowAttention(self.heads, self.window, kernel_init=init, **dtypes, name="attn")(window_partition(y, self.window), regions)
        y = window_reverse(y, self.window, size)[:, :h, :w]
        if shifted:
            y = jnp.roll(y, self.shift, (1, 2))
        x = residual(x, DropPath(self.drop_path)(y, train=train))
        mlp = Mlp(int(dim * self.mlp_ratio), kernel_init=init, bias_init=nn.initializers.zeros, **dtypes, name="mlp")
        out = mlp_residual(x, LayerNorm(EPSILON, **dtypes, name="norm2"), mlp, DropPath(self.drop_path), train=train)
        tap(self, "out", lambda: out)
        return out


class PatchMerging(nn.Module):
    """Every 2x2 pixels become one of twice the channels: concatenated column by column, normalized, projected. Odd sides are padded with zeros."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        b, h, w, dim = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, dim).transpose(0, 1, 3, 4, 2, 5).reshape(b, h // 2, w // 2, 4 * dim)
        x = LayerNorm(EPSILON, **dtypes, name="norm")(x)
        return Dense(2 * dim, use_bias=False, kernel_init=init, **dtypes, name="reduction")(x)


class SwinStage(nn.Module):
    """Merging (not in the first stage), then blocks, every second one shifted."""

    drop_path: tuple[float, ...]
    shift: tuple[int, int]
    merge: bool
    block: functools.partial
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        if self.merge:
            x = PatchMerging(self.dtype, self.param_dtype, name="downsample")(x)
        for i, rate in enumerate(self.drop_path):
            x = self.block(shift=self.shift if i % 2 else (0, 0), drop_path=rate, name=f"blocks_{i}")(x, train)
        return x


class Swin(StagedClassifier):
    """Logits (B, num_classes) float32; with num_classes=0 the pooled features (B, 8 dim).

    `method="stages"`: one map a stage, strides 4, 8, 16, 32, without the final norm.

    Attributes:
      dim: channels of the first stage, doubled at each further one.
      depths, heads: of each stage.
      window: side in pixels of a map, one for all stages or one each; None: image side // 32, rows and columns apart.
      mlp_ratio: inner width of the perceptrons over their outer one.
      drop_path: rate of the last block; the others' rise linearly from 0.
      dropout: before the classifier.
      remat: recompute each block in the backward pass instead of keeping its activations.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int | tuple[int, ...] | None = None
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def window_of(self, stage: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """((rows, columns) of the windows of a stage, (rows, columns) by which every second block shifts them) at `image_size`."""
        sizes, shifts = [], []
        for pixels, patches in zip(self.image_size, patch_grid(self.image_size, PATCH)):
            side = -(-patches // 2**stage)
            given = max(1, pixels // 32) if self.window is None else self.window[stage] if isinstance(self.window, tuple) else self.window
            sizes.append(min(given, side))
            shifts.append(given // 2 if side > given else 0)
        return tuple(sizes), tuple(shifts)

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        each = [self.depths, self.heads] + [self.window] * isinstance(self.window, tuple)
        if len({len(values) for values in each}) > 1:
            raise ModelError(f"model.depths, heads and window (where it is several numbers) are one number a stage, got {each}")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        bias_init = torch_bias(PATCH * PATCH * image.shape[-1])
        x = PatchEmbed(PATCH, self.dim, norm=True, kernel_init=torch_kernel, bias_init=bias_init, **dtypes, name="patch_embed")(image)
        block = nn.remat(SwinBlock, static_argnums=(2,)) if self.remat else SwinBlock
        rates, maps = drop_path_rates(self.drop_path, sum(self.depths)), []
        for i, (depth, heads) in enumerate(zip(self.depths, self.heads)):
            own, rates = rates[:depth], rates[depth:]
            window, shift = self.window_of(i)
            blocks = functools.partial(block, heads=heads, window=window, mlp_ratio=self.mlp_ratio, **dtypes)
            x = SwinStage(own, shift, i > 0, blocks, **dtypes, name=f"layers_{i}")(x, train)
            maps.append(x)
        if not head:
            return tuple(maps)
        x = global_mean(LayerNorm(EPSILON, param_dtype=self.param_dtype, name="norm")(x))
        if not self.num_classes:
            return x
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return Classifier(self.num_classes, init, nn.initializers.zeros, self.param_dtype, name="head")(x)


def _resize_table(value: np.ndarray, old: Swin, new: Swin, *, stage: int) -> np.ndarray:
    return resize_relative_table(value, old.window_of(stage)[0], new.window_of(stage)[0])


SIZE_DEPENDENT = tuple(
    (rf"layers_{stage}/blocks_\d+/attn/relative_position_bias_table", functools.partial(_resize_table, stage=stage)) for stage in range(4)
)
_PLACES = {"proj": "0", "norm": "2", "mlp/fc1": "mlp.0", "mlp/fc2": "mlp.3"}


def _torchvision_block(match: re.Match) -> str:
    stage, number, layer, leaf = match.groups()
    return f"features.{2 * int(stage) + 1}.{number}.{_PLACES.get(layer, layer.replace('/', '.'))}.{leaf}"


CHECKPOINT = {
    "torch": (Rule(r"head/(.*)", r"head.fc.\1"),),
    # The first release, where merging ends a stage instead of beginning the next.
    "microsoft": (Rule(r"layers_(\d)/downsample/(\w+)/(\w+)", lambda match: f"layers.{int(match[1]) - 1}.downsample.{match[2]}.{match[3]}"),),
    "torchvision": (
        Rule(r"patch_embed/(\w+)/(\w+)", lambda match: f"features.0.{_PLACES[match[1]]}.{match[2]}"),
        Rule(r"layers_(\d)/downsample/(\w+)/(\w+)", lambda match: f"features.{2 * int(match[1])}.{match[2]}.{match[3]}"),
        Rule(r"layers_(\d)/blocks_(\d+)/(\w+|attn/qkv|attn/proj|mlp/fc1|mlp/fc2)/(\w+)", _torchvision_block),
    ),
}


def _variant(dim: int, third: int, window: int | tuple[int, ...], parameters: int, **constants) -> Variant:
    heads = tuple(dim // 32 * 2**stage for stage in range(4))
    fields = {"dim": dim, "depths": (2, 2, third, 2), "heads": heads, "window": window}
    return Variant(Swin, fields, parameters=parameters, **{"crop": 0.9, **constants})


_LARGE = {"image_size": (384, 384), "crop": 1.0}
VARIANTS = {
    "swin_tiny_patch4_window7_224": _variant(96, 6, 7, 28_288_354),
    "swin_small_patch4_window7_224": _variant(96, 18, 7, 49_606_258),
    "swin_base_patch4_window7_224": _variant(128, 18, 7, 87_768_224),
    "swin_base_patch4_window12_384": _variant(128, 18, 12, 87_903_584, **_LARGE),
    "swin_large_patch4_window7_224": _variant(192, 18, 7, 196_532_476),
    "swin_large_patch4_window12_384": _variant(192, 18, 12, 196_735_516, **_LARGE),
    "swin_s3_tiny_224": _variant(96, 6, (7, 7, 14, 7), 28_328_674),
    "swin_s3_small_224": _variant(96, 18, (14, 14, 14, 7), 49_737_298),
    "swin_s3_base_224": _variant(96, 30, (7, 7, 14, 7), 71_125_762),
}

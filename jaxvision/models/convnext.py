"""ConvNeXt (Liu et al. 2022, arXiv 2201.03545) and ConvNeXt V2 (Woo et al. 2023, arXiv 2301.00808).

A ResNet brought up to date step by step with what vision transformers do: patch stem, four stages, and blocks of a depthwise 7x7 convolution, one
LayerNorm and an inverted bottleneck with GELU. V2 replaces the layer scale by global response normalization between the two layers of the bottleneck.

Names and shapes are timm's, its small sizes (`atto` to `nano`, `_ols` stems, `_hnf` head) included. Those, and V2's small sizes, store the two
layers of the bottleneck as 1x1 convolutions (`conv_mlp`): another shape of the kernel, the same map. Where several weights were released the crop is
that of the paper's own. An image whose sides are no multiples of 32 loses its last rows and columns at each downsampling, as under PyTorch.
"""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.kernels.mlp import ahead, gelu
from jaxvision.models.registry import CLIP_MEAN, CLIP_STD, Variant
from jaxvision.models.rules import Rule
from jaxvision.nn.classifier import Classifier, global_mean
from jaxvision.nn.conv import Conv
from jaxvision.nn.mlp import Around
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.patch import PatchProjection, whole_patches
from jaxvision.nn.pointwise import Pointwise
from jaxvision.nn.regularize import DropPath, LayerScale, drop_path_rates
from jaxvision.nn.residual import residual
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap, watched

# The published code draws from a normal cut at +-2, which is a hundred standard deviations away.
init = nn.initializers.normal(0.02)


class GlobalResponseNorm(nn.Module):
    """x + gamma x n + beta, where n is each channel's L2 norm over the image divided by the mean of these norms over channels (V2, eq. 1-3)."""

    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        square = jnp.square(x.astype(jnp.float32)).sum((1, 2), keepdims=True)
        # A dead channel has norm 0, where the square root has no derivative.
        norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        share = (norm / (norm.mean(-1, keepdims=True) + self.epsilon)).astype(self.dtype)
        gamma = self.param("scale", nn.initializers.zeros, (x.shape[-1],), self.param_dtype).astype(self.dtype)
        beta = self.param("bias", nn.initializers.zeros, (x.shape[-1],), self.param_dtype).astype(self.dtype)
        return x + gamma * (x * share) + beta


class ConvNeXtMlp(nn.Module):
    """The inverted bottleneck: `ratio` times as wide inside, GELU, with `grn` a global response norm before the second layer.

    With `around` (not with `grn`) it is the whole branch and its residual sum.
    """

    grn: bool = False
    as_conv: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    ratio: float = 4.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], around: Around | None = None) -> Float[Array, "b h w c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dim, hidden = x.shape[-1], int(self.ratio * x.shape[-1])
        first, second = (Pointwise(n, self.as_conv, kernel_init=init, **dtypes, name=name) for n, name in ((hidden, "fc1"), (dim, "fc2")))
        if around is None:
            middle = GlobalResponseNorm(**dtypes, name="grn") if self.grn else lambda x: x
            return second(middle(gelu(first(x))))
        return around.branch(x.astype(self.dtype), first, second)


class ConvNeXtBlock(nn.Module):
    """x + drop_path(layer_scale(mlp(norm(depthwise 7x7(x))))). Taps `out`."""

    drop_path: float = 0.0
    layer_scale: float | None = 1e-6
    grn: bool = False
    conv_mlp: bool = False
    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dim = x.shape[-1]
        conv, norm = Conv(dim, 7, groups=dim, kernel_init=init, **dtypes, name="conv_dw"), LayerNorm(self.epsilon, **dtypes, name="norm")
        mlp, drop_path = ConvNeXtMlp(self.grn, self.conv_mlp, **dtypes, name="mlp"), DropPath(self.drop_path)
        scale = None if self.layer_scale is None else LayerScale(self.layer_scale, **dtypes, name="layer_scale")
        if ahead(x.astype(self.dtype)) and not self.grn and not watched(self):
            y, shift = conv.apart(x)
            gain, factor = None if scale is None else scale.factors(dim), drop_path.factors(len(x), train=train)
            out = mlp(y, Around(factor, self.epsilon, *norm.affine(dim), gain, shift, x))
        else:
            y = mlp(norm(conv(x)))
            out = residual(x, drop_path(y if scale is None else scale(y), train=train))
        tap(self, "out", lambda: out)
        return out


class ConvNeXtStage(nn.Module):
    """LayerNorm and a 2x2 convolution of stride 2 (not in the first stage), then blocks."""

    dim: int
    drop_path: tuple[float, ...]
    downsample: bool
    block: functools.partial
    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.downsample:
            # The barrier keeps the gradient from being cast to float32 before the patches are put back in their places, at twice the bytes.
            x = jax.lax.optimization_barrier(LayerNorm(self.epsilon, **dtypes, name="downsample_0")(x))
            x = PatchProjection((2, 2), self.dim, kernel_init=init, **dtypes, name="downsample_1")(whole_patches(x, 2))
        for i, rate in enumerate(self.drop_path):
            x = self.block(drop_path=rate, name=f"blocks_{i}")(x, train)
        return x


class ConvNeXtHead(nn.Module):
    """Mean over the map, `norm`, a further layer where `hidden`, dropout, `fc`; all in float32."""

    num_classes: int
    hidden: int | None = None
    norm: bool = True
    scale: float = 1.0
    epsilon: float = 1e-6
    dropout: float = 0.0
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b classes"]:
        x = global_mean(x)
        if self.norm:
            x = LayerNorm(self.epsilon, param_dtype=self.param_dtype, name="norm")(x)
        if self.hidden is not None:
            x = gelu(nn.Dense(self.hidden, kernel_init=init, param_dtype=self.param_dtype, name="pre_logits")(x))
        if not self.num_classes:
            return x
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        scaled = nn.initializers.normal(0.02 * self.scale)
        return Classifier(self.num_classes, scaled, nn.initializers.zeros, self.param_dtype, name="fc")(x)


class ConvNeXt(StagedClassifier):
    """Logits (B, num_classes) float32; with num_classes=0 the pooled, normalized features (B, dims[-1]).

    `method="stages"`: one map a stage, strides 4, 8, 16, 32.

    Attributes:
      depths, dims: blocks and channels a stage.
      stem: "patch" (4x4, stride 4), or two 3x3 convolutions of stride 2: "overlap", and "overlap_tiered" whose first has half the channels.
      layer_scale: initial value, None for none.
      grn: global response normalization (V2).
      conv_mlp: kernels of the bottleneck are stored as 1x1 convolutions.
      head_norm_first: normalize the map and then pool, instead of pooling first.
      head_hidden: width of a further layer with GELU before the classifier, None for none.
      head_scale: factor on the classifier's initial kernel.
      epsilon: of all LayerNorms.
      drop_path: rate of the last block; the others' rise linearly from 0.
      dropout: before the classifier.
      remat: recompute each block in the backward pass instead of keeping its activations.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    stem: str = "patch"
    layer_scale: float | None = 1e-6
    grn: bool = False
    conv_mlp: bool = False
    head_norm_first: bool = False
    head_hidden: int | None = None
    head_scale: float = 1.0
    epsilon: float = 1e-6
    drop_path: float = 0.0
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.check_size(image, 4 * 2 ** (len(self.depths) - 1))
        x = self._stem(image)
        block = functools.partial(
            nn.remat(ConvNeXtBlock, static_argnums=(2,)) if self.remat else ConvNeXtBlock,
            layer_scale=self.layer_scale,
            grn=self.grn,
            conv_mlp=self.conv_mlp,
            epsilon=self.epsilon,
            **dtypes,
        )
        rates, maps = drop_path_rates(self.drop_path, sum(self.depths)), []
        for i, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True)):
            own, rates = rates[:depth], rates[depth:]
            x = ConvNeXtStage(dim, own, i > 0, block, self.epsilon, **dtypes, name=f"stages_{i}")(x, train)
            maps.append(x)
        if not head:
            return tuple(maps)
        if self.head_norm_first:
            x = LayerNorm(self.epsilon, **dtypes, name="norm_pre")(x)
        return ConvNeXtHead(
            self.num_classes, self.head_hidden, not self.head_norm_first, self.head_scale, self.epsilon, self.dropout, self.param_dtype, name="head"
        )(x, train)

    def _stem(self, image):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dim = self.dims[0]
        if self.stem == "patch":
            x = PatchProjection((4, 4), dim, kernel_init=init, **dtypes, name="stem_0")(whole_patches(image, 4))
            return LayerNorm(self.epsilon, **dtypes, name="stem_1")(x)
        if self.stem not in ("overlap", "overlap_tiered"):
            raise ModelError(f"model.stem {self.stem!r} is unknown; there are: patch, overlap, overlap_tiered")
        # timm rounds half of the width to a multiple of 8.
        first = dim if self.stem == "overlap" else (dim // 2 + 4) // 8 * 8
        x = Conv(first, 3, 2, kernel_init=init, **dtypes, name="stem_0")(image)
        x = Conv(dim, 3, 2, kernel_init=init, **dtypes, name="stem_1")(x)
        return LayerNorm(self.epsilon, **dtypes, name="stem_2")(x)


_PLACES = {"conv_dw": "block.0", "norm": "block.2", "mlp/fc1": "block.3", "mlp/fc2": "block.5"}


def _torchvision_layer(match: re.Match) -> str:
    stage, number, *names = match.groups()
    return ".".join([f"features.{2 * int(stage) + 1}.{number}", *(_PLACES.get(name, name) for name in names)])


CHECKPOINT = {
    "torch": (
        Rule(r"stages_(\d+)/blocks_(\d+)/layer_scale/gamma", r"stages.\1.blocks.\2.gamma"),
        Rule(r"head/pre_logits/(.*)", r"head.pre_logits.fc.\1"),
    ),
    "torchvision": (
        Rule(r"stem_([01])/(\w+)", r"features.0.\1.\2"),
        Rule(r"stages_(\d)/downsample_([01])/(\w+)", lambda match: f"features.{2 * int(match[1])}.{match[2]}.{match[3]}"),
        Rule(r"stages_(\d)/blocks_(\d+)/(layer_scale)/gamma", _torchvision_layer, save=lambda array: (array[:, None, None],), literal=True),
        Rule(r"stages_(\d)/blocks_(\d+)/(conv_dw|norm|mlp/fc1|mlp/fc2)/(\w+)", _torchvision_layer),
        Rule(r"head/norm/(\w+)", r"classifier.0.\1"),
        Rule(r"head/fc/(\w+)", r"classifier.2.\1"),
    ),
}

_DEPTHS = {"tiny": (3, 3, 9, 3), "nano": (2, 2, 8, 2), "mini": (2, 2, 6, 2), "big": (3, 3, 27, 3), "huge": (3, 4, 30, 3)}
CLIP = {"mean": CLIP_MEAN, "std": CLIP_STD}


def _v1(depths: str, dim: int, parameters: int, settings: dict | None = None, **constants) -> Variant:
    fields = {"depths": _DEPTHS[depths], "dims": (dim, 2 * dim, 4 * dim, 8 * dim), **(settings or {})}
    return Variant(ConvNeXt, fields, parameters=parameters, **constants)


def _v2(depths: str, dim: int, parameters: int, conv_mlp: bool = False, **constants) -> Variant:
    return _v1(depths, dim, parameters, {"grn": True, "layer_scale": None, "conv_mlp": conv_mlp}, **constants)


_CONV = {"conv_mlp": True}
VARIANTS = {
    "convnext_atto": _v1("mini", 40, 3_695_520, _CONV),
    "convnext_atto_ols": _v1("mini", 40, 3_702_912, {**_CONV, "stem": "overlap_tiered"}),
    "convnext_femto": _v1("mini", 48, 5_217_784, _CONV),
    "convnext_femto_ols": _v1("mini", 48, 5_226_520, {**_CONV, "stem": "overlap_tiered"}),
    "convnext_pico": _v1("mini", 64, 9_045_672, _CONV),
    "convnext_pico_ols": _v1("mini", 64, 9_061_928, {**_CONV, "stem": "overlap_tiered"}, crop=0.95),
    "convnext_nano": _v1("nano", 80, 15_593_560, _CONV, crop=0.95),
    "convnext_nano_ols": _v1("nano", 80, 15_649_560, {**_CONV, "stem": "overlap"}, crop=0.95),
    "convnext_tiny_hnf": _v1("tiny", 96, 28_589_128, {**_CONV, "head_norm_first": True}, crop=0.95),
    "convnext_tiny": _v1("tiny", 96, 28_589_128),
    "convnext_small": _v1("big", 96, 50_223_688),
    "convnext_base": _v1("big", 128, 88_591_464),
    "convnext_large": _v1("big", 192, 197_767_336),
    "convnext_large_mlp": _v1("big", 192, 200_128_168, {"head_hidden": 1536}, image_size=(320, 320), crop=1.0, **CLIP),
    "convnext_xlarge": _v1("big", 256, 350_196_968),
    "convnext_xxlarge": _v1("huge", 384, 846_471_016, {"epsilon": 1e-5}, image_size=(256, 256), crop=1.0, **CLIP),
    "convnextv2_atto": _v2("mini", 40, 3_708_400, conv_mlp=True),
    "convnextv2_femto": _v2("mini", 48, 5_233_240, conv_mlp=True),
    "convnextv2_pico": _v2("mini", 64, 9_066_280, conv_mlp=True),
    "convnextv2_nano": _v2("nano", 80, 15_623_800, conv_mlp=True),
    "convnextv2_tiny": _v2("tiny", 96, 28_635_496),
    "convnextv2_small": _v2("big", 96, 50_318_440),
    "convnextv2_base": _v2("big", 128, 88_717_800),
    "convnextv2_large": _v2("big", 192, 197_956_840),
    "convnextv2_huge": _v2("big", 352, 660_289_640, image_size=(384, 384), crop=1.0),
}

"""HorNet (Rao et al. 2022, arXiv 2207.14284).

A pyramid of ConvNeXt's shape whose mixer multiplies features with depthwise-convolved ones, again and again in widening groups of channels, so that
an output is a product of up to n + 1 inputs (g^nConv). In the GF variants the deeper stages replace the 7x7 convolution by half a 3x3 one, half a
learned filter of all frequencies.

Where we differ: the frequency filters have the size that `image_size` gives them; on another size of input they are resized in the call, as in the
public code. Normalized maps a stage, which detectors add, are theirs to make.

A file of ImageNet-22k has a head of 10,459 classes. A model with as many takes all of it, one with 1000 the rows of ImageNet-1k.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.models import imagenet22k
from jaxvision.models.registry import Variant
from jaxvision.models.rules import Rule
from jaxvision.nn.classifier import Classifier, global_mean
from jaxvision.nn.conv import Conv
from jaxvision.nn.mlp import gelu
from jaxvision.nn.norm import LayerNorm
from jaxvision.nn.patch import PatchProjection, whole_patches
from jaxvision.nn.pointwise import Dense, Pointwise
from jaxvision.nn.position import resize_grid
from jaxvision.nn.regularize import DropPath, drop_path_rates
from jaxvision.nn.residual import residual
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap

# The published code draws from a normal cut at +-2, which is a hundred standard deviations away.
init = nn.initializers.normal(0.02)


class GlobalLocalFilter(nn.Module):
    """Normalized channels, the first half convolved 3x3, the second multiplied with `complex_weight` in frequency (float32); then interleaved.

    Attributes:
      size: (rows, columns) of the map that the filter is made for; it has (C / 2, rows, columns // 2 + 1, 2) real numbers.
    """

    size: tuple[int, int]
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        half, (height, width) = x.shape[-1] // 2, x.shape[1:3]
        local, spread = jnp.split(LayerNorm(**dtypes, name="pre_norm")(x), 2, axis=-1)
        local = Conv(half, 3, groups=half, use_bias=False, kernel_init=init, **dtypes, name="dw")(local)
        shape = (half, self.size[0], self.size[1] // 2 + 1, 2)
        weight = resize_filter(self.param("complex_weight", init, shape, self.param_dtype).astype(jnp.float32), (height, width)).transpose(1, 2, 0, 3)
        spectrum = jnp.fft.rfft2(spread.astype(jnp.float32), axes=(1, 2), norm="ortho") * (weight[..., 0] + 1j * weight[..., 1])
        spread = jnp.fft.irfft2(spectrum, (height, width), axes=(1, 2), norm="ortho").astype(self.dtype)
        return LayerNorm(**dtypes, name="post_norm")(jnp.stack([local, spread], axis=-1).reshape(x.shape))


def resize_filter(weight: Float[Array, "d h w 2"], size: tuple[int, int]) -> Float[Array, "d h2 w2 2"]:
    """A frequency filter for maps of `size` (rows, columns), bilinear between aligned corners."""
    grid = resize_grid(weight.transpose(1, 2, 0, 3).reshape(*weight.shape[1:3], -1), (size[0], size[1] // 2 + 1), "corners")
    return grid.reshape(*grid.shape[:2], weight.shape[0], 2).transpose(2, 0, 1, 3)


class GnConv(nn.Module):
    """g^nConv: x = p * q_0, then x = W x * q_(i + 1) for i < n - 1, with widths C / 2^(n - 1), ..., C / 2, C, and q the depthwise-convolved part.

    Without biases it is homogeneous of degree n + 1 in its input.

    Attributes:
      order: n. `scale`: factor on the convolved part, 1/3 in every published model.
      filter_size: of a GlobalLocalFilter in place of the 7x7 convolution, None for that.
    """

    order: int
    scale: float = 1 / 3
    filter_size: tuple[int, int] | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        dim = x.shape[-1]
        if self.order < 1 or dim % 2 ** (self.order - 1):
            raise ModelError(f"a gated convolution of order {self.order} halves {dim} channels {self.order - 1} times, which does not come out even")
        widths = [dim // 2**i for i in reversed(range(self.order))]
        dtypes = {"kernel_init": init, "dtype": self.dtype, "param_dtype": self.param_dtype}
        x, q = jnp.split(Pointwise(2 * dim, **dtypes, name="proj_in")(x), [widths[0]], axis=-1)
        if self.filter_size is None:
            q = Conv(q.shape[-1], 7, groups=q.shape[-1], **dtypes, name="dwconv")(q)
        else:
            q = GlobalLocalFilter(self.filter_size, self.dtype, self.param_dtype, name="dwconv")(q)
        ends = [sum(widths[: i + 1]) for i in range(self.order - 1)]
        first, *rest = jnp.split(q * self.scale, ends, axis=-1)
        x = x * first
        for i, gate in enumerate(rest):
            x = Pointwise(widths[i + 1], **dtypes, name=f"pws_{i}")(x) * gate
        return Pointwise(dim, **dtypes, name="proj_out")(x)


class HorNetBlock(nn.Module):
    """x + drop_path(gamma1 * gnconv(norm1(x))), then x + drop_path(gamma2 * mlp(norm2(x))). Taps `out`."""

    mixer: functools.partial
    drop_path: float = 0.0
    layer_scale: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dim, start = x.shape[-1], nn.initializers.constant(self.layer_scale)
        scaled = lambda i, y: y * self.param(f"gamma{i}", start, (dim,), self.param_dtype).astype(self.dtype)
        y = self.mixer(name="gnconv")(LayerNorm(**dtypes, name="norm1")(x))
        x = residual(x, DropPath(self.drop_path)(scaled(1, y), train=train))
        y = gelu(Dense(4 * dim, kernel_init=init, **dtypes, name="pwconv1")(LayerNorm(**dtypes, name="norm2")(x)))
        y = Dense(dim, kernel_init=init, **dtypes, name="pwconv2")(y)
        out = residual(x, DropPath(self.drop_path)(scaled(2, y), train=train))
        tap(self, "out", lambda: out)
        return out


class HorNetStage(nn.Module):
    """LayerNorm and a 2x2 convolution of stride 2 (not in the first stage), then blocks."""

    dim: int
    mixer: functools.partial
    drop_path: tuple[float, ...]
    downsample: bool
    layer_scale: float = 1e-6
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.downsample:
            x = whole_patches(LayerNorm(**dtypes, name="downsample_0")(x), 2)
            x = PatchProjection((2, 2), self.dim, kernel_init=init, **dtypes, name="downsample_1")(x)
        block = nn.remat(HorNetBlock, static_argnums=(2,)) if self.remat else HorNetBlock
        for i, rate in enumerate(self.drop_path):
            x = block(self.mixer, rate, self.layer_scale, self.dtype, self.param_dtype, name=f"blocks_{i}")(x, train)
        return x


class HorNet(StagedClassifier):
    """Logits (B, num_classes) float32; with num_classes=0 the pooled, normalized features (B, 8 dim).

    `method="stages"`: one map a stage: strides `patch`, twice, four times and eight times that.

    Attributes:
      image_size: (H, W); it sets the size of the frequency filters, whatever the size of the images.
      dim: channels of the first stage; each stage doubles them. `depths`, `orders`: blocks and order of the gated convolutions, a stage.
      patch: side and stride of the stem's kernel, in pixels.
      filters: which stages have frequency filters.
      scale, layer_scale: see GnConv; initial value of a block's gammas.
      drop_path: rate of the last block; the others' rise linearly from 0.
      remat: recompute each block in the backward pass instead of keeping its activations.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    dim: int = 64
    depths: tuple[int, ...] = (2, 3, 18, 2)
    orders: tuple[int, ...] = (2, 3, 4, 5)
    patch: int = 4
    filters: tuple[bool, ...] = (False, False, False, False)
    scale: float = 1 / 3
    layer_scale: float = 1e-6
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def map_size(self, stage: int) -> tuple[int, int]:
        """(rows, columns) of a stage's maps for images of `image_size`."""
        rows, columns = (max(side // (self.patch * 2**stage), 1) for side in self.image_size)
        return rows, columns

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.check_size(image, self.patch * 2 ** (len(self.depths) - 1))
        x = PatchProjection((self.patch,) * 2, self.dim, kernel_init=init, **dtypes, name="stem_0")(whole_patches(image, self.patch))
        x = LayerNorm(**dtypes, name="stem_1")(x)
        rates, maps = drop_path_rates(self.drop_path, sum(self.depths)), []
        for i, (depth, order, filtered) in enumerate(zip(self.depths, self.orders, self.filters, strict=True)):
            own, rates = rates[:depth], rates[depth:]
            mixer = functools.partial(GnConv, order, self.scale, self.map_size(i) if filtered else None, **dtypes)
            x = HorNetStage(self.dim * 2**i, mixer, own, i > 0, self.layer_scale, self.remat, **dtypes, name=f"stages_{i}")(x, train)
            maps.append(x)
        if not head:
            return tuple(maps)
        x = LayerNorm(param_dtype=self.param_dtype, name="norm")(global_mean(x))
        return Classifier(self.num_classes, init, nn.initializers.zeros, self.param_dtype, name="head")(x) if self.num_classes else x


def _resize_filters(stage: int, value, old: HorNet, new: HorNet):
    del old
    return resize_filter(value, new.map_size(stage))


def adapt_checkpoint(arrays: dict[str, np.ndarray], layout: str, model: HorNet) -> dict[str, np.ndarray]:
    """For a model of 1000 classes, of a head of ImageNet-22k the rows of ImageNet-1k."""
    del layout
    if model.num_classes != len(imagenet22k.ROWS):
        return arrays
    is_large = lambda name, array: name in ("head.weight", "head.bias") and len(array) == imagenet22k.CLASSES
    return {name: array[np.array(imagenet22k.ROWS)] if is_large(name, array) else array for name, array in arrays.items()}


SIZE_DEPENDENT = tuple((rf"stages_{stage}/.*/complex_weight", functools.partial(_resize_filters, stage)) for stage in range(4))
_BLOCK, _THEIRS = r"stages_(\d+)/blocks_(\d+)", r"stages.\1.\2"
CHECKPOINT = {
    "torch": (
        Rule(r"stem_(\d)/(\w+)", r"downsample_layers.0.\1.\2"),
        Rule(r"stages_(\d+)/downsample_(\d)/(\w+)", r"downsample_layers.\1.\2.\3"),
        Rule(rf"{_BLOCK}/(gamma\d)", rf"{_THEIRS}.\3"),
        Rule(rf"{_BLOCK}/gnconv/dwconv/complex_weight", rf"{_THEIRS}.gnconv.dwconv.complex_weight"),
        Rule(rf"{_BLOCK}/gnconv/dwconv/(\w+)/(\w+)", rf"{_THEIRS}.gnconv.dwconv.\3.\4"),
        Rule(rf"{_BLOCK}/gnconv/pws_(\d+)/(\w+)", rf"{_THEIRS}.gnconv.pws.\3.\4"),
        Rule(rf"{_BLOCK}/gnconv/(\w+)/(\w+)", rf"{_THEIRS}.gnconv.\3.\4"),
        Rule(rf"{_BLOCK}/(\w+)/(\w+)", rf"{_THEIRS}.\3.\4"),
    )
}


def _variant(dim: int, parameters: int, filters: bool = False, side: int = 224) -> Variant:
    # From 384 pixels on the picture is resized to the square, and nothing cut off.
    fields = {"dim": dim, "filters": (False, False, filters, filters)}
    return Variant(HorNet, fields, (side, side), parameters=parameters, crop=0.875 if side < 384 else 1.0)


VARIANTS = {
    "hornet_tiny_7x7": _variant(64, 22_409_512),
    "hornet_tiny_gf": _variant(64, 22_991_848, True),
    "hornet_small_7x7": _variant(96, 49_528_264),
    "hornet_small_gf": _variant(96, 50_401_768, True),
    "hornet_base_7x7": _variant(128, 87_256_680),
    "hornet_base_gf": _variant(128, 88_421_352, True),
    "hornet_base_gf_img384": _variant(128, 92_099_560, True, 384),
    "hornet_large_7x7": _variant(192, 194_542_504),
    "hornet_large_gf": _variant(192, 196_289_512, True),
    "hornet_large_gf_img384": _variant(192, 201_806_824, True, 384),
}

"""ConvFirstNet (Lavin 2024, "On the Efficiency of Convolutional Neural Networks", arXiv 2404.03617).

A block is fast when it runs as one kernel whose inner maps never leave the chip. ConvFirst makes this cheap: the grouped 3x3 convolution comes
before the pair of pointwise layers, so that a tile needs a border of the narrow input alone, and the wide map between the two layers is pointwise and
passes through in slices. Groups of 8 channels in place of single ones raise the arithmetic done for each byte.

The block is the author's published reference: no activation after the convolution, SiLU between the pointwise layers, batch norm after each of the
three. The stage table of the paper's networks is not public: widths, depths, stem and head are ours, as is drop path. A stage starts with a block of
stride 2, then MLPs and blocks take turns. `block` puts another one in their place: "mbconv", the author's grouped inverted bottleneck, or "convnext".
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.models.convnext import ConvNeXtBlock
from jaxvision.models.registry import Variant
from jaxvision.nn.classifier import Classifier, global_mean
from jaxvision.nn.conv import Conv
from jaxvision.nn.norm import BatchNorm
from jaxvision.nn.regularize import DropPath, drop_path_rates
from jaxvision.nn.residual import residual
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap

BLOCKS = ("convfirst", "mbconv", "convnext")


class Residual(nn.Module):
    """x + drop_path(layers(x)), the sum left out where shapes differ. Taps `out`.

    Attributes:
      features: of the output.
      layers: "convfirst", "mbconv" or "mlp".
      group_width: channels of each group of the convolution.
      kernel_size, strides: of the convolution.
      expansion: width between the pointwise layers over that of the input.
      conv, norm: partials of `Conv` and `BatchNorm` that carry dtypes and groups.
    """

    features: int
    layers: str
    conv: functools.partial
    norm: functools.partial
    group_width: int = 8
    kernel_size: int = 3
    strides: int = 1
    expansion: int = 4
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        dim, wide = x.shape[-1], self.expansion * x.shape[-1]

        def spatial(y):
            if y.shape[-1] % self.group_width:
                raise ModelError(f"model.group_width={self.group_width} does not divide the {y.shape[-1]} channels of a convolution")
            groups = y.shape[-1] // self.group_width
            y = self.conv(y.shape[-1], self.kernel_size, self.strides, groups=groups, name="conv")(y)
            return self.norm(name="conv_norm")(y, train=train)

        def pointwise(y, features, name):
            return self.norm(name=f"{name}_norm")(self.conv(features, name=name)(y), train=train)

        y = spatial(x) if self.layers == "convfirst" else x
        y = nn.silu(pointwise(y, wide, "expand"))
        y = nn.silu(spatial(y)) if self.layers == "mbconv" else y
        y = pointwise(y, self.features, "project")
        out = residual(x, DropPath(self.drop_path)(y, train=train)) if self.features == dim and self.strides == 1 else y
        tap(self, "out", lambda: out)
        return out


class ConvFirstNet(StagedClassifier):
    """Logits (B, num_classes) float32; with num_classes=0 the pooled features (B, hidden).

    `method="stages"`: one map a stage, strides 4, 8, 16, 32.

    Attributes:
      depths, dims: blocks and channels a stage, the stage's first block (stride 2) included.
      block: "convfirst", "mbconv" or "convnext" (depthwise 7x7, for comparison; without MLPs in between, its own pointwise layers being one).
      group_width, expansion, kernel_size: of the blocks; "convnext" has its own.
      stem: channels of the first 3x3 convolution (stride 2).
      hidden: channels of the 1x1 convolution before the mean.
      norm_groups: blocks of the batch with statistics of their own.
      drop_path: rate of the last block; the others' rise linearly from 0.
      remat: recompute each block in the backward pass.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    dims: tuple[int, ...] = (64, 128, 256, 512)
    block: str = "convfirst"
    group_width: int = 8
    expansion: int = 4
    kernel_size: int = 3
    stem: int = 32
    hidden: int = 1024
    norm_groups: int = 1
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        if self.block not in BLOCKS:
            raise ModelError(f"model.block {self.block!r} is unknown; {nearest(self.block, BLOCKS)}")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(Conv, use_bias=False, **dtypes)
        norm = functools.partial(BatchNorm, groups=self.norm_groups, **dtypes)
        branch = functools.partial(
            nn.remat(Residual, static_argnums=(2,)) if self.remat else Residual,
            conv=conv,
            norm=norm,
            group_width=self.group_width,
            kernel_size=self.kernel_size,
            expansion=self.expansion,
        )
        depthwise = functools.partial(nn.remat(ConvNeXtBlock, static_argnums=(2,)) if self.remat else ConvNeXtBlock, layer_scale=1.0, **dtypes)

        x = nn.silu(norm(name="stem_norm")(conv(self.stem, 3, 2, name="stem")(image), train=train))
        rates, maps = iter(drop_path_rates(self.drop_path, sum(self.depths))), []
        for i, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True)):
            for j in range(depth):
                rate, name = next(rates), f"stages_{i}_blocks_{j}"
                if self.block == "convnext" and j:
                    x = depthwise(drop_path=rate, name=name)(x, train)
                    continue
                layers = "mlp" if j % 2 else "mbconv" if self.block == "mbconv" else "convfirst"
                x = branch(dim, layers, strides=1 if j else 2, drop_path=rate, name=name)(x, train)
            maps.append(x)
        if not head:
            return tuple(maps)
        x = global_mean(nn.silu(norm(name="head_norm")(conv(self.hidden, name="head")(x), train=train)))
        return Classifier(self.num_classes, param_dtype=self.param_dtype, name="fc")(x) if self.num_classes else x


def _variant(depths: tuple[int, ...], parameters: int) -> Variant:
    return Variant(ConvFirstNet, {"depths": depths}, parameters=parameters)


VARIANTS = {
    "convfirstnet_tiny": _variant((2, 2, 6, 2), 7_578_184),
    "convfirstnet_small": _variant((3, 3, 9, 3), 11_516_744),
}

"""ResNet v2 (He et al. 2016, arXiv 1603.05027) and BiT (Kolesnikov et al. 2020, 1912.11370).

Normalization and activation come before each convolution, so the sum of a block stays linear. The BiT networks standardize their filters, normalize
by groups, pad the stem's max-pool with zeros instead of minus infinity, and may be several times wider; the others use batch norm, all as in timm.
As there, the stride of a bottleneck sits in its 3x3 convolution.

`stages` gives four maps before the last normalization, at strides 4, 8, 16, 32; the tap "stem" holds the map before the max-pool.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.models.registry import INCEPTION_MEAN, INCEPTION_STD, Variant
from jaxvision.models.rules import Rule
from jaxvision.nn.conv import Conv
from jaxvision.nn.group_norm import GroupNorm
from jaxvision.nn.norm import BatchNorm
from jaxvision.nn.pool import avg_pool, max_pool
from jaxvision.nn.regularize import DropPath, drop_path_rates
from jaxvision.nn.residual import residual
from jaxvision.nn.resizing import resizable
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.standardized_conv import StandardizedConv
from jaxvision.nn.taps import tap

# Widths of a deep stem's first two convolutions as shares of the last.
STEMS = {"7x7": (), "fixed": (), "deep": (1 / 2, 1 / 2), "tiered": (3 / 8, 1 / 2)}
NORMS = ("batch", "group")


class Block(nn.Module):
    """norm, relu, conv, twice (3x3, 3x3) or three times (1x1, 3x3, 1x1), plus a shortcut that is projected from the first normalized map.

    Attributes:
      features: of the output. inner: of a bottleneck's two first convolutions; 0 for the basic block.
      project: whether the shortcut is a 1x1 convolution. avg_down: it averages before it projects.
    """

    features: int
    inner: int
    strides: int
    conv: Callable
    norm: Callable
    project: bool
    avg_down: bool
    drop_path: float
    zero_init: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        last = functools.partial(self.conv, kernel_init=nn.initializers.zeros) if self.zero_init else self.conv
        y = z = nn.relu(self.norm(name="norm1")(x, train=train))
        if self.inner:
            y = nn.relu(self.norm(name="norm2")(self.conv(self.inner, 1, name="conv1")(y), train=train))
            y = nn.relu(self.norm(name="norm3")(self.conv(self.inner, 3, self.strides, name="conv2")(y), train=train))
            y = last(self.features, 1, name="conv3")(y)
        else:
            y = nn.relu(self.norm(name="norm2")(self.conv(self.features, 3, self.strides, name="conv1")(y), train=train))
            y = last(self.features, 3, name="conv2")(y)
        if resizable(self, "project", self.project):
            strides = self.strides
            if self.avg_down and strides > 1:
                z, strides = avg_pool(z, 2, strides, ceil_mode=True), 1
            x = self.conv(self.features, 1, strides, name="downsample")(z)
        out = residual(x, DropPath(self.drop_path)(y, train=train))
        tap(self, "out", lambda: out)
        return out


class Stem(nn.Module):
    """The convolutions before the max-pool; see `ResNetV2.stem`."""

    features: int
    kind: str
    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        shares = STEMS[self.kind]
        if not shares:
            return self.conv(self.features, 7, 2, name="conv")(x)
        for i, share in enumerate(shares):
            x = self.conv(int(self.features * share), 3, 1 if i else 2, name=f"conv{i + 1}")(x)
            x = nn.relu(self.norm(name=f"norm{i + 1}")(x, train=train))
        return self.conv(self.features, 3, name="conv3")(x)


class ResNetV2(StagedClassifier):
    """Pre-activation residual network.

    Attributes:
      depths: blocks a stage; every stage but the first halves the map.
      widths: channels of each stage's output. width: multiplies them and the stem's.
      bottleneck: three convolutions a block, the two first a quarter as wide, instead of two.
      stem: "7x7", "fixed" (the same, its max-pool padded with zeros), "deep" or "tiered" (three 3x3 convolutions).
      norm: "batch" or "group" (32 groups). standardize: weight standardization.
      avg_down: shortcuts average before they project.
      dropout: before the dense layer. drop_path: of the last block, rising linearly from 0.
      norm_groups: see `BatchNorm.groups`; without meaning for group norm. remat: recompute each block in the backward pass.
      zero_init: start the last convolution of each block at zero.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    width: int = 1
    bottleneck: bool = True
    stem: str = "7x7"
    norm: str = "batch"
    standardize: bool = False
    avg_down: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0
    norm_groups: int = 1
    remat: bool = False
    zero_init: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        for field, choices in (("stem", STEMS), ("norm", NORMS)):
            if getattr(self, field) not in choices:
                raise ModelError(f"model.{field} {getattr(self, field)!r} is unknown; {nearest(getattr(self, field), choices)}")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(StandardizedConv, **dtypes) if self.standardize else functools.partial(Conv, use_bias=False, **dtypes)
        batch_norm = functools.partial(BatchNorm, groups=self.norm_groups, **dtypes)
        norm = batch_norm if self.norm == "batch" else functools.partial(GroupNorm, **dtypes)
        x = Stem(64 * self.width, self.stem, conv, norm, name="stem")(image, train)
        tap(self, "stem", lambda: x)
        if self.stem == "fixed":
            x = max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)
        else:
            x = max_pool(x, 3, 2, 1)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        maps = []
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths)):
            features = width * self.width
            for i in range(depth):
                strides = 2 if stage and i == 0 else 1
                x = block(
                    features,
                    inner=features // 4 if self.bottleneck else 0,
                    strides=strides,
                    conv=conv,
                    norm=norm,
                    project=i == 0 and (self.bottleneck or strides > 1 or x.shape[-1] != features),
                    avg_down=self.avg_down,
                    drop_path=next(rates),
                    zero_init=self.zero_init,
                    name=f"stages_{stage}_{i}",
                )(x, train)
            maps.append(x)
        if not head:
            return tuple(maps)
        x = nn.relu(norm(name="norm")(x, train=train))
        inits = {"kernel_init": nn.initializers.normal(0.01), "bias_init": nn.initializers.zeros}
        return self.classify(x, train, **inits, name="head")


DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BASIC = {"bottleneck": False, "widths": (64, 128, 256, 512)}
D = {"stem": "deep", "avg_down": True}
T = {"stem": "tiered", "avg_down": True}
BIT = {"stem": "fixed", "norm": "group", "standardize": True}
COLORS = {"mean": INCEPTION_MEAN, "std": INCEPTION_STD}
LARGE = {"image_size": (448, 448), "crop": 1.0, "interpolation": "bilinear"}

VARIANTS = {
    f"resnetv2_{name}": Variant(ResNetV2, {"depths": DEPTHS[depth], **settings}, parameters=parameters, **COLORS, **inputs)
    for name, depth, settings, parameters, inputs in (
        ("18", 18, BASIC, 11_687_720, {"crop": 0.9}),
        ("18d", 18, {**BASIC, **D}, 11_706_952, {"crop": 0.9}),
        ("34", 34, BASIC, 21_795_880, {"crop": 0.9}),
        ("34d", 34, {**BASIC, **D}, 21_815_112, {"crop": 0.9}),
        ("50", 50, {}, 25_549_352, {"crop": 0.95}),
        ("50d", 50, D, 25_568_584, {}),
        ("50d_gn", 50, {**D, "norm": "group"}, 25_568_584, {"crop": 0.95}),
        ("50t", 50, T, 25_566_048, {}),
        ("101", 101, {}, 44_541_480, {"crop": 0.95}),
        ("101d", 101, D, 44_560_712, {}),
        ("152", 152, {}, 60_185_128, {}),
        ("152d", 152, D, 60_204_360, {}),
        ("50x1_bit", 50, BIT, 25_549_352, {}),
        # Of these two the literature gives whole millions: 98 and 173.
        ("50x2_bit", 50, {**BIT, "width": 2}, None, {}),
        ("101x2_bit", 101, {**BIT, "width": 2}, None, {}),
        ("50x3_bit", 50, {**BIT, "width": 3}, 217_319_080, LARGE),
        ("101x1_bit", 101, BIT, 44_541_480, LARGE),
        ("101x3_bit", 101, {**BIT, "width": 3}, 387_934_888, LARGE),
        ("152x2_bit", 152, {**BIT, "width": 2}, 236_335_208, {}),
        ("152x4_bit", 152, {**BIT, "width": 4}, 936_533_224, {**LARGE, "image_size": (480, 480)}),
    )
}

_BIT = {
    "1": "a", "2": "b", "3": "c", "conv": "standardized_conv2d", "norm": "group_norm", "scale": "gamma", "bias": "beta", "kernel": "kernel",
}  # fmt: skip


def _bit_layer(match: re.Match) -> str:
    stage, number, kind, place, *leaf = match.groups()
    unit = f"resnet/block{int(stage) + 1}/unit{int(number) + 1:02d}"
    if kind == "downsample":
        return f"{unit}/a/proj/standardized_conv2d/kernel"
    return f"{unit}/{_BIT[place]}/{_BIT[kind]}/{_BIT[leaf[0]]}"


CHECKPOINT = {
    "torch": (
        Rule(r"stages_(\d)_(\d+)/downsample/kernel", r"stages.\1.blocks.\2.downsample.conv.kernel"),
        Rule(r"stages_(\d)_(\d+)/(\w+)/(\w+)", r"stages.\1.blocks.\2.\3.\4"),
        # The published head is a 1x1 convolution.
        Rule(r"head/kernel", r"head.fc.kernel", load=lambda arrays, shape: arrays[0].reshape(shape[::-1]).T, save=lambda a: (a.T[:, :, None, None],)),
        Rule(r"head/bias", r"head.fc.bias"),
    ),
    # The release of BiT, whose units are numbered from 1.
    "npz": (
        Rule(r"stem/conv/kernel", "resnet/root_block/standardized_conv2d/kernel"),
        Rule(r"stages_(\d)_(\d+)/(conv|norm)([123])/(\w+)", _bit_layer),
        Rule(r"stages_(\d)_(\d+)/(downsample)()/kernel", _bit_layer),
        Rule(r"norm/(\w+)", lambda match: f"resnet/group_norm/{_BIT[match[1]]}"),
        Rule(r"head/kernel", "resnet/head/conv2d/kernel", save=lambda array: (array[None, None],)),
        Rule(r"head/bias", "resnet/head/conv2d/bias"),
    ),
}

"""RegNet X, Y, Z (Radosavovic et al. 2020, arXiv 2003.13678; Z: Dollar et al. 2021, 2103.06877) and its scaled relatives.

Block widths follow a quantized line, u_j = w0 + wa j, which four numbers describe; Y adds squeeze-and-excitation, Z inverts the bottleneck and
leaves the last activation out. Names and constants are timm's; the "_tv" variants round widths as torchvision does. models/scaling.py scales them.

`stages` gives four maps, at strides 4, 8, 16, 32; the tap "stem" holds the map at stride 2.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.models.registry import Variant
from jaxvision.models.rules import Rule
from jaxvision.nn.conv import Conv
from jaxvision.nn.conv_norm import ConvNorm
from jaxvision.nn.inverted_residual import round_width
from jaxvision.nn.norm import BatchNorm
from jaxvision.nn.regularize import DropPath, drop_path_rates
from jaxvision.nn.residual import residual
from jaxvision.nn.resizing import resizable
from jaxvision.nn.squeeze_excite import SqueezeExcite
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap

ACTIVATIONS = {"relu": nn.relu, "silu": nn.silu}


class Block(nn.Module):
    """1x1, grouped 3x3, (squeeze-and-excitation,) 1x1, plus a shortcut.

    Attributes:
      inner: channels of the 3x3 convolution. group_width: channels of each of its groups.
      reduced: channels inside the squeeze-and-excitation, 0 for none. reduced_activation: theirs.
      project: a 1x1 convolution as the shortcut where shapes change; without it such a block has no shortcut (Z).
      linear: no activation after the sum (Z).
    """

    features: int
    inner: int
    group_width: int
    strides: int
    unit: Callable
    activation: Callable
    reduced: int
    reduced_activation: Callable
    project: bool
    linear: bool
    drop_path: float
    zero_init: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        groups = self.inner // self.group_width
        init = nn.initializers.variance_scaling(2.0 * groups, "fan_out", "normal")
        y = self.unit(self.inner, 1, 1, activation=self.activation, name="conv1")(x, train)
        options = (("groups", groups), ("kernel_init", init))
        y = self.unit(self.inner, 3, self.strides, activation=self.activation, conv_options=options, name="conv2")(y, train)
        if resizable(self, "squeeze", self.reduced > 0):
            dtypes = {key: self.unit.keywords["conv"].keywords[key] for key in ("dtype", "param_dtype")}
            y = SqueezeExcite(self.reduced, activation=self.reduced_activation, **dtypes, name="se")(y)
        norm = self.unit.keywords["norm"]
        last = functools.partial(norm, scale_init=nn.initializers.zeros) if self.zero_init else norm
        y = self.unit(self.features, 1, 1, norm=last, activation=None, name="conv3")(y, train)
        if resizable(self, "skip", y.shape == x.shape):
            y = residual(x, DropPath(self.drop_path)(y, train=train))
        elif self.project:
            x = self.unit(self.features, 1, self.strides, activation=None, name="downsample")(x, train)
            y = residual(x, DropPath(self.drop_path)(y, train=train))
        y = y if self.linear else self.activation(y)
        tap(self, "out", lambda: y)
        return y


class RegNet(StagedClassifier):
    """A 3x3 stem of stride 2 and stages that each begin with stride 2.

    Attributes:
      depths, widths, group_widths: one number a stage; see `generate`.
      bottleneck: channels of the 3x3 convolutions a channel of the output (4 in Z).
      se: channels inside the squeeze-and-excitation a channel of the block's input, 0 for none.
      head: channels of a 1x1 convolution after the stages, 0 for none.
      project, linear: see `Block`.
      dropout: before the dense layer. drop_path: of the last block, rising linearly from 0.
      norm_groups: see `BatchNorm.groups`. remat: recompute each block in the backward pass.
      zero_init: start each block that has a shortcut as that shortcut.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...] = (2, 6, 12, 2)
    widths: tuple[int, ...] = (128, 192, 512, 1088)
    group_widths: tuple[int, ...] = (64, 64, 64, 64)
    bottleneck: float = 1.0
    se: float = 0.0
    stem: int = 32
    head: int = 0
    project: bool = True
    linear: bool = False
    activation: str = "relu"
    dropout: float = 0.0
    drop_path: float = 0.0
    norm_groups: int = 1
    remat: bool = False
    zero_init: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        if self.activation not in ACTIVATIONS:
            raise ModelError(f"model.activation {self.activation!r} is unknown; {nearest(self.activation, ACTIVATIONS)}")
        activation = ACTIVATIONS[self.activation]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(Conv, use_bias=False, **dtypes)
        unit = functools.partial(ConvNorm, conv=conv, norm=functools.partial(BatchNorm, groups=self.norm_groups, **dtypes))
        x = unit(self.stem, 3, 2, activation=activation, name="stem")(image, train)
        tap(self, "stem", lambda: x)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        maps = []
        for stage, (depth, width, group_width) in enumerate(zip(self.depths, self.widths, self.group_widths)):
            for i in range(depth):
                x = block(
                    width,
                    inner=round(width * self.bottleneck),
                    group_width=group_width,
                    strides=2 if i == 0 else 1,
                    unit=unit,
                    activation=activation,
                    reduced=round(x.shape[-1] * self.se),
                    reduced_activation=activation,
                    project=self.project,
                    linear=self.linear,
                    drop_path=next(rates),
                    zero_init=self.zero_init,
                    name=f"s{stage + 1}_b{i + 1}",
                )(x, train)
            maps.append(x)
        if not head:
            return tuple(maps)
        if self.head:
            x = unit(self.head, 1, 1, activation=activation, name="final_conv")(x, train)
        elif self.linear:
            x = activation(x)
        inits = {"kernel_init": nn.initializers.normal(0.01), "bias_init": nn.initializers.zeros}
        return self.classify(x, train, **inits, name="head")


def generate(depth: int, w0: int, wa: float, wm: float, group_width: int, bottleneck: float = 1.0, torchvision: bool = False) -> dict:
    """`depths`, `widths` and `group_widths` of the stages of a RegNet (equations 2-4 of the paper), widths made divisible by their groups.

    Args:
      depth: blocks in all. w0, wa: first width and slope of the line. wm: ratio of neighbouring stage widths.
      torchvision: round up where rounding down would lose over a tenth.
    """
    exponents = [round(math.log((w0 + wa * j) / w0) / math.log(wm)) for j in range(depth)]
    blocks = [round(w0 * wm**k / 8) * 8 for k in exponents]
    widths, depths = zip(*((width, len(list(run))) for width, run in itertools.groupby(blocks)))
    fitted = [fit(width, group_width, bottleneck, torchvision) for width in widths]
    widths, groups = zip(*fitted)
    return {"depths": depths, "widths": widths, "group_widths": groups}


def fit(width: int, group_width: int, bottleneck: float = 1.0, torchvision: bool = False) -> tuple[int, int]:
    """The nearest (width, group width) such that whole groups fill the 3x3 convolution, whose width stays a multiple of `bottleneck` above 1."""
    inner = int(max(1, width * bottleneck))
    group_width = min(group_width, inner)
    divisor = math.lcm(group_width, int(bottleneck)) if bottleneck > 1 else group_width
    inner = round_width(inner, divisor) if torchvision else max(divisor, round(inner / divisor) * divisor)
    return int(inner / bottleneck), group_width


SE = {"se": 0.25}
Z = {"bottleneck": 4.0, "se": 0.25, "project": False, "linear": True, "activation": "silu"}
LARGE = {"image_size": (384, 384), "crop": 1.0}
TV = {"crop": 0.965}
RA = {"crop": 0.95}
# Depth, w0, wa, wm, group width; further fields; parameters; input.
TABLE = {
    "regnetx_002": ((13, 24, 36.44, 2.49, 8), {}, 2_684_792, {}),
    "regnetx_004": ((22, 24, 24.48, 2.54, 16), {}, 5_157_512, {}),
    "regnetx_004_tv": ((22, 24, 24.48, 2.54, 16), {}, 5_495_976, TV),
    "regnetx_006": ((16, 48, 36.97, 2.24, 24), {}, 6_196_040, {}),
    "regnetx_008": ((16, 56, 35.73, 2.28, 16), {}, 7_259_656, TV),
    "regnetx_016": ((18, 80, 34.01, 2.25, 24), {}, 9_190_136, TV),
    "regnetx_032": ((25, 88, 26.31, 2.25, 48), {}, 15_296_552, TV),
    "regnetx_040": ((23, 96, 38.65, 2.43, 40), {}, 22_118_248, {}),
    "regnetx_064": ((17, 184, 60.83, 2.07, 56), {}, 26_209_256, {}),
    "regnetx_080": ((23, 80, 49.56, 2.88, 120), {}, 39_572_648, TV),
    "regnetx_120": ((19, 168, 73.36, 2.37, 112), {}, 46_106_056, {}),
    "regnetx_160": ((22, 216, 55.59, 2.1, 128), {}, 54_278_536, TV),
    "regnetx_320": ((23, 320, 69.86, 2.0, 168), {}, 107_811_560, TV),
    "regnety_002": ((13, 24, 36.44, 2.49, 8), SE, 3_162_996, {}),
    "regnety_004": ((16, 48, 27.89, 2.09, 8), SE, 4_344_144, TV),
    "regnety_006": ((15, 48, 32.54, 2.32, 16), SE, 6_055_160, {}),
    "regnety_008": ((14, 56, 38.84, 2.4, 16), SE, 6_263_168, {}),
    "regnety_008_tv": ((14, 56, 38.84, 2.4, 16), SE, 6_432_512, TV),
    "regnety_016": ((27, 48, 20.71, 2.65, 24), SE, 11_202_430, TV),
    "regnety_032": ((21, 80, 42.63, 2.66, 24), SE, 19_436_338, RA),
    "regnety_040": ((22, 96, 31.41, 2.24, 64), SE, 20_646_656, RA),
    "regnety_064": ((25, 112, 33.22, 2.27, 72), SE, 30_583_252, RA),
    "regnety_080": ((17, 192, 76.82, 2.19, 56), SE, 39_180_068, RA),
    "regnety_080_tv": ((17, 192, 76.82, 2.19, 56), SE, 39_381_472, TV),
    "regnety_120": ((19, 168, 73.36, 2.37, 112), SE, 51_822_544, RA),
    "regnety_160": ((18, 200, 106.23, 2.48, 112), SE, 83_590_140, RA),
    "regnety_320": ((20, 232, 115.89, 2.53, 232), SE, 145_046_770, TV),
    "regnety_640": ((20, 352, 147.48, 2.4, 328), SE, 281_378_786, LARGE),
    "regnety_1280": ((27, 456, 160.83, 2.52, 264), SE, 644_812_894, LARGE),
    "regnety_2560": ((27, 640, 230.83, 2.53, 373), SE, 1_282_601_138, LARGE),
    "regnetz_005": ((21, 16, 10.7, 2.51, 4), {**Z, "head": 1024}, 7_122_742, RA),
    "regnetz_040": ((28, 48, 14.5, 2.226, 8), Z, 27_116_800, {"image_size": (256, 256), "crop": 1.0}),
    "regnetz_040_h": ((28, 48, 14.5, 2.226, 8), {**Z, "head": 1536}, 28_938_880, {"image_size": (256, 256), "crop": 1.0}),
}


def _settings(name: str) -> dict:
    line, settings, _, _ = TABLE[name]
    return {**generate(*line, bottleneck=settings.get("bottleneck", 1.0), torchvision=name.endswith("_tv")), **settings}


VARIANTS = {name: Variant(RegNet, _settings(name), parameters=row[2], **row[3]) for name, row in TABLE.items()}

_PARTS = {"conv1": "f.a", "conv2": "f.b", "conv3": "f.c", "se": "f.se", "downsample": "proj", "conv": "0", "bn": "1"}


def _torchvision_block(match: re.Match) -> str:
    stage, number, part, layer, leaf = match.groups()
    return f"trunk_output.block{stage}.block{stage}-{int(number) - 1}.{_PARTS[part]}.{_PARTS.get(layer, layer)}.{leaf}"


CHECKPOINT = {
    "torch": (Rule(r"s(\d)_b(\d+)/(\w+)/(\w+)/(\w+)", r"s\1.b\2.\3.\4.\5"), Rule(r"head/(\w+)", r"head.fc.\1")),
    "torchvision": (
        Rule(r"stem/(\w+)/(\w+)", lambda match: f"stem.{_PARTS[match[1]]}.{match[2]}"),
        Rule(r"s(\d)_b(\d+)/(\w+)/(\w+)/(\w+)", _torchvision_block),
        Rule(r"head/(\w+)", r"fc.\1"),
    ),
}

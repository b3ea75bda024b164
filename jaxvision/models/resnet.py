"""ResNet (He et al. 2015, arXiv 1512.03385), and what the same code gives: Wide ResNet (1605.07146), ResNeXt (1611.05431), SE (1709.01507),
the deep-stem "D" and "T" variants of the Bag of Tricks (1812.01187), and the small networks for 32x32 images.

Blocks add a learned residual to their input, so depth does not hinder training. As in torchvision, the stride of a bottleneck sits in its 3x3
convolution ("v1.5"), padding is symmetric, and the last normalization of every block starts at zero (as in timm and in Goyal et al. 2017).

`stages` gives four maps, at strides 4, 8, 16, 32 (1, 2, 4, 8 with the "cifar" stem); the tap "stem" holds the map before the max-pool.
The names ending in "_cifar" keep a 3x3 stem without max-pool; resnet20 and resnet32 have three stages and 1x1 convolutions as shortcuts.
"""

import functools
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
from jaxvision.nn.norm import BatchNorm
from jaxvision.nn.pool import avg_pool, max_pool
from jaxvision.nn.regularize import DropPath, drop_path_rates
from jaxvision.nn.residual import residual
from jaxvision.nn.resizing import resizable
from jaxvision.nn.squeeze_excite import SqueezeExcite
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap

# Widths of the three 3x3 convolutions of a deep stem; the last is the width that the first stage receives.
STEMS = {"7x7": (64,), "deep": (32, 32, 64), "tiered": (24, 32, 64), "cifar": None, "none": ()}


class Block(nn.Module):
    """Basic (3x3, 3x3) or bottleneck (1x1, 3x3, 1x1 with four times the width) residual block, post-activation.

    Attributes:
      planes: width of the stage as the paper counts it; the output has `planes`, or 4 * planes of a bottleneck.
      width: of the bottleneck's 3x3 convolution.
      groups: of the 3x3 convolution (ResNeXt).
      avg_down: the shortcut halves by averaging before its 1x1 convolution.
    """

    planes: int
    strides: int
    conv: Callable
    norm: Callable
    bottleneck: bool
    width: int
    groups: int
    avg_down: bool
    se: bool
    drop_path: float
    zero_init: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        features = self.planes * (4 if self.bottleneck else 1)
        last = functools.partial(self.norm, scale_init=nn.initializers.zeros if self.zero_init else nn.initializers.ones)
        if self.bottleneck:
            y = nn.relu(self.norm(name="bn1")(self.conv(self.width, 1, name="conv1")(x), train=train))
            y = self.conv(self.width, 3, self.strides, groups=self.groups, name="conv2")(y)
            y = nn.relu(self.norm(name="bn2")(y, train=train))
            y = last(name="bn3")(self.conv(features, 1, name="conv3")(y), train=train)
        else:
            y = nn.relu(self.norm(name="bn1")(self.conv(self.planes, 3, self.strides, name="conv1")(x), train=train))
            y = last(name="bn2")(self.conv(features, 3, name="conv2")(y), train=train)
        if self.se:
            reduced = max(8, int(features / 16 + 4) // 8 * 8)
            y = SqueezeExcite(reduced, dtype=self.conv.keywords["dtype"], param_dtype=self.conv.keywords["param_dtype"], name="se")(y)
        if resizable(self, "project", self.strides != 1 or x.shape[-1] != features):
            x = self.shortcut(x, features, train)
        out = nn.relu(residual(x, DropPath(self.drop_path)(y, train=train)))
        tap(self, "out", lambda: out)
        return out

    def shortcut(self, x, features: int, train: bool):
        if not self.avg_down:
            x = self.conv(features, 1, self.strides, name="downsample_0")(x)
            return self.norm(name="downsample_1")(x, train=train)
        if self.strides != 1:
            x = avg_pool(x, 2, self.strides, ceil_mode=True)
        return self.norm(name="downsample_2")(self.conv(features, 1, name="downsample_1")(x), train=train)


class ResNet(StagedClassifier):
    """Residual network: stem, stages of blocks, global mean, one dense layer.

    Attributes:
      depths: blocks a stage; every stage but the first halves the map.
      widths: `planes` of each stage.
      bottleneck: three convolutions a block instead of two.
      groups, base_width: cardinality and width a group of ResNeXt; a bottleneck's 3x3 has planes * base_width / 64 * groups channels.
      stem: one of "7x7", "deep", "tiered" (each followed by a max-pool), "cifar" (3x3, stride 1, no pool), "none" (maps come in).
      avg_down: shortcuts average before they project.
      se: squeeze-and-excitation at the end of each residual branch, reduced 16 times.
      dropout: before the dense layer. drop_path: of the last block, rising linearly from 0.
      norm_groups: see `BatchNorm.groups`. remat: recompute each block in the backward pass.
      zero_init: start each block as the identity.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    bottleneck: bool = False
    groups: int = 1
    base_width: int = 64
    stem: str = "7x7"
    avg_down: bool = False
    se: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0
    norm_groups: int = 1
    remat: bool = False
    zero_init: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        if self.stem not in STEMS:
            raise ModelError(f"model.stem {self.stem!r} is unknown; {nearest(self.stem, STEMS)}")
        conv = functools.partial(Conv, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)
        norm = functools.partial(BatchNorm, groups=self.norm_groups, dtype=self.dtype, param_dtype=self.param_dtype)
        x = self.embed(image, conv, norm, train)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        maps = []
        for stage, (depth, planes) in enumerate(zip(self.depths, self.widths)):
            for i in range(depth):
                x = block(
                    planes,
                    strides=2 if stage and i == 0 else 1,
                    conv=conv,
                    norm=norm,
                    bottleneck=self.bottleneck,
                    width=planes * self.base_width // 64 * self.groups,
                    groups=self.groups,
                    avg_down=self.avg_down,
                    se=self.se,
                    drop_path=next(rates),
                    zero_init=self.zero_init,
                    name=f"layer{stage + 1}_{i}",
                )(x, train)
            maps.append(x)
        if not head:
            return tuple(maps)
        return self.classify(x, train, name="fc")

    def embed(self, x, conv: Callable, norm: Callable, train: bool):
        if self.stem == "none":
            return x
        if self.stem == "cifar":
            return nn.relu(norm(name="bn1")(conv(self.widths[0], 3, name="conv1")(x), train=train))
        if self.stem == "7x7":
            x = conv(*STEMS[self.stem], 7, 2, name="conv1")(x)
        else:
            first, second, last = STEMS[self.stem]
            x = nn.relu(norm(name="conv1_1")(conv(first, 3, 2, name="conv1_0")(x), train=train))
            x = nn.relu(norm(name="conv1_4")(conv(second, 3, name="conv1_3")(x), train=train))
            x = conv(last, 3, name="conv1_6")(x)
        x = nn.relu(norm(name="bn1")(x, train=train))
        tap(self, "stem", lambda: x)
        return max_pool(x, 3, 2, 1)


def _basic(depths: tuple[int, ...], **settings) -> dict:
    return {"depths": depths, **settings}


def _bottleneck(depths: tuple[int, ...], **settings) -> dict:
    return {"depths": depths, "bottleneck": True, **settings}


D = {"stem": "deep", "avg_down": True}
T = {"stem": "tiered", "avg_down": True}
SE = {"se": True}
DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
A1 = {"crop": 0.95}
BILINEAR = {"interpolation": "bilinear"}
CIFAR = {"image_size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261), "crop": 1.0, "classes": 10}
SMALL = {"widths": (16, 32, 64), "stem": "cifar"}

VARIANTS = {
    name: Variant(ResNet, settings, parameters=parameters, **inputs)
    for name, settings, parameters, inputs in (
        ("resnet10t", _basic((1, 1, 1, 1), **T), 5_435_488, {"image_size": (176, 176)}),
        ("resnet14t", _bottleneck((1, 1, 1, 1), **T), 10_081_632, {"image_size": (176, 176)}),
        ("resnet18", _basic((2, 2, 2, 2)), 11_689_512, A1),
        ("resnet18d", _basic((2, 2, 2, 2), **D), 11_708_744, {}),
        ("resnet26", _bottleneck(DEPTHS[26]), 15_995_176, {}),
        ("resnet26d", _bottleneck(DEPTHS[26], **D), 16_014_408, {}),
        ("resnet34", _basic((3, 4, 6, 3)), 21_797_672, A1),
        ("resnet34d", _basic((3, 4, 6, 3), **D), 21_816_904, {}),
        ("resnet50", _bottleneck(DEPTHS[50]), 25_557_032, A1),
        ("resnet50d", _bottleneck(DEPTHS[50], **D), 25_576_264, {}),
        ("resnet101", _bottleneck(DEPTHS[101]), 44_549_160, A1),
        ("resnet101d", _bottleneck(DEPTHS[101], **D), 44_568_392, {"image_size": (256, 256), **A1}),
        ("resnet152", _bottleneck(DEPTHS[152]), 60_192_808, A1),
        ("resnet152d", _bottleneck(DEPTHS[152], **D), 60_212_040, {"image_size": (256, 256), **A1}),
        ("resnet200", _bottleneck(DEPTHS[200]), 64_673_832, {}),
        ("resnet200d", _bottleneck(DEPTHS[200], **D), 64_693_064, {"image_size": (256, 256), **A1}),
        ("wide_resnet50_2", _bottleneck(DEPTHS[50], base_width=128), 68_883_240, {}),
        ("wide_resnet101_2", _bottleneck(DEPTHS[101], base_width=128), 126_886_696, BILINEAR),
        ("resnext50_32x4d", _bottleneck(DEPTHS[50], groups=32, base_width=4), 25_028_904, A1),
        ("resnext101_32x4d", _bottleneck(DEPTHS[101], groups=32, base_width=4), 44_177_704, BILINEAR),
        ("resnext101_32x8d", _bottleneck(DEPTHS[101], groups=32, base_width=8), 88_791_336, BILINEAR),
        ("resnext101_32x16d", _bottleneck(DEPTHS[101], groups=32, base_width=16), 194_026_792, BILINEAR),
        ("resnext101_32x32d", _bottleneck(DEPTHS[101], groups=32, base_width=32), 468_530_472, BILINEAR),
        ("resnext101_64x4d", _bottleneck(DEPTHS[101], groups=64, base_width=4), 83_455_272, A1),
        ("seresnet18", _basic((2, 2, 2, 2), **SE), 11_779_624, {}),
        ("seresnet34", _basic((3, 4, 6, 3), **SE), 21_960_416, {}),
        ("seresnet50", _bottleneck(DEPTHS[50], **SE), 28_088_024, A1),
        ("seresnet101", _bottleneck(DEPTHS[101], **SE), 49_326_872, {}),
        ("seresnet152", _bottleneck(DEPTHS[152], **SE), 66_821_848, {}),
        ("seresnext50_32x4d", _bottleneck(DEPTHS[50], groups=32, base_width=4, **SE), 27_559_896, {}),
        ("seresnext101_32x4d", _bottleneck(DEPTHS[101], groups=32, base_width=4, **SE), 48_955_416, {}),
        ("seresnext101_32x8d", _bottleneck(DEPTHS[101], groups=32, base_width=8, **SE), 93_569_048, A1),
        ("resnet20_cifar", _basic((3, 3, 3), **SMALL), 272_474, CIFAR),
        ("resnet32_cifar", _basic((5, 5, 5), **SMALL), 466_906, CIFAR),
        ("resnet18_cifar", _basic((2, 2, 2, 2), stem="cifar"), 11_173_962, CIFAR),
        ("resnet50_cifar", _bottleneck(DEPTHS[50], stem="cifar"), 23_520_842, CIFAR),
    )
}



def _counted(match: re.Match) -> str:
    """Layers of a block counted through, activations included: conv1, bn1, relu, conv2, …"""
    stage, block, kind, number, leaf = match.groups()
    return f"conv{int(stage) + 1}_x.{block}.residual_function.{3 * (int(number) - 1) + (kind == 'bn')}.{leaf}"


CHECKPOINT = {
    "torch": (),
    # The networks for CIFAR of weiaicunzai/pytorch-cifar100, which OTO's tutorials train.
    "pytorch-cifar100": (
        Rule(r"conv1/(\w+)", r"conv1.0.\1"),
        Rule(r"bn1/(\w+)", r"conv1.1.\1"),
        Rule(r"layer(\d)_(\d+)/(conv|bn)(\d)/(\w+)", _counted),
        Rule(r"layer(\d)_(\d+)/downsample_(\d)/(\w+)", lambda m: f"conv{int(m[1]) + 1}_x.{m[2]}.shortcut.{m[3]}.{m[4]}"),
    ),
}

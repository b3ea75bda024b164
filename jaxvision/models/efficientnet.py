"""EfficientNet B0-B8 (Tan and Le 2019, arXiv 1905.11946): inverted residuals whose depth, width and resolution grow together.

`efficientnet_*` pads symmetrically and keeps PyTorch's batch-norm constants, `tf_efficientnet_*` pads as TensorFlow does (epsilon 1e-3, momentum
0.99), both as in timm, whose initial values these are. Dropout and drop path are those of the published recipe. `stages` gives four maps, at
strides 4, 8, 16, 32; the tap "stem" holds the map at stride 2. `efficientnet_b0_cifar` has a stem of stride 1 and no head convolution; the port it
follows also carries 1,088 parameters that it never uses, which are left out here.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxvision.errors import ModelError, nearest
from jaxvision.models.registry import INCEPTION_MEAN, INCEPTION_STD, Variant
from jaxvision.models.rules import Rule
from jaxvision.nn.conv import Conv
from jaxvision.nn.inverted_residual import DepthwiseSeparable, InvertedResidual, round_width
from jaxvision.nn.norm import BatchNorm
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap

ACTIVATIONS = {"silu": nn.silu, "relu": nn.relu, "relu6": nn.relu6}
# Of one stage: blocks, kernel size, stride of the first block, expansion, channels.
B0 = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
# Uniform within 1 / sqrt(classes), as the published code draws the head.
head_init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class EfficientNet(StagedClassifier):
    """A stem, stages of mobile blocks, a 1x1 head convolution, global mean, one dense layer.

    Attributes:
      rows: one a stage: (blocks, kernel size, stride of the first block, expansion, channels); expansion 1 is a depthwise separable block.
      width, depth: multipliers of channels (see `round_width`) and blocks (rounded up).
      stem, head: channels before and after the stages; head 0 leaves the head convolution out.
      stem_strides: 2, or 1 for small images.
      fixed_ends: depth leaves the first and last stage alone, width the stem and the head (timm's MobileNetV2 "d").
      widen_head: width below 1 does not narrow the head.
      se: channels inside the squeeze-and-excitation a channel of the block's input, 0 for none.
      separable_skip, separable_activation: see `DepthwiseSeparable`.
      padding: None for symmetric, "SAME" for TensorFlow's.
      epsilon, momentum: of the batch norms.
      dropout: before the dense layer. drop_path: rises linearly from 0 over the blocks, reaching it after the last.
      norm_groups: see `BatchNorm.groups`. remat: recompute each block in the backward pass.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    rows: tuple[tuple[int, ...], ...] = B0
    width: float = 1.0
    depth: float = 1.0
    stem: int = 32
    head: int = 1280
    stem_strides: int = 2
    fixed_ends: bool = False
    widen_head: bool = False
    se: float = 0.25
    separable_skip: bool = True
    separable_activation: bool = False
    activation: str = "silu"
    padding: str | None = None
    epsilon: float = 1e-5
    momentum: float = 0.9
    dropout: float = 0.0
    drop_path: float = 0.0
    norm_groups: int = 1
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        if self.activation not in ACTIVATIONS:
            raise ModelError(f"model.activation {self.activation!r} is unknown; {nearest(self.activation, ACTIVATIONS)}")
        activation = ACTIVATIONS[self.activation]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(Conv, use_bias=False, padding=self.padding, **dtypes)
        norm = functools.partial(BatchNorm, groups=self.norm_groups, epsilon=self.epsilon, momentum=self.momentum, **dtypes)
        stem = self.stem if self.fixed_ends else round_width(self.stem * self.width)
        x = activation(norm(name="bn1")(conv(stem, 3, self.stem_strides, name="conv_stem")(image), train=train))
        maps = []
        for name, strides, make in self.blocks(conv, norm, activation):
            if strides > 1:
                maps.append(x)
            x = make(x.shape[-1], name=name)(x, train)
        maps.append(x)
        tap(self, "stem", lambda: maps[0])
        if not head:
            return tuple(maps[-4:])
        if self.head:
            x = activation(norm(name="bn2")(conv(self.head_width(), 1, name="conv_head")(x), train=train))
        inits = {"kernel_init": head_init, "bias_init": nn.initializers.zeros}
        return self.classify(x, train, **inits, name="classifier")

    def head_width(self) -> int:
        if self.fixed_ends:
            return self.head
        return max(self.head if self.widen_head else 0, round_width(self.head * self.width))

    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage after scaling."""
        last = len(self.rows) - 1
        return tuple(
            row[0] if self.fixed_ends and stage in (0, last) else math.ceil(row[0] * self.depth) for stage, row in enumerate(self.rows)
        )

    def blocks(self, conv: Callable, norm: Callable, activation: Callable):
        """(name, stride, function that makes the block given its input's channels and name) of every block in order."""
        depths = self.depths()
        shared = {"conv": conv, "norm": norm, "activation": activation}
        kinds = [DepthwiseSeparable, InvertedResidual]
        if self.remat:
            kinds = [nn.remat(kind, static_argnums=(2,)) for kind in kinds]
        separable, inverted = kinds
        index = 0
        for stage, (_, kernel_size, stride, expansion, channels) in enumerate(self.rows):
            for i in range(depths[stage]):
                strides = stride if i == 0 else 1
                each = {
                    **shared,
                    "features": round_width(channels * self.width),
                    "kernel_size": kernel_size,
                    "strides": strides,
                    "drop_path": self.drop_path * index / sum(depths),
                }

                def make(inputs: int, name: str, each=each, expansion=expansion):
                    reduced = round(inputs * self.se)
                    if expansion == 1:
                        skip, last = self.separable_skip, self.separable_activation
                        return separable(**each, reduced=reduced, skip=skip, last_activation=last, name=name)
                    return inverted(**each, expanded=round_width(inputs * expansion), reduced=reduced, name=name)

                yield f"blocks_{stage}_{i}", strides, make
                index += 1


# Width, depth, dropout of the paper; side and evaluation crop of timm's weights, then those of the TensorFlow weights; parameters.
SCALES = {
    "b0": (1.0, 1.0, 0.2, 224, 0.875, 224, 0.875, 5_288_548),
    "b1": (1.0, 1.1, 0.2, 240, 0.9, 240, 0.882, 7_794_184),
    "b2": (1.1, 1.2, 0.3, 256, 0.875, 260, 0.89, 9_109_994),
    "b3": (1.2, 1.4, 0.3, 288, 0.875, 300, 0.904, 12_233_232),
    "b4": (1.4, 1.8, 0.4, 320, 0.875, 380, 0.922, 19_341_616),
    "b5": (1.6, 2.2, 0.4, 448, 1.0, 456, 0.934, 30_389_784),
    "b6": (1.8, 2.6, 0.5, 528, 0.942, 528, 0.942, 43_040_704),
    "b7": (2.0, 3.1, 0.5, 600, 0.949, 600, 0.949, 66_347_960),
    "b8": (2.2, 3.6, 0.5, 672, 0.954, 672, 0.954, 87_413_142),
}
HALF = {"mean": INCEPTION_MEAN, "std": INCEPTION_STD}
TF = {"padding": "SAME", "epsilon": 1e-3, "momentum": 0.99}


def _variant(name: str, tf: bool) -> Variant:
    width, depth, dropout, side, crop, tf_side, tf_crop, parameters = SCALES[name]
    settings = {"width": width, "depth": depth, "dropout": dropout, "drop_path": 0.2, **(TF if tf else {})}
    side, crop = (tf_side, tf_crop) if tf else (side, crop)
    inputs = HALF if (tf, name) in {(False, "b1"), (True, "b8")} else {}
    return Variant(EfficientNet, settings, image_size=(side, side), crop=crop, parameters=parameters, **inputs)


CIFAR = {"image_size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261), "crop": 1.0, "classes": 10}
VARIANTS = {
    **{f"efficientnet_{name}": _variant(name, tf=False) for name in SCALES},
    **{f"tf_efficientnet_{name}": _variant(name, tf=True) for name in SCALES},
    "efficientnet_b0_cifar": Variant(EfficientNet, {"stem_strides": 1, "head": 0, "dropout": 0.2, "drop_path": 0.2}, **CIFAR),
}

# torchvision's places of a block's layers: in the first stage, whose blocks do not expand, and in the others.
_PLACES = (
    {"conv_dw": "0.0", "bn1": "0.1", "conv_reduce": "1.fc1", "conv_expand": "1.fc2", "conv_pw": "2.0", "bn2": "2.1"},
    {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_reduce": "2.fc1", "conv_expand": "2.fc2", "conv_pwl": "3.0", "bn3": "3.1"},
)
_MOBILE_PLACES = (
    {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"},
    {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"},
)
# Blocks of MobileNetV2 before each stage: torchvision counts them through.
_BEFORE = (0, 1, 3, 6, 10, 13, 16)


def _efficientnet_block(stage: int, number: int) -> str:
    return f"{stage + 1}.{number}.block"


def _mobilenet_block(stage: int, number: int) -> str:
    return f"{(*_BEFORE, *(17,) * stage)[stage] + number + 1}.conv"


def _torchvision(block: Callable[[int, int], str], places: tuple[dict[str, str], ...], last: int) -> tuple[Rule, ...]:
    """The rules of a list `features` that holds the stem, the blocks, and at `last` the head convolution."""

    def layer(match: re.Match) -> str:
        stage, number, name, leaf = match.groups()
        return f"features.{block(int(stage), int(number))}.{places[stage != '0'].get(name, name)}.{leaf}"

    return (
        Rule(r"conv_stem/(\w+)", r"features.0.0.\1"),
        Rule(r"bn1/(\w+)", r"features.0.1.\1"),
        Rule(r"blocks_(\d+)_(\d+)/(?:se/)?(\w+)/(\w+)", layer),
        Rule(r"conv_head/(\w+)", rf"features.{last}.0.\1"),
        Rule(r"bn2/(\w+)", rf"features.{last}.1.\1"),
        Rule(r"classifier/(\w+)", r"classifier.1.\1"),
    )


CHECKPOINT = {
    "torch": (
        Rule(r"blocks_(\d+)_(\d+)/(\w+)/(\w+)", r"blocks.\1.\2.\3.\4"),
        Rule(r"blocks_(\d+)_(\d+)/(\w+)/(\w+)/(\w+)", r"blocks.\1.\2.\3.\4.\5"),
    ),
    "torchvision": _torchvision(_efficientnet_block, _PLACES, last=8),
    "torchvision, MobileNetV2": _torchvision(_mobilenet_block, _MOBILE_PLACES, last=18),
}

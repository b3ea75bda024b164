"""RegNetZ in timm's own proportions (regnetz_b16 to e8), after the Z design space of Dollar et al. 2021 (arXiv 2103.06877).

Inverted bottlenecks as in models/regnet.py, but expanded from a block's input width instead of its output width, with stages written out instead of
generated, and a 1x1 head convolution.

`stages` gives four maps, at strides 4, 8, 16, 32.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxvision.models.registry import INCEPTION_MEAN, INCEPTION_STD, Variant
from jaxvision.models.regnet import Block
from jaxvision.models.rules import Rule
from jaxvision.nn.conv import Conv
from jaxvision.nn.conv_norm import ConvNorm
from jaxvision.nn.inverted_residual import round_width
from jaxvision.nn.norm import BatchNorm
from jaxvision.nn.regularize import drop_path_rates
from jaxvision.nn.staged import StagedClassifier


class RegNetZ(StagedClassifier):
    """Stem, four stages of inverted bottlenecks without projecting shortcuts or last activations, head convolution, one dense layer.

    Attributes:
      depths, widths: blocks and channels of each stage.
      group_width: channels of each group of the 3x3 convolutions. expansion: their channels a channel of the block's input.
      tiered: a stem of three convolutions and stride 4, so that the first stage keeps the map; otherwise one of stride 2.
      stem, head: channels before and after the stages.
      dropout: before the dense layer. drop_path: of the last block, rising linearly from 0.
      norm_groups: see `BatchNorm.groups`. remat: recompute each block in the backward pass.
      zero_init: start each block that has a shortcut as that shortcut.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    depths: tuple[int, ...] = (2, 6, 12, 2)
    widths: tuple[int, ...] = (48, 96, 192, 288)
    group_width: int = 16
    expansion: int = 3
    tiered: bool = False
    stem: int = 32
    head: int = 1536
    dropout: float = 0.0
    drop_path: float = 0.0
    norm_groups: int = 1
    remat: bool = False
    zero_init: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(Conv, use_bias=False, **dtypes)
        norm = functools.partial(BatchNorm, groups=self.norm_groups, **dtypes)
        unit = functools.partial(ConvNorm, conv=conv, norm=norm, activation=nn.silu)
        if self.tiered:
            x = unit(3 * self.stem // 8, 3, 2, name="stem_conv1")(image, train)
            x = unit(self.stem // 2, 3, 1, name="stem_conv2")(x, train)
            x = unit(self.stem, 3, 2, name="stem_conv3")(x, train)
        else:
            x = unit(self.stem, 3, 2, name="stem")(image, train)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        maps = []
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths)):
            for i in range(depth):
                inner = round_width(x.shape[-1] * self.expansion)
                x = block(
                    width,
                    inner=inner,
                    group_width=self.group_width,
                    strides=1 if i or (stage == 0 and self.tiered) else 2,
                    unit=unit,
                    activation=nn.silu,
                    reduced=max(8, int(inner / 4 + 4) // 8 * 8),
                    reduced_activation=nn.relu,
                    project=False,
                    linear=True,
                    drop_path=next(rates),
                    zero_init=self.zero_init,
                    name=f"stages_{stage}_{i}",
                )(x, train)
            maps.append(x)
        if not head:
            return tuple(maps)
        x = unit(self.head, 1, 1, name="final_conv")(x, train)
        inits = {"kernel_init": nn.initializers.normal(0.01), "bias_init": nn.initializers.zeros}
        return self.classify(x, train, **inits, name="head")


C = {"expansion": 4}
D = {**C, "depths": (3, 6, 12, 3), "widths": (64, 128, 256, 384), "tiered": True, "stem": 64, "head": 1792}
E = {**D, "depths": (3, 8, 16, 3), "widths": (96, 192, 384, 512), "head": 2048}
COLORS = {"mean": INCEPTION_MEAN, "std": INCEPTION_STD}

VARIANTS = {
    f"regnetz_{name}": Variant(RegNetZ, settings, (side, side), **COLORS, crop=crop, parameters=parameters)
    for name, settings, side, crop, parameters in (
        ("b16", {}, 224, 0.94, 9_715_480),
        ("c16", C, 256, 0.94, 13_459_880),
        ("d32", {**D, "group_width": 32}, 256, 0.95, 27_576_288),
        ("d8", {**D, "group_width": 8}, 256, 0.94, 23_373_792),
        ("e8", {**E, "group_width": 8}, 256, 0.94, 57_698_176),
    )
}

CHECKPOINT = {
    "torch": (
        Rule(r"stem_conv(\d)/(\w+)/(\w+)", r"stem.conv\1.\2.\3"),
        Rule(r"stages_(\d)_(\d+)/conv2/(\w+)/(\w+)", r"stages.\1.\2.conv2_kxk.\3.\4"),
        Rule(r"stages_(\d)_(\d+)/(conv[13])/(\w+)/(\w+)", r"stages.\1.\2.\3_1x1.\4.\5"),
        Rule(r"stages_(\d)_(\d+)/se/(\w+)/(\w+)", r"stages.\1.\2.attn.\3.\4"),
        Rule(r"head/(\w+)", r"head.fc.\1"),
    )
}

"""Inception-ResNet v1 and v2 (Szegedy et al. 2016, arXiv 1602.07261): Inception branches as the learned part of residual blocks.

Each block's branches end in a 1x1 convolution with bias and without normalization, back to the width of the trunk; its output is multiplied by 0.1
to 0.2 before the sum, without which very wide blocks die in training. Residual versions train faster than plain Inception at equal cost.

`inception_resnet_v2` is the network as released (10, 20, 9 blocks and one more without scale or activation, and a 1x1 head); the two others follow
the paper's figures: `inception_resnet_v2_drawn` with the stem of Inception-v4, `inception_resnet_v1` with its own. `stages` and the running
statistics are as in models/inception_v4.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.models.inception_v4 import MIXED_3A, MIXED_4A, MIXED_5A, STEM, auxiliary, check_size, conv_unit
from jaxvision.models.registry import INCEPTION_MEAN, INCEPTION_STD, Variant
from jaxvision.models.rules import Rule
from jaxvision.nn.branches import MAX, MEAN, Branch, Branches, Step, branches, step, valid
from jaxvision.nn.classifier import torch_bias, torch_kernel
from jaxvision.nn.conv import Conv
from jaxvision.nn.regularize import DropPath
from jaxvision.nn.residual import residual
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap


class Plan(NamedTuple):
    """What distinguishes the versions: tables of branches of the three kinds of block and of the two reductions, and how the ends look."""

    stem: str
    mixed: tuple[Branch, ...] | None
    blocks: tuple[tuple[Branch, ...], ...]
    reductions: tuple[tuple[Branch, ...], ...]
    depths: tuple[int, int, int]
    head: int


BLOCK_17 = ((Step(1, 1, 192),), (Step(1, 1, 128), Step(1, 7, 160), Step(7, 1, 192)))
BLOCK_35 = ((Step(1, 1, 32),), (Step(1, 1, 32), Step(3, 3, 32)), (Step(1, 1, 32), Step(3, 3, 48), Step(3, 3, 64)))
BLOCK_8 = ((Step(1, 1, 192),), (Step(1, 1, 192), Step(1, 3, 224), Step(3, 1, 256)))


def _reduction_a(first: int, second: int, third: int, single: int) -> tuple[Branch, ...]:
    return ((valid(3, 3, single, 2),), (Step(1, 1, first), Step(3, 3, second), valid(3, 3, third, 2)), (MAX,))


def _reduction_b(middle: int, third: int, last: int) -> tuple[Branch, ...]:
    return (
        (Step(1, 1, 256), valid(3, 3, 384, 2)),
        (Step(1, 1, 256), valid(3, 3, middle, 2)),
        (Step(1, 1, 256), Step(3, 3, third), valid(3, 3, last, 2)),
        (MAX,),
    )


REDUCTIONS_V2 = (_reduction_a(256, 256, 384, 384), _reduction_b(288, 288, 320))
PLANS = {
    "v2": Plan(
        stem="pools",
        mixed=(
            (Step(1, 1, 96),),
            (Step(1, 1, 48), Step(5, 5, 64)),
            (Step(1, 1, 64), Step(3, 3, 96), Step(3, 3, 96)),
            (MEAN, Step(1, 1, 64)),
        ),
        blocks=(BLOCK_35, BLOCK_17, BLOCK_8),
        reductions=REDUCTIONS_V2,
        depths=(10, 20, 9),
        head=1536,
    ),
    "v2_drawn": Plan("v4", None, (BLOCK_35, BLOCK_17, BLOCK_8), REDUCTIONS_V2, (5, 10, 5), 0),
    "v1": Plan(
        stem="conv",
        mixed=None,
        blocks=(
            ((Step(1, 1, 32),), (Step(1, 1, 32), Step(3, 3, 32)), (Step(1, 1, 32), Step(3, 3, 32), Step(3, 3, 32))),
            ((Step(1, 1, 128),), (Step(1, 1, 128), Step(1, 7, 128), Step(7, 1, 128))),
            ((Step(1, 1, 192),), (Step(1, 1, 192), Step(1, 3, 192), Step(3, 1, 192))),
        ),
        reductions=(_reduction_a(192, 192, 256, 384), _reduction_b(256, 256, 256)),
        depths=(5, 10, 5),
        head=0,
    ),
}


class Block(nn.Module):
    """relu(x + scale * expand(branches(x))); the expansion is linear, with bias."""

    table: tuple[Branch, ...]
    unit: Callable
    scale: float
    drop_path: float = 0.0
    activation: Callable | None = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        y = branches(x, self.table, self.unit, train)
        dtypes = {key: self.unit.keywords["conv"].keywords[key] for key in ("dtype", "param_dtype")}
        y = Conv(x.shape[-1], kernel_init=torch_kernel, bias_init=torch_bias(y.shape[-1]), **dtypes, name="conv2d")(y)
        y = residual(x, DropPath(self.drop_path)(y * self.scale, train=train))
        return y if self.activation is None else self.activation(y)


class InceptionResNet(StagedClassifier):
    """Stem, three runs of residual blocks with reductions between, global mean, one dense layer.

    Attributes:
      version: one of `PLANS`.
      depths: number of blocks on the three maps; the plan's own when None.
      scales: factors of the residual branches on the three maps.
      auxiliary: see `InceptionV4`; on the map of the second run.
      dropout: before the dense layer. drop_path: of every residual branch alike.
      momentum: of the running statistics. norm_groups: see `BatchNorm.groups`. remat: recompute each block in the backward pass.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (299, 299)
    version: str = "v2"
    depths: tuple[int, int, int] | None = None
    scales: tuple[float, float, float] = (0.17, 0.10, 0.20)
    dropout: float = 0.0
    drop_path: float = 0.0
    auxiliary: bool = False
    momentum: float = 0.99
    norm_groups: int = 1
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        check_size(image)
        if self.version not in PLANS:
            raise ModelError(f"model.version {self.version!r} is unknown; {nearest(self.version, PLANS)}")
        plan = PLANS[self.version]
        unit = conv_unit(self.dtype, self.param_dtype, self.momentum, self.norm_groups)
        fine, x = self.embed(image, plan.stem, unit, train)
        if plan.mixed:
            x = Branches(plan.mixed, unit, name="mixed_5b")(x, train)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        maps = [fine]
        for run, (depth, table, scale) in enumerate(zip(self.depths or plan.depths, plan.blocks, self.scales)):
            for i in range(depth):
                x = block(table, unit, scale, self.drop_path, name=f"repeat_{run}_{i}" if run else f"repeat_{i}")(x, train)
            maps.append(x)
            if run < 2:
                x = Branches(plan.reductions[run], unit, name=("mixed_6a", "mixed_7a")[run])(x, train)
        if plan.head:
            x = block(BLOCK_8, unit, 1.0, self.drop_path, activation=None, name="block8")(x, train)
            x = maps[-1] = unit(plan.head, 1, 1, name="conv2d_7b")(x, train)
        if not head:
            return tuple(maps)
        if self.auxiliary and self.num_classes:
            auxiliary(self, image, maps[2], unit, train)
        return self.classify(x, train, name="classif")

    def embed(self, image, kind: str, unit: Callable, train: bool) -> tuple[Array, Array]:
        """The map at stride 4 and the one that the blocks receive."""
        x = image
        for this, name in zip(STEM, ("conv2d_1a", "conv2d_2a", "conv2d_2b")):
            x = step(x, this, unit, name, train)
        tap(self, "stem", lambda: x)
        if kind == "v4":
            fine = Branches(MIXED_3A, unit, ("maxpool", "conv"), name="mixed_3a")(x, train)
            x = Branches(MIXED_4A, unit, name="mixed_4a")(fine, train)
            return fine, Branches(MIXED_5A, unit, ("conv", "maxpool"), name="mixed_5a")(x, train)
        x = step(MAX.run(x), Step(1, 1, 80), unit, "conv2d_3b", train)
        fine = step(x, valid(3, 3, 192), unit, "conv2d_4a", train)
        return fine, MAX.run(fine) if kind == "pools" else step(fine, valid(3, 3, 256, 2), unit, "conv2d_4b", train)


COLORS = {"mean": INCEPTION_MEAN, "std": INCEPTION_STD}
VARIANTS = {
    f"inception_resnet_{version}": Variant(
        InceptionResNet, {"version": version, "dropout": 0.2}, (299, 299), **COLORS, crop=crop, parameters=parameters
    )
    for version, crop, parameters in (("v1", 0.875, 22_756_328), ("v2", 0.8975, 55_843_464), ("v2_drawn", 0.875, 32_433_928))
}

CHECKPOINT = {"torch": (Rule(r"auxiliary/.*", None),)}

"""DenseNet (Huang et al. 2017, arXiv 1608.06993): each layer reads the concatenation of all earlier maps of its block and adds a few channels.

Normalization and activation come first in every layer; a transition halves channels and map between blocks. `densenet121_cifar` is the network of
growth 12 for 32x32 images, whose stem is one 3x3 convolution.

`stages` gives four maps, at strides 4, 8, 16, 32 (1, 2, 4, 8 with the "cifar" stem): the ends of the blocks, the last normalized and activated.
The tap "stem" holds the map before the max-pool.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.models.registry import Variant
from jaxvision.models.rules import Rule
from jaxvision.nn.conv import Conv
from jaxvision.nn.norm import BatchNorm
from jaxvision.nn.pool import avg_pool, max_pool
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap

STEMS = ("7x7", "deep", "cifar")


class DenseLayer(nn.Module):
    """The input with `growth` new channels behind it: norm, relu, 1x1 to four times as many, norm, relu, 3x3."""

    growth: int
    bottleneck: int
    conv: Callable
    norm: Callable
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        y = nn.relu(self.norm(name="norm1")(x, train=train))
        y = nn.relu(self.norm(name="norm2")(self.conv(self.bottleneck * self.growth, 1, name="conv1")(y), train=train))
        y = nn.Dropout(self.dropout)(self.conv(self.growth, 3, name="conv2")(y), deterministic=not train)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """norm, relu, 1x1 to half the channels, 2x2 averages."""

    conv: Callable
    norm: Callable

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        y = nn.relu(self.norm(name="norm")(x, train=train))
        return avg_pool(self.conv(x.shape[-1] // 2, 1, name="conv")(y), 2, 2)


class DenseNet(StagedClassifier):
    """Densely connected network; the stem gives twice `growth` channels.

    Attributes:
      growth: channels that each layer adds. depths: layers a block.
      bottleneck: channels between a layer's two convolutions, in multiples of `growth`.
      stem: "7x7" or "deep" (three 3x3 convolutions), followed by a max-pool, or "cifar" (3x3, stride 1, no norm, no pool).
      dropout: before the dense layer. layer_dropout: of each layer's new channels.
      norm_groups: see `BatchNorm.groups`. remat: recompute each layer in the backward pass, which spares most of the memory.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    growth: int = 32
    depths: tuple[int, ...] = (6, 12, 24, 16)
    bottleneck: int = 4
    stem: str = "7x7"
    dropout: float = 0.0
    layer_dropout: float = 0.0
    norm_groups: int = 1
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        if self.stem not in STEMS:
            raise ModelError(f"model.stem {self.stem!r} is unknown; {nearest(self.stem, STEMS)}")
        halvings = len(self.depths) - 1
        coarsest = 2**halvings if self.stem == "cifar" else 4 * (2**halvings - 1) + 1
        if min(image.shape[1:3]) < coarsest:
            raise ModelError(f"image_size {image.shape[1]}x{image.shape[2]} is too small; both sides have to be at least {coarsest}")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(Conv, use_bias=False, kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"), **dtypes)
        norm = functools.partial(BatchNorm, groups=self.norm_groups, **dtypes)
        x = self.embed(image, conv, norm, train)
        layer = nn.remat(DenseLayer, static_argnums=(2,)) if self.remat else DenseLayer
        maps = []
        for block, depth in enumerate(self.depths, start=1):
            for i in range(depth):
                x = layer(self.growth, self.bottleneck, conv, norm, self.layer_dropout, name=f"denseblock{block}_denselayer{i + 1}")(x, train)
            if block < len(self.depths):
                maps.append(x)
                x = Transition(conv, norm, name=f"transition{block}")(x, train)
        x = nn.relu(norm(name="norm5")(x, train=train))
        if not head:
            return (*maps, x)
        return self.classify(x, train, bias_init=nn.initializers.zeros, name="classifier")

    def embed(self, x, conv: Callable, norm: Callable, train: bool):
        if self.stem == "cifar":
            return conv(2 * self.growth, 3, name="conv0")(x)
        if self.stem == "7x7":
            x = nn.relu(norm(name="norm0")(conv(2 * self.growth, 7, 2, name="conv0")(x), train=train))
        else:
            for i, width in enumerate((self.growth, self.growth, 2 * self.growth)):
                x = conv(width, 3, 1 if i else 2, name=f"conv{i}")(x)
                x = nn.relu(norm(name=f"norm{i}")(x, train=train))
        tap(self, "stem", lambda: x)
        return max_pool(x, 3, 2, 1)


CIFAR = {"image_size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261), "crop": 1.0, "classes": 10}
VARIANTS = {
    "densenet121": Variant(DenseNet, {"depths": (6, 12, 24, 16)}, parameters=7_978_856),
    "densenet161": Variant(DenseNet, {"depths": (6, 12, 36, 24), "growth": 48}, parameters=28_681_000),
    "densenet169": Variant(DenseNet, {"depths": (6, 12, 32, 32)}, parameters=14_149_480),
    "densenet201": Variant(DenseNet, {"depths": (6, 12, 48, 32)}, parameters=20_013_928),
    "densenet264d": Variant(DenseNet, {"depths": (6, 12, 64, 48), "growth": 48, "stem": "deep"}, parameters=72_736_216),
    "densenet121_cifar": Variant(DenseNet, {"depths": (6, 12, 24, 16), "growth": 12, "stem": "cifar"}, parameters=1_000_618, **CIFAR),
}

CHECKPOINT = {
    "torch": (
        Rule(r"((?:conv|norm)\d)/(\w+)", r"features.\1.\2"),
        Rule(r"(denseblock\d)_(denselayer\d+)/(\w+)/(\w+)", r"features.\1.\2.\3.\4"),
        Rule(r"(transition\d)/(\w+)/(\w+)", r"features.\1.\2.\3"),
    )
}


def adapt_checkpoint(arrays: dict[str, np.ndarray], layout: str, model: DenseNet) -> dict[str, np.ndarray]:
    """The arrays of a file under today's names: the published files have a dot before the numbers of a layer's parts (`denselayer1.norm.1`)."""
    del layout, model
    return {re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", name): array for name, array in arrays.items()}

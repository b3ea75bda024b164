"""Inception-v4 (Szegedy et al. 2016, arXiv 1602.07261): parallel branches of small and factorized convolutions, without residual connections.

Layer order and widths follow the released network, whose 1536-channel blocks put 3x1 before 1x3 where the paper draws the reverse. Averages leave
padding out of the count. The auxiliary classifier is that of the released training code. Running statistics keep 0.99 a step; the released code
kept 0.9997, which needs very long runs.

`stages` gives four maps, at about strides 4, 8, 16, 32 (convolutions without padding cost a few pixels); the tap "stem" the map at stride 2.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.models.registry import INCEPTION_MEAN, INCEPTION_STD, Variant
from jaxvision.models.rules import Rule
from jaxvision.nn.branches import MAX, MEAN, Branches, Step, step, valid
from jaxvision.nn.classifier import Classifier
from jaxvision.nn.conv import Conv
from jaxvision.nn.conv_norm import ConvNorm
from jaxvision.nn.norm import BatchNorm
from jaxvision.nn.pool import avg_pool
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap

# The smallest side that still leaves one pixel after five halvings without padding.
SMALLEST = 75

STEM = (valid(3, 3, 32, 2), valid(3, 3, 32), Step(3, 3, 64))
MIXED_3A = ((MAX,), (valid(3, 3, 96, 2),))
MIXED_4A = (
    (Step(1, 1, 64), valid(3, 3, 96)),
    (Step(1, 1, 64), Step(1, 7, 64), Step(7, 1, 64), valid(3, 3, 96)),
)
MIXED_5A = ((valid(3, 3, 192, 2),), (MAX,))
INCEPTION_A = (
    (Step(1, 1, 96),),
    (Step(1, 1, 64), Step(3, 3, 96)),
    (Step(1, 1, 64), Step(3, 3, 96), Step(3, 3, 96)),
    (MEAN, Step(1, 1, 96)),
)
REDUCTION_A = ((valid(3, 3, 384, 2),), (Step(1, 1, 192), Step(3, 3, 224), valid(3, 3, 256, 2)), (MAX,))
INCEPTION_B = (
    (Step(1, 1, 384),),
    (Step(1, 1, 192), Step(1, 7, 224), Step(7, 1, 256)),
    (Step(1, 1, 192), Step(7, 1, 192), Step(1, 7, 224), Step(7, 1, 224), Step(1, 7, 256)),
    (MEAN, Step(1, 1, 128)),
)
REDUCTION_B = (
    (Step(1, 1, 192), valid(3, 3, 192, 2)),
    (Step(1, 1, 256), Step(1, 7, 256), Step(7, 1, 320), valid(3, 3, 320, 2)),
    (MAX,),
)


class InceptionC(nn.Module):
    """The block of the coarsest map: two of its branches end in a pair of 1x3 and 3x1 convolutions side by side."""

    unit: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 1536"], train: bool) -> Float[Array, "b h w 1536"]:
        run = functools.partial(step, unit=self.unit, train=train)
        pair = (Step(1, 3, 256), Step(3, 1, 256))
        narrow = run(x, Step(1, 1, 384), name="split1_0")
        wide = run(x, Step(1, 1, 384), name="split2_0")
        wide = run(run(wide, Step(3, 1, 448), name="split2_1"), Step(1, 3, 512), name="split2_2")
        outputs = [run(x, Step(1, 1, 256), name="branch0")]
        outputs += [run(narrow, this, name=f"split1_1{letter}") for this, letter in zip(pair, "ab")]
        outputs += [run(wide, this, name=f"split2_3{letter}") for this, letter in zip(pair, "ab")]
        outputs.append(run(MEAN.run(x), Step(1, 1, 256), name="branch3_1"))
        return jnp.concatenate(outputs, axis=-1)


class Auxiliary(nn.Module):
    """A second classifier on the middle map, which only training uses: means of 5x5 at stride 3, 1x1 to 128, the whole map to 768, dense."""

    num_classes: int
    unit: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b classes"]:
        x = self.unit(128, 1, 1, name="conv0")(avg_pool(x, 5, 3), train)
        options = (("padding", 0), ("kernel_init", nn.initializers.truncated_normal(0.01)))
        x = self.unit(768, x.shape[1:3], 1, conv_options=options, name="conv1")(x, train)
        inits = {"kernel_init": nn.initializers.truncated_normal(0.001), "bias_init": nn.initializers.zeros}
        return Classifier(self.num_classes, **inits, param_dtype=self.param_dtype, name="fc")(x[:, 0, 0])


def auxiliary(model: nn.Module, image: Float[Array, "b h w c"], x: Float[Array, "b h2 w2 d"], unit: Any, train: bool) -> None:
    """Sows the auxiliary logits of `x` into the collection "auxiliary" in training. Raises ModelError unless the image is of the model's size."""
    if not (train or model.is_initializing()):
        return
    if tuple(image.shape[1:3]) != tuple(model.image_size):
        (height, width), (rows, columns) = model.image_size, image.shape[1:3]
        raise ModelError(f"the auxiliary classifier is made for images of {height}x{width}, got {rows}x{columns}: create the model at that size")
    if min(x.shape[1:3]) < 5:
        raise ModelError(f"the auxiliary classifier averages windows of 5x5, its map is {x.shape[1]}x{x.shape[2]}: larger images or auxiliary=False")
    logits = Auxiliary(model.num_classes, unit, model.param_dtype, name="auxiliary")(x, train)
    if model.is_mutable_collection("auxiliary") and not model.is_initializing():
        model.sow("auxiliary", "logits", logits)


class InceptionV4(StagedClassifier):
    """Stem, A blocks, reduction, B blocks, reduction, C blocks, global mean, one dense layer.

    Attributes:
      depths: number of A, B and C blocks.
      dropout: before the dense layer.
      auxiliary: a second classifier on the map of the B blocks, for training; its logits go to the collection "auxiliary" (`task.auxiliary`).
      momentum: of the running statistics. norm_groups: see `BatchNorm.groups`. remat: recompute each block in the backward pass.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (299, 299)
    depths: tuple[int, int, int] = (4, 7, 3)
    dropout: float = 0.0
    auxiliary: bool = False
    momentum: float = 0.99
    norm_groups: int = 1
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        check_size(image)
        unit = conv_unit(self.dtype, self.param_dtype, self.momentum, self.norm_groups)
        x = image
        for i, this in enumerate(STEM):
            x = step(x, this, unit, f"features_{i}", train)
        tap(self, "stem", lambda: x)
        inception, last = (nn.remat(kind, static_argnums=(2,)) if self.remat else kind for kind in (Branches, InceptionC))
        x = fine = Branches(MIXED_3A, unit, ("maxpool", "conv"), name="features_3")(x, train)
        x = Branches(MIXED_4A, unit, name="features_4")(x, train)
        x = Branches(MIXED_5A, unit, ("conv", "maxpool"), name="features_5")(x, train)
        maps, place = [fine], 6
        for depth, table, reduction in zip(self.depths, (INCEPTION_A, INCEPTION_B, None), (REDUCTION_A, REDUCTION_B, None)):
            for _ in range(depth):
                block = inception(table, unit, name=f"features_{place}") if table else last(unit, name=f"features_{place}")
                x, place = block(x, train), place + 1
            maps.append(x)
            if reduction:
                x, place = Branches(reduction, unit, name=f"features_{place}")(x, train), place + 1
        if not head:
            return tuple(maps)
        if self.auxiliary and self.num_classes:
            auxiliary(self, image, maps[2], unit, train)
        return self.classify(x, train, name="last_linear")


def conv_unit(dtype: Any, param_dtype: Any, momentum: float, norm_groups: int):
    """The unit of all Inception networks: convolution without bias, batch norm with TensorFlow's epsilon, ReLU."""
    dtypes = {"dtype": dtype, "param_dtype": param_dtype}
    init = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
    conv = functools.partial(Conv, use_bias=False, kernel_init=init, **dtypes)
    norm = functools.partial(BatchNorm, epsilon=1e-3, momentum=momentum, groups=norm_groups, **dtypes)
    return functools.partial(ConvNorm, conv=conv, norm=norm)


def check_size(image: Float[Array, "b h w c"]) -> None:
    """Raises ModelError when five halvings without padding would leave nothing."""
    if min(image.shape[1:3]) < SMALLEST:
        height, width = image.shape[1:3]
        raise ModelError(f"image_size {height}x{width} is too small for Inception; both sides have to be at least {SMALLEST}")


VARIANTS = {
    "inception_v4": Variant(
        InceptionV4, {"dropout": 0.2}, (299, 299), mean=INCEPTION_MEAN, std=INCEPTION_STD, parameters=42_679_816
    )
}

CHECKPOINT = {"torch": (Rule(r"auxiliary/.*", None), Rule(r"features_(\d+)/split(\w+)/(\w+)/(\w+)", r"features.\1.branch\2.\3.\4"),)}

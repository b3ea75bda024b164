"""VGG (Simonyan and Zisserman 2014, arXiv 1409.1556), with and without batch norm: stacks of 3x3 convolutions, each halved by a max-pool.

The two hidden dense layers are convolutions as in timm: on a map larger than 7x7 the first slides and the results are averaged; a smaller map is
brought to 7x7 by adaptive averaging, as torchvision does. `vgg16_bn_cifar` has no hidden layers; with `hidden=512` it has two.

`stages` gives four maps: before the pools at strides 4, 8, 16 and after the last pool (stride 32). Every activation is a tap by its usual name,
"relu3_1".
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.models.registry import Variant
from jaxvision.models.rules import Rule, from_torch, to_torch
from jaxvision.nn.conv import Conv
from jaxvision.nn.norm import BatchNorm
from jaxvision.nn.pool import adaptive_avg_pool, max_pool
from jaxvision.nn.staged import StagedClassifier
from jaxvision.nn.taps import tap


class Hidden(nn.Module):
    """The two hidden layers of the head: a window x window convolution without padding and a 1x1 one, each with ReLU, dropout after the first."""

    features: int
    window: int
    dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        conv = functools.partial(Conv, padding=0, kernel_init=nn.initializers.normal(0.01), dtype=self.dtype, param_dtype=self.param_dtype)
        if min(x.shape[1:3]) < self.window:
            x = adaptive_avg_pool(x, [max(side, self.window) for side in x.shape[1:3]])
        x = nn.relu(conv(self.features, self.window, name="fc1")(x))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return nn.relu(conv(self.features, 1, name="fc2")(x))


class VGG(StagedClassifier):
    """Five stacks of 3x3 convolutions and a head with two hidden layers.

    Attributes:
      rows: widths of the convolutions of each stack; a max-pool follows each.
      batch_norm: between convolution and activation.
      hidden: width of the hidden layers, 0 for none. hidden_window: side of the first one's window.
      dropout: after each hidden layer.
      norm_groups: see `BatchNorm.groups`.
      algorithm: of the 3x3 convolutions, see `Conv.algorithm`.
    """

    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    rows: tuple[tuple[int, ...], ...] = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
    batch_norm: bool = False
    hidden: int = 4096
    hidden_window: int = 7
    dropout: float = 0.0
    norm_groups: int = 1
    algorithm: str = "chosen"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        if min(image.shape[1:3]) < 2 ** len(self.rows):
            raise ModelError(f"image_size {image.shape[1]}x{image.shape[2]} is too small; both sides have to be at least {2 ** len(self.rows)}")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x, maps, place = image, [], 0
        for stack, widths in enumerate(self.rows):
            for i, width in enumerate(widths):
                x = Conv(width, 3, algorithm=self.algorithm, **dtypes, name=f"features_{place}")(x)
                if self.batch_norm:
                    x = BatchNorm(groups=self.norm_groups, **dtypes, name=f"features_{place + 1}")(x, train=train)
                x = nn.relu(x)
                tap(self, f"relu{stack + 1}_{i + 1}", lambda: x)
                place += 3 if self.batch_norm else 2
            maps.append(x)
            x, place = max_pool(x, 2, 2), place + 1
        maps.append(x)
        if not head:
            return tuple(maps[-4:])
        if self.hidden:
            x = Hidden(self.hidden, self.hidden_window, self.dropout, **dtypes, name="pre_logits")(x, train)
        inits = {"kernel_init": nn.initializers.normal(0.01), "bias_init": nn.initializers.zeros}
        return self.classify(x, train, **inits, name="head")


WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
# Without and with batch norm.
PARAMETERS = {
    "vgg11": (132_863_336, 132_868_840),
    "vgg13": (133_047_848, 133_053_736),
    "vgg16": (138_357_544, 138_365_992),
    "vgg19": (143_667_240, 143_678_248),
}
ROWS = {name: tuple((width,) * depth for width, depth in zip(WIDTHS, depths)) for name, depths in DEPTHS.items()}
CIFAR = {"image_size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261), "crop": 1.0, "classes": 10}

VARIANTS = {
    name + "_bn" * batch_norm: Variant(
        VGG,
        {"rows": rows, "batch_norm": batch_norm, "dropout": 0.5},
        interpolation="bilinear",
        parameters=PARAMETERS[name][batch_norm],
    )
    for name, rows in ROWS.items()
    for batch_norm in (False, True)
}
VARIANTS["vgg16_bn_cifar"] = Variant(
    VGG, {"rows": ROWS["vgg16"], "batch_norm": True, "hidden": 0, "hidden_window": 1}, parameters=14_728_266, **CIFAR
)



def _as_window(arrays, shape):
    """A dense layer over the flattened map (out, in rows columns) as the convolution that it is."""
    return from_torch(arrays[0].reshape(shape[3], shape[2], *shape[:2]))


def _as_dense(array):
    return (to_torch(array).reshape(array.shape[-1], -1),)


CHECKPOINT = {
    "torch": (Rule(r"head/(\w+)", r"head.fc.\1"),),
    "torchvision": (
        Rule(r"pre_logits/fc1/kernel", r"classifier.0.kernel", _as_window, _as_dense),
        Rule(r"pre_logits/fc2/kernel", r"classifier.3.kernel", _as_window, _as_dense),
        Rule(r"pre_logits/fc1/bias", r"classifier.0.bias"),
        Rule(r"pre_logits/fc2/bias", r"classifier.3.bias"),
        Rule(r"head/(\w+)", r"classifier.6.\1"),
    ),
}

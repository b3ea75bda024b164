"""ShuffleNet V2 (Ma et al. 2018, arXiv 1807.11164): half of the channels pass a unit untouched, the other half through 1x1, depthwise 3x3 and 1x1.

A shuffle, channels of the two halves in turn, lets them meet in the next unit. Names are torchvision's. Two more arrangements are in use, and
`ShuffleUnit` has them: that of the authors' later code, which takes even and odd channels apart at a unit's beginning instead, and lets all channels
pass the projecting branch of a unit of stride 2; and that of CoDeNet's second network, which is torchvision's by other names.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.models.registry import Variant
from jaxvision.nn.pool import max_pool
from jaxvision.nn.quantize import Layers
from jaxvision.nn.staged import StagedClassifier


def shuffle(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Channels of the first and of the second half in turn."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.stack([first, second], axis=-1).reshape(x.shape)


class ShuffleUnit(nn.Module):
    """One unit.

    Attributes:
      features: after it, of both branches together.
      branches: names of the projecting branch, which a unit of stride 2 has, and of the other.
      early: even and odd channels part at the beginning, and the projecting branch keeps the input's number of channels.
    """

    features: int
    strides: int
    layers: Layers
    branches: tuple[str, str] = ("branch1", "branch2")
    early: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool, hand_on: Callable | None = None) -> Float[Array, "b h2 w2 d"]:
        """`hand_on`: rounds what both branches end with, where a quantized stage has one range for all."""
        if self.strides == 1 and x.shape[-1] % 2:
            raise ModelError(f"a shuffle unit parts its channels in halves, {x.shape[-1]} do not")
        if self.early and self.strides == 2 and self.features <= x.shape[-1]:
            raise ModelError(f"a unit of stride 2 passes its {x.shape[-1]} channels on beside new ones: it cannot end with {self.features}")
        hand_on = hand_on or (lambda y, train: y)
        layers, (side, main) = self.layers, self.branches
        pair = lambda branch, i: (f"{branch}_{i}", f"{branch}_{i + 1}")
        width = self.features // 2
        if self.strides == 1:
            kept, y = (x[..., ::2], x[..., 1::2]) if self.early else jnp.split(x, 2, axis=-1)
        else:
            y, passed = x, x.shape[-1]
            kept = layers.conv_norm(x, passed, 3, self.strides, names=pair(side, 0), groups=passed, train=train)
            kept = layers.activation(f"{side}_depthwise_range")(kept, train)
            kept = layers.conv_norm(kept, passed if self.early else width, names=pair(side, 2), train=train)
            kept = hand_on(nn.relu(kept), train)
        y = layers.conv_norm(y, width, names=pair(main, 0), train=train)
        y = layers.activation(f"{main}_range")(nn.relu(y), train)
        y = layers.conv_norm(y, width, 3, self.strides, names=pair(main, 3), groups=width, train=train)
        y = layers.activation(f"{main}_depthwise_range")(y, train)
        y = layers.conv_norm(y, self.features - kept.shape[-1] if self.early else width, names=pair(main, 5), train=train)
        joined = jnp.concatenate([kept, hand_on(nn.relu(y), train)], axis=-1)
        return joined if self.early else shuffle(joined)


class ShuffleNetV2(StagedClassifier):
    """The classifier. Stage maps have strides 4, 8, 16 and 32.

    Attributes:
      channels: after the stem, of the three stages, and of the last convolution.
      depths: units of each stage.
    """

    num_classes: int = 1000
    image_size: tuple[int, ...] = (224, 224)
    channels: tuple[int, ...] = (24, 116, 232, 464, 1024)
    depths: tuple[int, ...] = (4, 8, 4)
    dropout: float = 0.0
    norm_groups: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def forward(self, image, train: bool, head: bool):
        self.check_size(image, 32)
        layers = Layers(None, self.norm_groups, self.dtype, self.param_dtype)
        x = nn.relu(layers.conv_norm(image, self.channels[0], 3, 2, names=("conv1_0", "conv1_1"), train=train))
        x = max_pool(x, 3, 2, 1)
        maps = [x]
        for stage, (features, depth) in enumerate(zip(self.channels[1:], self.depths), 2):
            for i in range(depth):
                x = ShuffleUnit(features, 1 if i else 2, layers, name=f"stage{stage}_{i}")(x, train)
            maps.append(x)
        if not head:
            return tuple(maps)
        x = nn.relu(layers.conv_norm(x, self.channels[-1], names=("conv5_0", "conv5_1"), train=train))
        return self.classify(x, train, name="fc")


VARIANTS = {
    f"shufflenet_v2_x{name}": Variant(ShuffleNetV2, {"channels": (24, *stages, last)}, interpolation="bilinear", parameters=parameters)
    for name, stages, last, parameters in (
        ("0_5", (48, 96, 192), 1024, 1_366_792),
        ("1_0", (116, 232, 464), 1024, 2_278_604),
        ("1_5", (176, 352, 704), 1024, 3_503_624),
        ("2_0", (244, 488, 976), 2048, 7_393_996),
    )
}
CHECKPOINT = {"torch": ()}

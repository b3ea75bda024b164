"""ESPCN (Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network",
arXiv 1609.05158): every convolution works on the small picture, and the last one makes r^2 channels a colour that the shuffle of
nn/pixel_shuffle.py lays out as pixels.

No weights were released; public re-implementations name the layers in two ways, and both load. Where we differ: zero padding of half a kernel, so
that the output is r times the input (the paper trains without padding and loses the border); the channel order is torch's.
`espcn_examples_*` is the other network of that name, of PyTorch's examples: four convolutions with ReLU.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError, nearest
from jaxvision.models.registry import Variant
from jaxvision.nn.conv import Conv
from jaxvision.nn.pixel_shuffle import pixel_shuffle

ACTIVATIONS = {"tanh": jnp.tanh, "relu": nn.relu}


class ESPCN(nn.Module):
    """(B, H, W, channels) -> (B, scale H, scale W, channels), pixels in 0..1, no activation at the end.

    Attributes:
      num_classes, image_size: of no meaning here; the registry gives them to every model.
      scale: r.
      channels: 1 for luma alone, 3 for colour.
      widths, kernels: of the hidden convolutions; `kernels` has one more, the last one's.
      activation: "tanh" (the paper's best) or "relu".
      orthogonal: initial kernels are orthogonal, as PyTorch's example has them; otherwise normal with the deviation of LeCun's rule.
    """

    num_classes: int = 0
    image_size: tuple[int, ...] = (17, 17)
    scale: int = 3
    channels: int = 1
    widths: tuple[int, ...] = (64, 32)
    kernels: tuple[int, ...] = (5, 3, 3)
    activation: str = "tanh"
    orthogonal: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b p q c"]:
        if self.activation not in ACTIVATIONS:
            raise ModelError(f"model.activation {self.activation!r} is unknown; {nearest(self.activation, ACTIVATIONS)}")
        if image.shape[-1] != self.channels:
            raise ModelError(f"model.channels is {self.channels}, the image has {image.shape[-1]}")
        x, features = image, (*self.widths, self.channels * self.scale**2)
        for number, (width, kernel) in enumerate(zip(features, self.kernels, strict=True), 1):
            last = number == len(features)
            init = nn.initializers.lecun_normal()
            if self.orthogonal:
                init = nn.initializers.orthogonal(1.0 if last else np.sqrt(2.0))
            x = Conv(width, kernel, kernel_init=init, dtype=self.dtype, param_dtype=self.param_dtype, name=f"conv{number}")(x)
            x = x if last else ACTIVATIONS[self.activation](x)
        return pixel_shuffle(x, self.scale).astype(jnp.float32)


# Published counts follow from the layers (5-3-3 with 64 and 32 features and biases; the example's 5-3-3-3 with 64, 64, 32).
COUNTS = {(1, 2): 21_284, (1, 3): 22_729, (1, 4): 24_752, (3, 2): 26_796, (3, 3): 31_131, (3, 4): 37_200}
EXAMPLE_COUNTS = {2: 58_212, 3: 59_657, 4: 61_680}
_PIXELS = {"crop": 1.0, "classes": 0, "image_size": (17, 17)}

VARIANTS = {
    f"espcn_{'y' if channels == 1 else 'rgb'}_x{scale}": Variant(
        ESPCN, {"scale": scale, "channels": channels}, mean=(0.0,) * channels, std=(1.0,) * channels, parameters=count, **_PIXELS
    )
    for (channels, scale), count in COUNTS.items()
} | {
    f"espcn_examples_x{scale}": Variant(
        ESPCN,
        {"scale": scale, "widths": (64, 64, 32), "kernels": (5, 3, 3, 3), "activation": "relu", "orthogonal": True},
        mean=(0.0,),
        std=(1.0,),
        parameters=count,
        **_PIXELS,
    )
    for scale, count in EXAMPLE_COUNTS.items()
}

CHECKPOINT = {"torch": ()}
_SEQUENTIAL = {"feature_maps.0": "conv1", "feature_maps.2": "conv2", "sub_pixel.0": "conv3"}


def adapt_checkpoint(arrays: Mapping[str, np.ndarray], layout: str, model: ESPCN) -> dict[str, np.ndarray]:
    """Files whose layers lie in `feature_maps` and `sub_pixel`, as the re-implementation most in use has them, with the names conv1, conv2, conv3."""
    return {re.sub(r"^(feature_maps\.\d|sub_pixel\.0)(?=\.)", lambda m: _SEQUENTIAL.get(m[0], m[0]), name): array for name, array in arrays.items()}

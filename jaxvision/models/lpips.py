"""LPIPS (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", arXiv 1801.03924): a distance of two pictures
by the features of AlexNet, normalized over channels and weighted by learned numbers that are not negative.

The weights are the user's to bring: the state dict of the published `LPIPS(net="alex")`, version 0.1, as one file.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.models.registry import Variant
from jaxvision.models.rules import Rule
from jaxvision.nn.conv import Conv

# Constants of the published input layer, for pixels in -1..1.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Features, kernel, stride and padding of AlexNet's convolutions; a max-pool of 3 with stride 2 goes before the second and the third.
LAYERS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
POOLED = (1, 2)
# Their places in the published module: slice1.0, slice2.3, …
PLACES = ("slice1.0", "slice2.3", "slice3.6", "slice4.8", "slice5.10")


class LPIPS(nn.Module):
    """Two pictures (B, H, W, 3) in -1..1 -> (B,) distances. The second defaults to black, so that shapes can be learned from one."""

    num_classes: int = 0
    image_size: tuple[int, ...] = (64, 64)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], other: Float[Array, "b h w 3"] | None = None, *, train: bool = False) -> Float[Array, "b"]:
        if min(image.shape[1:3]) < 32:
            raise ModelError(f"LPIPS needs pictures of at least 32 x 32 pixels, got {image.shape[1]} x {image.shape[2]}")
        other = jnp.full_like(image, -1) if other is None else other
        x = (jnp.concatenate([image, other]) - np.asarray(SHIFT, np.float32)) / np.asarray(SCALE, np.float32)
        distance = 0.0
        for number, (features, kernel, stride, padding) in enumerate(LAYERS):
            if number in POOLED:
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
            dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            x = nn.relu(Conv(features, kernel, stride, padding, **dtypes, name=f"conv{number}")(x))
            unit = x / (jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)) + 1e-10)
            first, second = jnp.split(unit, 2)
            weight = self.param(f"weight{number}", nn.initializers.constant(1 / features), (features,), self.param_dtype)
            distance = distance + (jnp.square(first - second) * weight).sum(-1).mean((1, 2))
        return distance


VARIANTS = {"lpips": Variant(LPIPS, {}, image_size=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3, crop=1.0, parameters=2_470_848, classes=0)}


def _lin(number: int) -> Rule:
    return Rule(
        f"weight{number}",
        f"lin{number}.model.1.weight",
        load=lambda arrays, shape: arrays[0].reshape(shape),
        save=lambda array: (array.reshape(1, -1, 1, 1),),
    )


CHECKPOINT = {
    "torch": (
        *(_lin(number) for number in range(len(LAYERS))),
        *(Rule(rf"conv{number}/(\w+)", rf"net.{place}.\1") for number, place in enumerate(PLACES)),
    )
}


def adapt_checkpoint(arrays, layout: str, model: LPIPS) -> dict[str, np.ndarray]:
    """The published file without its input constants and the second names of its weights ("lins.0…")."""
    return {name: array for name, array in arrays.items() if not name.startswith(("scaling_layer.", "lins."))}

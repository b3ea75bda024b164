"""Multi-stage temporal convolutional network for surgical phases (TeCNO, Czempiel et al. 2020, arXiv 2003.10751), on features of a video's frames.

A stage is a row of residual layers whose convolution over time looks back twice as far as the one before, and never ahead; each further stage
reads the softmax of the one before. As in the surgical self-supervision study (Ramesh et al. 2023, arXiv 2207.00449): 2 stages of 9 layers, 64 maps.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxvision.nn.classifier import torch_bias, torch_kernel


class CausalConv(nn.Module):
    """Convolution over time whose output at t sees t, t - dilation, …, `taps` times; before the beginning there are zeros."""

    features: int
    taps: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t d"]:
        length, channels = x.shape[1:]
        kernel = self.param("kernel", torch_kernel, (self.taps, channels, self.features))
        bias = self.param("bias", torch_bias(self.taps * channels), (self.features,))
        reach = (self.taps - 1) * self.dilation
        padded = jnp.pad(x, ((0, 0), (reach, 0), (0, 0)))
        return bias + sum(padded[:, tap * self.dilation : tap * self.dilation + length] @ kernel[tap] for tap in range(self.taps))


class CausalLayer(nn.Module):
    """x + dropout(1x1(relu(dilated convolution of x)))."""

    dilation: int
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"], train: bool) -> Float[Array, "b t c"]:
        y = nn.relu(CausalConv(x.shape[-1], 3, self.dilation, name="conv_dilated")(x))
        y = CausalConv(x.shape[-1], name="conv_1x1")(y)
        return x + nn.Dropout(self.dropout)(y, deterministic=not train)


class Stage(nn.Module):
    layers: int
    maps: int
    classes: int
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"], valid: Float[Array, "b t 1"], train: bool) -> Float[Array, "b t k"]:
        x = CausalConv(self.maps, name="conv_1x1")(x)
        for i in range(self.layers):
            x = CausalLayer(2**i, self.dropout, name=f"layers_{i}")(x, train) * valid
        return CausalConv(self.classes, name="conv_out")(x) * valid


class MultiStageTCN(nn.Module):
    """Logits of every stage for every frame, the last stage's the result. `valid` (b, t) is false in the padding behind a video's end."""

    num_classes: int
    stages: int = 2
    layers: int = 9
    maps: int = 64
    dropout: float = 0.5

    @nn.compact
    def __call__(
        self, features: Float[Array, "b t d"], valid: Bool[Array, "b t"] | None = None, *, train: bool = False
    ) -> Float[Array, "s b t k"]:
        shown = jnp.ones(features.shape[:2]) if valid is None else valid.astype(jnp.float32)
        shown, found, x = shown[..., None], [], features.astype(jnp.float32)
        for number in range(self.stages):
            name = "stage1" if number == 0 else f"stages_{number - 1}"
            logits = Stage(self.layers, self.maps, self.num_classes, self.dropout, name=name)(x, shown, train)
            found.append(logits)
            x = jax.nn.softmax(logits, axis=-1) * shown
        return jnp.stack(found)


CHECKPOINT: dict[str, Any] = {"torch": ()}

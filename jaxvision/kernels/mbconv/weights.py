"""The arrays of an inverted residual and how its norms are folded into them."""

from typing import NamedTuple

from jaxtyping import Array, Float

from jaxvision.kernels.conv_block.weights import fold_layers


class Weights(NamedTuple):
    """Of a block at inference. Kernels have the image's dtype, biases are float32."""

    expand: Float[Array, "c e"]
    expand_bias: Float[Array, " e"]
    conv: Float[Array, "k k g e"]
    conv_bias: Float[Array, " e"]
    project: Float[Array, "e d"]
    project_bias: Float[Array, " d"]


class Settings(NamedTuple):
    """activation: "silu", "gelu", "relu" or "relu6", after the first two layers; stride: of the convolution, down and across."""

    activation: str = "silu"
    stride: int = 1


def fold_mbconv(params, batch_stats, dtype, epsilon: float = 1e-5) -> Weights:
    """Of an inverted residual without squeeze-and-excitation (`nn/inverted_residual.py`): its three batch norms, of this epsilon."""
    layers = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))
    return Weights(*fold_layers(params, batch_stats, layers, dtype, epsilon))

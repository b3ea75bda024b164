"""The arrays of a fused block and how norms and scales are folded into them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Weights(NamedTuple):
    """Of a block at inference. The convolution's and the pointwise kernels have the image's dtype, biases are float32."""

    conv: Float[Array, "k k g c"]
    conv_bias: Float[Array, " c"]
    expand: Float[Array, "c e"]
    expand_bias: Float[Array, " e"]
    project: Float[Array, "e c"]
    project_bias: Float[Array, " c"]


class Settings(NamedTuple):
    """activation: "silu", "gelu", "relu" or "relu6"; epsilon: of a normalization over channels after the convolution, None for none."""

    activation: str = "silu"
    epsilon: float | None = None


def fold_batch_norm(kernel, scale, bias, mean, var, epsilon: float = 1e-5):
    """(kernel, bias) of a convolution or pointwise layer that is what the layer and its batch norm at inference are together."""
    factor = scale * jax.lax.rsqrt(var + epsilon)
    return kernel * factor, bias - mean * factor


def fold_layers(params, batch_stats, layers, dtype, epsilon: float = 1e-5) -> list[Array]:
    """Kernel, bias, kernel, bias, … of `layers`, (name, name of its batch norm) each; kernels of 1x1 pixels become matrices, biases are float32."""
    folded = []
    for name, norm_name in layers:
        norm, stats = params[norm_name], batch_stats[norm_name]
        kernel, bias = fold_batch_norm(params[name]["kernel"], norm["scale"], norm["bias"], stats["mean"], stats["var"], epsilon)
        folded += [(kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel).astype(dtype), bias.astype(jnp.float32)]
    return folded


def fold_convfirst(params, batch_stats, dtype) -> Weights:
    """Of a ConvFirst block (`models/convfirst.py`): its three batch norms."""
    return Weights(*fold_layers(params, batch_stats, [(name, f"{name}_norm") for name in ("conv", "expand", "project")], dtype))


def fold_convnext(params, dtype) -> Weights:
    """Of a ConvNeXt block (`models/convnext.py`): scale and bias of its layer norm go into the next layer, the layer scale into the last."""
    pointwise = [params["mlp"][name] for name in ("fc1", "fc2")]
    (expand, b1), (project, b2) = ((p["kernel"].reshape(p["kernel"].shape[-2:]), p["bias"]) for p in pointwise)
    gamma = params["layer_scale"]["gamma"] if "layer_scale" in params else 1.0
    norm, conv = params["norm"], params["conv_dw"]
    return Weights(
        conv["kernel"].astype(dtype),
        conv["bias"].astype(jnp.float32),
        (norm["scale"][:, None] * expand).astype(dtype),
        (norm["bias"] @ expand + b1).astype(jnp.float32),
        (project * gamma).astype(dtype),
        (b2 * gamma).astype(jnp.float32),
    )

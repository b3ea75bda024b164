"""What a fused block means: its layers one after another, in the dtype of the image, activations and normalization in float32."""

import jax
import jax.numpy as jnp

from jaxvision.kernels.conv_block.weights import Settings, Weights
from jaxvision.kernels.depthwise_conv import depthwise_conv
from jaxvision.kernels.grouped_conv import grouped_conv

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
}


def forward(x, weights: Weights, settings: Settings):
    def activated(y):
        return ACTIVATIONS[settings.activation](y.astype(jnp.float32)).astype(x.dtype)

    def spatial(y):
        groups = y.shape[-1] // weights.conv.shape[2]
        if groups == y.shape[-1]:
            y = depthwise_conv(y, weights.conv, 1, weights.conv.shape[0] // 2)
        else:
            y = grouped_conv(y, weights.conv, groups, 1, weights.conv.shape[0] // 2)
        return normalized(y.astype(jnp.float32) + weights.conv_bias, settings.epsilon).astype(x.dtype)

    y = activated(jnp.einsum("bhwc,cd->bhwd", spatial(x), weights.expand) + weights.expand_bias.astype(x.dtype))
    return x + (jnp.einsum("bhwc,cd->bhwd", y, weights.project) + weights.project_bias.astype(x.dtype))


def normalized(y, epsilon: float | None):
    """To mean 0 and variance 1 over channels, float32; unchanged where `epsilon` is None."""
    if epsilon is None:
        return y
    centred = y - y.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)

"""What an inverted residual means: its layers one after another, in the dtype of the image, activations in float32."""

import jax
import jax.numpy as jnp

from jaxvision.kernels.conv_block.reference import ACTIVATIONS
from jaxvision.kernels.depthwise_conv import depthwise_conv
from jaxvision.kernels.grouped_conv import grouped_conv
from jaxvision.kernels.mbconv.weights import Settings, Weights


def forward(x, weights: Weights, settings: Settings, *, apart: bool = False):
    """apart: whether the compiler may fuse nothing across the three layers."""
    kept = jax.lax.optimization_barrier if apart else lambda y: y

    def activated(y):
        return ACTIVATIONS[settings.activation](y.astype(jnp.float32)).astype(x.dtype)

    def spatial(y):
        border, group = weights.conv.shape[0] // 2, weights.conv.shape[2]
        if group == 1:
            return depthwise_conv(y, weights.conv, settings.stride, border)
        return grouped_conv(y, weights.conv, y.shape[-1] // group, settings.stride, border)

    y = kept(activated(jnp.einsum("bhwc,ce->bhwe", x, weights.expand) + weights.expand_bias.astype(x.dtype)))
    y = kept(activated(spatial(y).astype(jnp.float32) + weights.conv_bias))
    y = kept(jnp.einsum("bhwe,ed->bhwd", y, weights.project) + weights.project_bias.astype(x.dtype))
    return x + y if y.shape == x.shape else y

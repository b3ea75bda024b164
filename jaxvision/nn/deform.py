"""Convolutions of 3x3 whose taps move with the input (Dai et al. 2017, arXiv 1703.06211), and what hardware can hold of that.

Huang et al. 2019 (CoDeNet's ablation, arXiv 2002.08357) bound the offsets, tie them to one number a pixel that dilates the square of taps, and make
the convolution depthwise. Dong et al. 2021 (CoDeNet, arXiv 2006.08357) learn the radius of the square itself. The layer that says where taps go
begins at zero offsets, so each begins as a plain convolution. Where the public code differs from ours: clamps pass the derivative at their ends.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.kernels.deform_conv import bounded, deform_conv, square_deform_conv, square_offsets
from jaxvision.nn.conv import convolve
from jaxvision.nn.quantize import Layers, quantized_weight

BOUND = 8  # pixels that a tap moves at most
ZERO = {"kernel_init": nn.initializers.zeros, "bias_init": nn.initializers.zeros}


def fan_out(key, shape, dtype=jnp.float32):
    """Normal of deviation 1 / sqrt(9 features), of depthwise kernels too: Kaiming's with leaky slope 1, as PyTorch counts the fan."""
    return jax.random.normal(key, shape, dtype) / jnp.sqrt(shape[0] * shape[1] * shape[-1])


class VariantConv(nn.Module):
    """One of the ablation's convolutions of stride 1, without bias; see KINDS."""

    features: int
    kind: str
    layers: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        depthwise, points, reach, run = KINDS[self.kind]
        layers, normed = self.layers, self.kind == "depthwise"
        if normed:
            x = nn.relu(layers.conv_norm(x, self.features, names=("point_wise_0", "point_wise_1"), train=train))
        elif depthwise:
            x = layers.conv(x, self.features, name="point_wise")
        where = layers.conv(x, points, reach, name="conv_offset", use_bias=True, **ZERO).astype(jnp.float32) if points else None
        shape = (3, 3, 1 if depthwise else x.shape[-1], self.features)
        kernel = self.param("kernel", fan_out, shape, layers.param_dtype).astype(x.dtype)
        return run(x, where, kernel, self.features if depthwise else 1)


def _plain(x, where, kernel, groups):
    return convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), (1, 1), groups)


def _free(x, where, kernel, groups):
    return deform_conv(x, where, kernel, padding=1, groups=groups)


def _bounded(x, where, kernel, groups):
    return deform_conv(x, bounded(where, -BOUND, BOUND), kernel, padding=1, groups=groups)


def _square(x, where, kernel, groups):
    where = bounded(where, 0, BOUND)
    return deform_conv(x, square_offsets(where), kernel, padding=1) if groups == 1 else square_deform_conv(x, where, kernel, BOUND)


# Whether a pointwise convolution goes before and the 3x3 one is depthwise, numbers a pixel that say where taps go, size of the convolution that
# makes them, and what is computed.
KINDS: dict[str, tuple[bool, int, int, Callable]] = {
    "conv3x3": (False, 0, 0, _plain),
    "depthwise": (True, 0, 0, _plain),
    "deform": (False, 18, 1, _free),
    "deform_bound": (False, 18, 3, _bounded),
    "deform_square": (False, 1, 3, _square),
    "deform_depthwise": (True, 18, 1, _free),
    "square_depthwise": (True, 1, 1, _square),
}


class RadiusConv(nn.Module):
    """CoDeNet's layer: depthwise 3x3 on a square whose radius s within -7..8 is learned a pixel (1 at the beginning), then 1x1 with its batch norm.

    The square's weights and its radius are quantized too; `norm` names the batch norm, which lies beside this module.
    """

    features: int
    layers: Layers

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w 1"]]:
        """(what the depthwise convolution makes, the radius)."""
        layers, dim = self.layers, x.shape[-1]
        radius = layers.conv(x, 1, name="conv_scale", use_bias=True, kernel_init=nn.initializers.zeros, bias_init=nn.initializers.ones)
        radius = layers.activation("scale_range")(bounded(radius.astype(jnp.float32), 1 - BOUND, BOUND), train)
        bound = (9 * dim) ** -0.5
        uniform = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
        kernel = self.param("kernel", uniform, (3, 3, 1, dim), layers.param_dtype)
        if layers.quant is not None:
            kernel = quantized_weight(kernel, layers.quant)
        y = square_deform_conv(x, radius - 1, kernel.astype(x.dtype), BOUND - 1, -BOUND)
        return layers.activation("deform_range")(y, train), radius

"""What follows the depthwise convolution in a block of ConvNeXt-T: norm, perceptron, layer scale, residual sum."""

import jax
import jax.numpy as jnp

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.mlp import mlp_branch


def _case(name: str, side: int, channels: int) -> Case:
    def call(x: jax.Array, *arrays: jax.Array, implementation: str | None) -> jax.Array:
        *weights, shift, skip = arrays
        return mlp_branch(x, *weights, shift=shift, factor=jnp.ones(len(x)), skip=skip, epsilon=1e-6, implementation=implementation)

    def arguments(batch, dtype):
        hidden, image = 4 * channels, (batch, side, side, channels)
        weights = (spec(*shape, dtype=jnp.float32) for shape in ((channels, hidden), (hidden,), (hidden, channels), (channels,), (channels,)))
        return spec(*image, dtype=dtype), *weights, spec(*image, dtype=dtype)

    return Case(name, call, arguments)


BENCH = tuple(_case(f"ConvNeXt-T, stage {n}", side, channels) for n, side, channels in ((1, 56, 96), (2, 28, 192), (3, 14, 384)))

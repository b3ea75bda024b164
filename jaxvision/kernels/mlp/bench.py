"""What follows the depthwise convolution in a block of ConvNeXt-T: norm, perceptron, layer scale."""

import jax
import jax.numpy as jnp

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.mlp import mlp


def _case(name: str, side: int, channels: int) -> Case:
    def call(x: jax.Array, *weights: jax.Array, implementation: str | None) -> jax.Array:
        return mlp(x, *weights, epsilon=1e-6, implementation=implementation)

    def arguments(batch, dtype):
        hidden = 4 * channels
        weights = (spec(*shape, dtype=jnp.float32) for shape in ((channels, hidden), (hidden,), (hidden, channels), (channels,)))
        return spec(batch, side, side, channels, dtype=dtype), *weights

    return Case(name, call, arguments)


BENCH = (_case("ConvNeXt-T, stage 1", 56, 96), _case("ConvNeXt-T, stage 2", 28, 192))

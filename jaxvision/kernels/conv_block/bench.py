"""Blocks of ConvFirstNet and ConvNeXt-T at inference. On TPUs "ours" is the fused kernel, which is used on request only, where it covers
a block; elsewhere the layers."""

import functools

import jax
import jax.numpy as jnp

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.conv_block import PLAIN, Settings, Weights, conv_block


def _case(name: str, side: int, channels: int, group: int, kernel: int, wide: int, settings: Settings = PLAIN) -> Case:
    def call(x: jax.Array, *weights: jax.Array, implementation: str | None) -> jax.Array:
        run = functools.partial(conv_block, settings=settings)
        if implementation == "reference":
            return run(x, Weights(*weights), implementation="reference")
        fused = lambda x, *weights: run(x, Weights(*weights), implementation="tpu")
        return jax.lax.platform_dependent(x, *weights, tpu=fused, default=lambda x, *weights: run(x, Weights(*weights)))

    def arguments(batch, dtype):
        shapes = Weights((kernel, kernel, group, channels), (channels,), (channels, wide), (wide,), (wide, channels), (channels,))
        weights = (spec(*shape, dtype=jnp.float32 if len(shape) == 1 else dtype) for shape in shapes)
        return spec(batch, side, side, channels, dtype=dtype), *weights

    return Case(name, call, arguments, gradients=False)


BENCH = (
    _case("ConvFirst, 56x56x64", 56, 64, 8, 3, 256),
    _case("ConvFirst, 14x14x256", 14, 256, 8, 3, 1024),
    _case("ConvNeXt-T, stage 1", 56, 96, 1, 7, 384, Settings("gelu", 1e-6)),
)

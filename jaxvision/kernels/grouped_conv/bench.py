"""Grouped convolutions of ResNeXt-50 (32 groups) and of RegNets (groups of 8, 24 and 64 channels)."""

import jax

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.grouped_conv import grouped_conv


def _case(name: str, side: int, channels: int, width: int) -> Case:
    def call(x: jax.Array, w: jax.Array, *, implementation: str | None) -> jax.Array:
        return grouped_conv(x, w, channels // width, 1, 1, implementation=implementation)

    return Case(
        name,
        call,
        lambda batch, dtype: (spec(batch, side, side, channels, dtype=dtype), spec(3, 3, width, channels, dtype=dtype)),
    )


BENCH = (
    _case("ResNeXt-50, stage 1, 32 x 4", 56, 128, 4),
    _case("ResNeXt-50, stage 3, 32 x 16", 14, 512, 16),
    _case("RegNetY-400MF, stage 3, 26 x 8", 14, 208, 8),
    _case("RegNetX-1.6GF, stage 2, 7 x 24", 28, 168, 24),
    _case("RegNetY-4GF, stage 3, 8 x 64", 14, 512, 64),
)

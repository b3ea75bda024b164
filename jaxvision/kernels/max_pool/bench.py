"""The max-pools of ResNet-50 and VGG-16."""

import jax

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.max_pool import max_pool


def _case(name: str, side: int, channels: int, window: int, padding: int) -> Case:
    def call(x: jax.Array, *, implementation: str | None) -> jax.Array:
        return max_pool(x, (window, window), (2, 2), ((padding, padding),) * 2, implementation=implementation)

    return Case(name, call, lambda batch, dtype: (spec(batch, side, side, channels, dtype=dtype),), flops=lambda batch: 0.0)


BENCH = (_case("ResNet-50, after the stem, 3x3 / 2", 112, 64, 3, 1), _case("VGG-16, first, 2x2 / 2", 224, 64, 2, 0))

"""Dense convolutions of ResNet-50 and ViT-S/16."""

import jax

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.conv import conv


def _case(name: str, side: int, channels: int, features: int, kernel: int, strides: int = 1, padding: int | str = "VALID") -> Case:
    def call(x: jax.Array, w: jax.Array, *, implementation: str | None) -> jax.Array:
        return conv(x, w, strides, padding, implementation=implementation)

    return Case(
        name,
        call,
        lambda batch, dtype: (spec(batch, side, side, channels, dtype=dtype), spec(kernel, kernel, channels, features, dtype=dtype)),
    )


BENCH = (
    _case("ResNet-50, stem 7x7 / 2", 224, 3, 64, 7, 2, 3),
    _case("ResNet-50, stage 1, 1x1", 56, 64, 256, 1),
    _case("ResNet-50, stage 1, 3x3", 56, 64, 64, 3, 1, 1),
    _case("ResNet-50, stage 3, 3x3", 14, 256, 256, 3, 1, 1),
    _case("ViT-S/16, patches", 224, 3, 384, 16, 16),
)

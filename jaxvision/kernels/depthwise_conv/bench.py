"""Depthwise convolutions of ConvNeXt, RepLKNet, MobileNetV3 and InceptionNeXt."""

import jax

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.depthwise_conv import depthwise_conv


def _case(name: str, side: int, channels: int, kernel: tuple[int, int], strides: int = 1) -> Case:
    def call(x: jax.Array, w: jax.Array, *, implementation: str | None) -> jax.Array:
        return depthwise_conv(x, w, strides, tuple((k - 1) // 2 for k in kernel), implementation=implementation)

    return Case(
        name,
        call,
        lambda batch, dtype: (spec(batch, side, side, channels, dtype=dtype), spec(*kernel, 1, channels, dtype=dtype)),
    )


BENCH = (
    _case("ConvNeXt-T, stage 1, 7x7", 56, 96, (7, 7)),
    _case("ConvNeXt-T, stage 2, 7x7", 28, 192, (7, 7)),
    _case("ConvNeXt-T, stage 3, 7x7", 14, 384, (7, 7)),
    _case("ConvNeXt-T, stage 4, 7x7", 7, 768, (7, 7)),
    _case("RepLKNet-31B, stage 1, 31x31", 56, 128, (31, 31)),
    _case("RepLKNet-31B, stage 3, 27x27", 14, 512, (27, 27)),
    _case("MobileNetV3-L, 3x3 / 2", 112, 64, (3, 3), 2),
    _case("MobileNetV3-L, 5x5", 7, 960, (5, 5)),
    _case("InceptionNeXt-T, 1x11", 56, 12, (1, 11)),
)

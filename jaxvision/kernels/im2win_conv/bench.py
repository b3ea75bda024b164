"""The twelve layers of the paper's table, without padding; what they are compared with is a plain XLA convolution."""

import jax

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.conv import conv
from jaxvision.kernels.im2win_conv import im2win_conv

# Input channels, input side, output channels, kernel side, stride.
LAYERS = (
    (3, 227, 96, 11, 4),
    (3, 231, 96, 11, 4),
    (3, 227, 64, 7, 2),
    (64, 224, 64, 7, 2),
    (96, 24, 256, 5, 1),
    (256, 12, 512, 3, 1),
    (3, 224, 64, 3, 1),
    (64, 112, 128, 3, 1),
    (64, 56, 64, 3, 1),
    (128, 28, 128, 3, 1),
    (256, 14, 256, 3, 1),
    (512, 7, 512, 3, 1),
)


def _case(number: int, channels: int, side: int, features: int, kernel: int, stride: int) -> Case:
    def call(x: jax.Array, w: jax.Array, *, implementation: str | None) -> jax.Array:
        if implementation == "reference":
            return conv(x, w, stride, 0, implementation="reference")
        return im2win_conv(x, w, stride, implementation=implementation)

    def arguments(batch, dtype):
        return spec(batch, side, side, channels, dtype=dtype), spec(kernel, kernel, channels, features, dtype=dtype)

    return Case(f"layer {number}, {kernel}x{kernel} / {stride}", call, arguments)


BENCH = tuple(_case(number, *layer) for number, layer in enumerate(LAYERS, 1))

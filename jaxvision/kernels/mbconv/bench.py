"""Inverted residuals of EfficientNet-B0 at 224 pixels without their squeeze-and-excitation, and one in groups of 8 (Lavin 2024, arXiv 2404.03617).

"reference" is what the compiler makes of the three layers as one program; "ours" keeps them apart where that is quicker.
"""

import jax
import jax.numpy as jnp

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.mbconv import Settings, Weights, mbconv


def _case(side: int, channels: int, wide: int, features: int, kernel: int, stride: int = 1, group: int = 1) -> Case:
    def call(x: jax.Array, *weights: jax.Array, implementation: str | None) -> jax.Array:
        return mbconv(x, Weights(*weights), Settings("silu", stride), implementation=implementation)

    def arguments(batch, dtype):
        shapes = Weights((channels, wide), (wide,), (kernel, kernel, group, wide), (wide,), (wide, features), (features,))
        weights = (spec(*shape, dtype=jnp.float32 if len(shape) == 1 else dtype) for shape in shapes)
        return spec(batch, side, side, channels, dtype=dtype), *weights

    grouped = f", groups of {group}" if group > 1 else ""
    return Case(f"{side}x{side}, {channels}-{wide}-{features}, {kernel}x{kernel} / {stride}{grouped}", call, arguments, gradients=False)


BENCH = (
    _case(112, 16, 96, 24, 3, 2),
    _case(56, 24, 144, 24, 3),
    _case(56, 24, 144, 40, 5, 2),
    _case(28, 40, 240, 40, 5),
    _case(14, 80, 480, 80, 3),
    _case(14, 112, 672, 112, 5),
    _case(7, 192, 1152, 192, 5),
    _case(28, 128, 512, 128, 3, group=8),
)

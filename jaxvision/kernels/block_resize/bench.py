"""Changes of size inside U-Nets of guided diffusion, forward and with gradients."""

import jax

from jaxvision.kernels.block_resize import average_pool, repeat_pixels
from jaxvision.kernels.cases import Case, spec


def _case(op, name: str, side: int, channels: int, scale: int = 2) -> Case:
    def call(x: jax.Array, *, implementation: str | None) -> jax.Array:
        return op(x, scale, implementation=implementation)

    return Case(name, call, lambda batch, dtype: (spec(batch, side, side, channels, dtype=dtype),), flops=lambda batch: 0.0)


BENCH = (
    _case(average_pool, "mean, U-Net, 128 channels, 256 x 256", 256, 128),
    _case(average_pool, "mean, U-Net, 256 channels, 64 x 64", 64, 256),
    _case(repeat_pixels, "repeated, U-Net, 256 channels, 128 x 128", 128, 256),
    _case(repeat_pixels, "repeated, U-Net, 512 channels, 16 x 16", 16, 512),
)

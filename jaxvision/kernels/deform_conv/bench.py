"""The decoder of the published detector at 512 pixels: square, bounded, depthwise."""

import jax
import jax.numpy as jnp

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.deform_conv import bounded, square_deform_conv


def _case(side: int, channels: int) -> Case:
    def call(x: jax.Array, scale: jax.Array, w: jax.Array, *, implementation: str | None) -> jax.Array:
        return square_deform_conv(x, bounded(scale, 0.0, 8.0), w, implementation=implementation)

    def arguments(batch, dtype):
        return spec(batch, side, side, channels, dtype=dtype), spec(batch, side, side, 1, dtype=jnp.float32), spec(3, 3, 1, channels, dtype=dtype)

    # What the op needs: four neighbours of each of nine taps.
    return Case(f"CoDeNet decoder, {side}x{side}", call, arguments, flops=lambda batch: 2 * 9 * 5 * batch * side**2 * channels)


BENCH = (_case(16, 512), _case(32, 256), _case(64, 128))

"""The last layer of ESPCN on 1080p frames, of luma and of colour, and a shuffle inside DRCT."""

import jax

from jaxvision.kernels.cases import Case, spec
from jaxvision.kernels.pixel_shuffle import pixel_shuffle


def _case(name: str, height: int, width: int, colours: int, scale: int) -> Case:
    def call(x: jax.Array, *, implementation: str | None) -> jax.Array:
        return pixel_shuffle(x, scale, implementation=implementation)

    return Case(name, call, lambda batch, dtype: (spec(batch, height, width, colours * scale**2, dtype=dtype),), flops=lambda batch: 0.0)


BENCH = (
    _case("ESPCN x3, luma, 1920 x 1080", 360, 640, 1, 3),
    _case("ESPCN x2, colour, 1920 x 1080", 540, 960, 3, 2),
    _case("DRCT, 64 channels, 64 x 64 to 128 x 128", 64, 64, 64, 2),
)

"""Sizes changed by a whole number: means of blocks of pixels, and each pixel as a block."""

from jaxtyping import Array, Float, Num

from jaxvision.errors import ModelError
from jaxvision.kernels.block_resize import reference, tpu
from jaxvision.kernels.forms import Forms, Kernel

__all__ = ["average_pool", "repeat_pixels"]
_MEAN = Forms(
    "block_mean",
    {"reference": reference.mean, "tpu": reference.mean},
    {"tpu": "tpu"},
    {"tpu": Kernel(tpu.mean, tpu.mean_cotangents, tpu.covers_mean, shared=())},
)
_REPEAT = Forms(
    "block_repeat",
    {"reference": reference.repeat, "tpu": reference.repeat},
    {"tpu": "tpu"},
    {"tpu": Kernel(tpu.repeat, tpu.repeat_cotangents, tpu.covers_repeat, shared=())},
)


def average_pool(image: Float[Array, "b h w c"], scale: int, *, implementation: str | None = None) -> Float[Array, "b p q c"]:
    """Means of blocks of scale x scale pixels, added up in float32.

    Args:
      implementation: "reference" (a reshape and a mean) or "tpu" (sums over windows, where the batch of a device does not fill its registers; else
        the reference); None takes the one for the platform of the program. Differentiable to every order in both modes.

    Raises ModelError when the sides do not divide, and for an unknown implementation.
    """
    h, w = image.shape[1:3]
    if h % scale or w % scale:
        raise ModelError(f"{h} x {w} pixels do not divide into blocks of {scale} x {scale}")
    return _MEAN(image, scale=scale, implementation=implementation)


def repeat_pixels(image: Num[Array, "b h w c"], scale: int, *, implementation: str | None = None) -> Num[Array, "b p q c"]:
    """Each pixel as a block of scale x scale: nearest-neighbour enlargement. `implementation` and errors as of `average_pool`."""
    return _REPEAT(image, scale=scale, implementation=implementation)

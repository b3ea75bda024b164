"""Dense layer: the same matrix for every position, whatever the axes before the channels."""

from typing import NamedTuple

from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.kernels.bilinear import Bilinear
from jaxvision.kernels.dense import cpu
from jaxvision.kernels.dense.reference import REFERENCE


class Anywhere(NamedTuple):
    """A dense layer has no geometry: it fits any size, known or open."""

    known: bool = True


OP = Bilinear("dense", {"reference": REFERENCE, "cpu": cpu.MAPS})


def dense(x: Float[Array, "... c"], kernel: Float[Array, "c d"], *, implementation: str | None = None) -> Float[Array, "... d"]:
    """y[…, d] = sum over c of x[…, c] kernel[c, d], in the dtype that the two promote to. Differentiable to every order in both modes.

    Args:
      implementation: "cpu" or "reference"; None takes the one for the platform that the program is compiled for.

    Raises ModelError when the kernel does not fit the channels, or the implementation is unknown.
    """
    if x.ndim < 2 or kernel.ndim != 2 or x.shape[-1] != kernel.shape[0]:
        raise ModelError(f"a dense layer takes values (…, c) with an axis before c and a kernel (c, d), not shapes {x.shape} and {kernel.shape}")
    return OP(x, kernel, Anywhere(), implementation)

"""Depthwise convolution: one kernel a channel."""

from collections.abc import Sequence

from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.kernels.bilinear import Bilinear
from jaxvision.kernels.conv.reference import REFERENCE
from jaxvision.kernels.depthwise_conv import cpu, tpu
from jaxvision.kernels.geometry import geometry

OP = Bilinear("depthwise_conv", {"reference": REFERENCE, "cpu": cpu.MAPS, "tpu": tpu.MAPS})


def depthwise_conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw 1 c"],
    strides: int | Sequence[int] = 1,
    padding: int | str | Sequence = "SAME",
    dilation: int | Sequence[int] = 1,
    *,
    implementation: str | None = None,
) -> Float[Array, "b h2 w2 c"]:
    """y[b, p, q, c] = sum over i, j of kernel[i, j, 0, c] x[b, p sh + i dh - top, q sw + j dw - left, c], in the dtype of x.

    Kernels of any sides (bands too), strides and dilations. Differentiable to every order in both modes.

    Args:
      padding: pixels on each side (an integer or (rows, columns)), ((top, bottom), (left, right)), "SAME" or "VALID".
      implementation: "cpu", "tpu" (interpreted elsewhere) or "reference"; None takes the one for the platform that the program is compiled for.

    Raises ModelError when the kernel does not fit the image's channels, or the implementation is unknown.
    """
    if kernel.shape[2:] != (1, x.shape[-1]):
        raise ModelError(f"a depthwise kernel of {x.shape[-1]} channels has shape (kh, kw, 1, {x.shape[-1]}), not {tuple(kernel.shape)}")
    return OP(x, kernel, geometry(x, kernel, strides, padding, dilation, x.shape[-1]), implementation)

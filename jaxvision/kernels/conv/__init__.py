"""Dense convolution: every output channel reads every input channel."""

from collections.abc import Sequence

from jaxtyping import Array, Float

from jaxvision.kernels.bilinear import Bilinear
from jaxvision.kernels.conv import cpu
from jaxvision.kernels.conv.reference import REFERENCE
from jaxvision.kernels.geometry import geometry

OP = Bilinear("conv", {"reference": REFERENCE, "cpu": cpu.MAPS})


def conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c d"],
    strides: int | Sequence[int] = 1,
    padding: int | str | Sequence = "SAME",
    dilation: int | Sequence[int] = 1,
    *,
    implementation: str | None = None,
) -> Float[Array, "b h2 w2 d"]:
    """y[b, p, q, d] = sum over i, j, c of kernel[i, j, c, d] x[b, p sh + i dh - top, q sw + j dw - left, c]; arguments as in `depthwise_conv`."""
    return OP(x, kernel, geometry(x, kernel, strides, padding, dilation, 1), implementation)

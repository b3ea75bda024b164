"""Grouped convolution: every output channel reads the input channels of its own group."""

from collections.abc import Sequence

from jaxtyping import Array, Float

from jaxvision.kernels.bilinear import Bilinear
from jaxvision.kernels.conv.reference import REFERENCE
from jaxvision.kernels.geometry import geometry
from jaxvision.kernels.grouped_conv import cpu

OP = Bilinear("grouped_conv", {"reference": REFERENCE, "cpu": cpu.MAPS})


def grouped_conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw g d"],
    groups: int,
    strides: int | Sequence[int] = 1,
    padding: int | str | Sequence = "SAME",
    dilation: int | Sequence[int] = 1,
    *,
    implementation: str | None = None,
) -> Float[Array, "b h2 w2 d"]:
    """A convolution in `groups` groups of c / groups input and d / groups output channels each; other arguments as in `depthwise_conv`."""
    return OP(x, kernel, geometry(x, kernel, strides, padding, dilation, groups), implementation)

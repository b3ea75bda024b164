"""Convolution by windows of rows (Im2win, Lu, Chu, Xie 2023, arXiv 2306.14316; on CPUs arXiv 2306.14320).

An output row gets one strip: the kh input rows that it reads, laid out column by column, so that the window of the next output is the same memory a
few numbers further on. The strips hold each input pixel once a row of outputs, where unrolled windows (im2col) hold it once an output.

Where we differ: channels lie innermost, so that a strip is (columns, kh x channels) and one convolution of 1 x kw over it, with the filter in the
strip's order, gives the row; no window is ever copied. The paper has channels outermost, and its CUDA code is not public. The public CPU code
allocates no strips where the stride reaches the kernel; the strips here always have kh rows. Gradients of the image are a convolution by windows of
rows again, those of the filter products of strips and gradients.
"""

from collections.abc import Sequence

from jaxtyping import Array, Float

from jaxvision.kernels.bilinear import Bilinear
from jaxvision.kernels.geometry import geometry
from jaxvision.kernels.im2win_conv import tpu
from jaxvision.kernels.im2win_conv.reference import REFERENCE, im2col, im2win, of_strips, window_order

__all__ = ["im2col", "im2win", "im2win_conv", "of_strips", "window_order"]
OP = Bilinear("im2win_conv", {"reference": REFERENCE, "tpu": tpu.MAPS})


def im2win_conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw g d"],
    strides: int | Sequence[int] = 1,
    padding: int | str | Sequence = "VALID",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    implementation: str | None = None,
) -> Float[Array, "b h2 w2 d"]:
    """The convolution of `kernels.conv`, of any strides, padding, dilation and groups, computed by strips. Differentiable to every order.

    Args:
      implementation: "reference" (strips in XLA), or "tpu" (strips in on-chip memory, interpreted elsewhere); None takes the one for the platform
        that the program is compiled for. It is the paper's subject: `kernels.conv` is what models call.

    Raises ModelError when the kernel does not fit the image's channels, or the implementation is unknown.
    """
    return OP(x, kernel, geometry(x, kernel, strides, padding, dilation, groups), implementation)

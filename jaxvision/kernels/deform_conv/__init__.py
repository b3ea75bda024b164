"""Deformable convolution (Dai et al. 2017, arXiv 1703.06211; with modulation, Zhu et al. 2018, arXiv 1811.11168), and the forms that hardware can
hold (Huang et al. 2019, arXiv 2002.08357, and CoDeNet, arXiv 2006.08357): offsets within bounds, or one number a pixel that dilates a square.

Each tap of each output reads the image at a place of its own, between pixels by bilinear interpolation, zero outside. The square form knows its nine
places up to that one number, so that it can be written as a sum over all radii of shifted images, each weighted by how near its radius is: many more
multiply-adds, and no gather. On TPUs it is a kernel of matrix products (`tpu.py`).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.errors import ModelError
from jaxvision.kernels.deform_conv import reference, shifted, tpu
from jaxvision.kernels.forms import Forms, Kernel
from jaxvision.kernels.geometry import geometry

__all__ = ["bounded", "deform_conv", "rounded", "square_deform_conv", "square_offsets"]
_SQUARE = Forms(
    "square_deform_conv",
    {"reference": reference.square, "shifted": shifted.square, "tpu": shifted.square},
    {"tpu": "tpu"},
    {"tpu": Kernel(tpu.forward, tpu.cotangents, tpu.covers, shared=(2,))},
)
# Rows and columns of the nine taps of a 3x3 kernel, from its centre.
TEMPLATE = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1))


def deform_conv(
    x: Float[Array, "b h w c"],
    offsets: Float[Array, "b h2 w2 o"],
    kernel: Float[Array, "kh kw g d"],
    strides: int | Sequence[int] = 1,
    padding: int | str | Sequence = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    mask: Float[Array, "b h2 w2 m"] | None = None,
) -> Float[Array, "b h2 w2 d"]:
    """y[p] = sum over taps k of kernel[k] x(p stride - padding + k dilation + offset_k[p]), times mask_k[p] where there is one; float32 places.

    Args:
      offsets: in pixels; o = 2 kh kw offset groups, ordered by group, tap (row by row) and (row, column), as torchvision has them. An offset group
        moves as many neighbouring channels as the next one.
      groups: of channels, as in a convolution; as many as channels for a depthwise one.
      mask: m = kh kw offset groups factors (modulated deformable convolution).

    Raises ModelError when shapes do not go together.
    """
    where = geometry(x, kernel, strides, padding, dilation, groups)
    taps = where.kernel[0] * where.kernel[1]
    parts, rest = divmod(offsets.shape[-1], 2 * taps)
    if offsets.shape[:3] != (x.shape[0], *where.output) or rest or not parts or x.shape[-1] % parts:
        raise ModelError(
            f"offsets of {taps} taps are (batch, rows, columns, {2 * taps} x groups of channels), here {(x.shape[0], *where.output)} and groups that "
            f"divide {x.shape[-1]} channels, not {tuple(offsets.shape)}"
        )
    if mask is not None and mask.shape != (*offsets.shape[:3], parts * taps):
        raise ModelError(f"the mask of these offsets has shape {(*offsets.shape[:3], parts * taps)}, not {tuple(mask.shape)}")
    return reference.deform_conv(x, offsets, kernel, mask, where)


def square_deform_conv(
    x: Float[Array, "b h w c"], scale: Float[Array, "b h w 1"], kernel: Float[Array, "3 3 1 c"], bound: int = 8, low: int = 0, *,
    implementation: str | None = None,
) -> Float[Array, "b h w c"]:  # fmt: skip
    """A depthwise 3x3 convolution dilated by 1 + scale at each output, stride 1, zero outside: `deform_conv` with `square_offsets`.

    Args:
      scale: within [low, bound], as `bounded` makes it; below -1 the taps change sides.
      implementation: "reference" (gathers), "shifted" (a weighted sum over radii low + 1 … bound + 2), or "tpu" (matrix products, interpreted
        elsewhere; by shifts where the image or its channels are not covered); None takes that on TPUs, gathers elsewhere. Differentiable to every
        order in both modes.

    Raises ModelError when shapes do not go together, or the implementation is unknown.
    """
    if kernel.shape != (3, 3, 1, x.shape[-1]) or scale.shape != (*x.shape[:3], 1):
        raise ModelError(f"an image {tuple(x.shape)} takes a scale (b, h, w, 1) and a kernel (3, 3, 1, c), not {scale.shape} and {kernel.shape}")
    return _SQUARE(x, scale, kernel, bound=bound, low=low, implementation=implementation)


def square_offsets(scale: Float[Array, "b h w 1"]) -> Float[Array, "b h w 18"]:
    """Offsets that move the nine taps of a 3x3 kernel outwards by `scale` pixels: the tap (i, j) from the centre by (i scale, j scale)."""
    return scale * jnp.asarray(TEMPLATE, scale.dtype).reshape(-1)


@jax.custom_jvp
def bounded(value: Float[Array, "..."], low: float, high: float) -> Float[Array, "..."]:
    """`value` within [low, high]; its derivative is 1 there, both ends included, and 0 outside.

    The ends matter: a scale starts at exactly 0, and where its derivative is 0 too it never leaves. (Half of it, as `jnp.clip` has it, is no better
    founded; the published runs used a PyTorch whose clamp passes all of it.)
    """
    return jnp.clip(value, low, high)


@bounded.defjvp
def _bounded_jvp(primals, tangents):
    value, low, high = primals
    return bounded(value, low, high), jnp.where((value >= low) & (value <= high), tangents[0], 0)


@jax.custom_jvp
def rounded(value: Float[Array, "..."]) -> Float[Array, "..."]:
    """The nearest integer, with derivative 1 (straight through). The public class rounds plainly, and its offsets never learn."""
    return jnp.round(value)


@rounded.defjvp
def _rounded_jvp(primals, tangents):
    return rounded(*primals), tangents[0]

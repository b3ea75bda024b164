"""Strips, filters in their order, and their product; and the unrolled windows that they are compared with."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxvision.kernels.bilinear import Maps
from jaxvision.kernels.conv.reference import like
from jaxvision.kernels.geometry import Geometry


def im2win(x: Float[Array, "b h w c"], geometry: Geometry) -> Float[Array, "b h2 w3 m"]:
    """The strips: for each output row its kh input rows, (columns of the padded image, kh x c); the next column is kh x c numbers further on."""
    rows, columns = geometry.padding
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))
    stride, dilation, count = geometry.strides[0], geometry.dilation[0], geometry.output[0]
    last = (count - 1) * stride + 1
    taps = [x[:, y * dilation : y * dilation + last : stride] for y in range(geometry.kernel[0])]
    strips = jnp.stack(taps, axis=3)
    return strips.reshape(*strips.shape[:3], -1)


def window_order(kernel: Float[Array, "kh kw c d"]) -> Float[Array, "1 kw m d"]:
    """A filter in the order of the strips: one row of kw columns, each with m = kh x c numbers."""
    kh, kw, channels, features = kernel.shape
    return kernel.transpose(1, 0, 2, 3).reshape(1, kw, kh * channels, features)


def of_strips(strips: Float[Array, "b h2 w3 m"], ordered: Float[Array, "1 kw m d"], stride: int = 1, dilation: int = 1) -> Float[Array, "b h2 w2 d"]:
    """The convolution, from strips and a filter in their order; `stride` and `dilation` along the columns."""
    return lax.conv_general_dilated(strips, ordered, (1, stride), "VALID", rhs_dilation=(1, dilation), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def im2col(x: Float[Array, "b h w c"], geometry: Geometry) -> Float[Array, "b h2 w2 k"]:
    """Every window unrolled, k = kh x kw x c: multiplied by the filter as a (k, d) matrix it gives the convolution. The baseline."""
    rows, columns = geometry.padding
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))
    (sh, sw), (dh, dw), (height, width) = geometry.strides, geometry.dilation, geometry.output
    down, right = (height - 1) * sh + 1, (width - 1) * sw + 1
    taps = [x[:, i * dh : i * dh + down : sh, j * dw : j * dw + right : sw] for i in range(geometry.kernel[0]) for j in range(geometry.kernel[1])]
    windows = jnp.stack(taps, axis=3)
    return windows.reshape(*windows.shape[:3], -1)


def forward(x, w, geometry: Geometry):
    (stride, dilation), groups = (geometry.strides[1], geometry.dilation[1]), geometry.groups
    images, filters = jnp.split(x, groups, axis=-1), jnp.split(w, groups, axis=-1)
    parts = [of_strips(im2win(image, geometry), window_order(one), stride, dilation) for image, one in zip(images, filters)]
    return jnp.concatenate(parts, axis=-1)


def input_grad(dy, w, geometry: Geometry):
    x = like(dy, (dy.shape[0], *geometry.size, w.shape[2] * geometry.groups))
    return jax.linear_transpose(lambda x: forward(x, w, geometry), x)(dy)[0]


def weight_grad(x, dy, geometry: Geometry):
    w = like(x, (*geometry.kernel, x.shape[-1] // geometry.groups, dy.shape[-1]))
    return jax.linear_transpose(lambda w: forward(x, w, geometry), w)(dy)[0]


REFERENCE = Maps(forward, input_grad, weight_grad)

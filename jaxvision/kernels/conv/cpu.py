"""Dense convolutions that are matrix products: 1x1 at any stride, and kernels that tile the image (stride = kernel), both without padding.

The compiler's own convolution on CPUs is as fast forward, and takes 2 to 6 times as long for the gradient of the kernel. Other dense convolutions
are left to it: unrolling windows into a matrix, nine shifted products and Winograd's transform all measured slower than its own at 3x3.
"""

import jax.numpy as jnp
from jax import lax

from jaxvision.kernels.bilinear import Maps
from jaxvision.kernels.dense.cpu import transposed_product
from jaxvision.kernels.geometry import Geometry


def covers(a, b, geometry: Geometry) -> bool:
    tiled = geometry.strides == geometry.kernel and geometry.dilation == (1, 1)
    return (
        geometry.groups == 1
        and jnp.issubdtype(a.dtype, jnp.floating)
        and geometry.padding == ((0, 0), (0, 0))
        and (tiled or geometry.kernel == (1, 1))
    )


def _windows(x, geometry: Geometry):
    """(b, h2, w2, kh kw c): the pixels under the kernel at each of its places."""
    (kh, kw), (sh, sw), (rows, columns) = geometry.kernel, geometry.strides, geometry.output
    if (kh, kw) == (1, 1):
        return x[:, : (rows - 1) * sh + 1 : sh, : (columns - 1) * sw + 1 : sw]
    batch, channels = x.shape[0], x.shape[-1]
    tiles = x[:, : rows * kh, : columns * kw].reshape(batch, rows, kh, columns, kw, channels).transpose(0, 1, 3, 2, 4, 5)
    return tiles.reshape(batch, rows, columns, kh * kw * channels)


def _unwindowed(windows, geometry: Geometry):
    """The transpose of `_windows`."""
    (kh, kw), (sh, sw), (rows, columns) = geometry.kernel, geometry.strides, geometry.output
    zero = jnp.zeros((), windows.dtype)
    if (kh, kw) == (1, 1):
        rest = tuple(n - ((count - 1) * s + 1) for n, count, s in zip(geometry.size, geometry.output, geometry.strides))
        return lax.pad(windows, zero, ((0, 0, 0), (0, rest[0], sh - 1), (0, rest[1], sw - 1), (0, 0, 0)))
    batch, channels = windows.shape[0], windows.shape[-1] // (kh * kw)
    tiles = windows.reshape(batch, rows, columns, kh, kw, channels).transpose(0, 1, 3, 2, 4, 5)
    image = tiles.reshape(batch, rows * kh, columns * kw, channels)
    return lax.pad(image, zero, ((0, 0, 0), (0, geometry.size[0] - rows * kh, 0), (0, geometry.size[1] - columns * kw, 0), (0, 0, 0)))


def _product(a, b, contracted):
    """A matrix product summed in float32, in the dtype of `a`."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, (contracted, ((), ())), preferred_element_type=wide).astype(a.dtype)


def forward(x, w, geometry: Geometry):
    return _product(_windows(x, geometry), w.reshape(-1, w.shape[-1]), ((3,), (0,)))


def input_grad(dy, w, geometry: Geometry):
    return _unwindowed(_product(dy, w.reshape(-1, w.shape[-1]), ((3,), (1,))), geometry)


def weight_grad(x, dy, geometry: Geometry):
    return transposed_product(_windows(x, geometry), dy).reshape(*geometry.kernel, x.shape[-1], dy.shape[-1])


MAPS = Maps(forward, input_grad, weight_grad, covers)

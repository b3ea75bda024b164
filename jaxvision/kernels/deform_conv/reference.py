"""Deformable convolution by gathers: what it means."""

import jax.numpy as jnp
import numpy as np

from jaxvision.kernels.geometry import Geometry


def sample(x, rows, columns):
    """x (b, h, w, c) at places (b, n) in pixels, bilinear, zero outside: (b, n, c)."""
    (b, h, w, c), flat = x.shape, x.reshape(x.shape[0], -1, x.shape[-1])
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = rows - top, columns - left
    total = jnp.zeros((b, rows.shape[1], c), x.dtype)
    for i, vertical in ((0, 1 - down), (1, down)):
        for j, horizontal in ((0, 1 - right), (1, right)):
            row, column = (top + i).astype(jnp.int32), (left + j).astype(jnp.int32)
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            place = jnp.where(inside, row * w + column, 0)
            weight = jnp.where(inside, vertical * horizontal, 0).astype(x.dtype)
            total = total + weight[..., None] * jnp.take_along_axis(flat, place[..., None], axis=1)
    return total


def deform_conv(x, offsets, kernel, mask, geometry: Geometry):
    (kh, kw), (height, width), batch = geometry.kernel, geometry.output, x.shape[0]
    taps = [(i, j) for i in range(kh) for j in range(kw)]
    parts = offsets.shape[-1] // (2 * len(taps))
    (sh, sw), (dh, dw), ((top, _), (left, _)) = geometry.strides, geometry.dilation, geometry.padding
    grid_rows, grid_columns = np.mgrid[:height, :width].astype(np.float32)
    moved = offsets.astype(jnp.float32).reshape(batch, height, width, parts, len(taps), 2)
    factors = None if mask is None else mask.reshape(batch, height, width, parts, len(taps))
    images, sampled = jnp.split(x, parts, axis=-1), []
    for tap, (i, j) in enumerate(taps):
        pieces = []
        for part, image in enumerate(images):
            rows = grid_rows * sh - top + i * dh + moved[..., part, tap, 0]
            columns = grid_columns * sw - left + j * dw + moved[..., part, tap, 1]
            piece = sample(image, rows.reshape(batch, -1), columns.reshape(batch, -1)).reshape(batch, height, width, -1)
            pieces.append(piece if factors is None else piece * factors[..., part, tap, None].astype(piece.dtype))
        sampled.append(jnp.concatenate(pieces, axis=-1))
    if kernel.shape[2] == 1 and geometry.groups == x.shape[-1] == kernel.shape[-1]:
        return sum(value * kernel[i, j, 0].astype(x.dtype) for value, (i, j) in zip(sampled, taps))
    columns = jnp.stack(sampled, axis=3).reshape(batch, height, width, len(taps), geometry.groups, -1)
    filters = kernel.reshape(len(taps), kernel.shape[2], geometry.groups, -1).astype(x.dtype)
    return jnp.einsum("bhwtgc,tcgd->bhwgd", columns, filters).reshape(batch, height, width, -1)


def square(x, scale, kernel, bound: int, low: int = 0):
    del bound, low
    template = jnp.asarray([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)], jnp.float32).reshape(-1)
    where = Geometry(x.shape[1:3], (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), x.shape[-1])
    return deform_conv(x, scale.astype(jnp.float32) * template, kernel, None, where)

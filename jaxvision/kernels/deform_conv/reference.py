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
    taps = kh * kw
    parts = offsets.shape[-1] // (2 * taps)
    (sh, sw), (dh, dw), ((top, _), (left, _)) = geometry.strides, geometry.dilation, geometry.padding
    rows, columns = np.mgrid[:height, :width].astype(np.float32)[..., None] * np.array([sh, sw]).reshape(2, 1, 1, 1)
    down, across = np.divmod(np.arange(taps), kw)
    grid = np.stack([rows - top + dh * down, columns - left + dw * across], axis=-1).astype(np.float32)
    moved = offsets.astype(jnp.float32).reshape(batch, height, width, parts, taps, 2)
    factors = None if mask is None else mask.reshape(batch, height, width, parts, taps)
    sampled = []
    # All taps in one gather: a program of nine times as many takes minutes to compile where a network has several of these.
    for part, image in enumerate(jnp.split(x, parts, axis=-1)):
        places = (grid + moved[..., part, :, :]).reshape(batch, -1, 2)
        values = sample(image, places[..., 0], places[..., 1]).reshape(batch, height, width, taps, -1)
        sampled.append(values if factors is None else values * factors[..., part, :, None].astype(values.dtype))
    values = jnp.concatenate(sampled, axis=-1)
    if kernel.shape[2] == 1 and geometry.groups == x.shape[-1] == kernel.shape[-1]:
        return (values * kernel.reshape(taps, -1).astype(x.dtype)).sum(3)
    columns = values.reshape(batch, height, width, taps, geometry.groups, -1)
    filters = kernel.reshape(taps, kernel.shape[2], geometry.groups, -1).astype(x.dtype)
    return jnp.einsum("bhwtgc,tcgd->bhwgd", columns, filters).reshape(batch, height, width, -1)


def square(x, scale, kernel, bound: int, low: int = 0):
    del bound, low
    template = jnp.asarray([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)], jnp.float32).reshape(-1)
    where = Geometry(x.shape[1:3], (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), x.shape[-1])
    return deform_conv(x, scale.astype(jnp.float32) * template, kernel, None, where)

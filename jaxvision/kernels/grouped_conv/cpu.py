"""Grouped convolution on CPUs: neighbouring groups are merged into blocks of 32 channels whose kernels are block-diagonal, and each block is a
dense convolution. Most of a merged kernel is zeros, and still the dense code is the faster by far: the compiler's own grouped convolution goes
through single elements, and its gradient took 200 times as long in a trial (128 channels in 32 groups, 56x56).
"""

import jax.numpy as jnp

from jaxvision.kernels.bilinear import Maps
from jaxvision.kernels.conv import reference as dense
from jaxvision.kernels.geometry import Geometry

BLOCK = 32


def covers(a, b, geometry: Geometry) -> bool:
    return geometry.groups > 1 and jnp.issubdtype(a.dtype, jnp.floating)


def _merged(width: int, geometry: Geometry) -> int:
    """How many groups of `width` input channels make a block."""
    return max(n for n in range(1, geometry.groups + 1) if geometry.groups % n == 0 and (n == 1 or n * width <= BLOCK))


def _blocks(x, count: int):
    return jnp.split(x, count, axis=-1)


def _widen(w, merged: int, geometry: Geometry):
    """The dense kernel (kh, kw, merged * c, d) of each block of `merged` groups, with zeros between the groups."""
    kh, kw, width, features = w.shape
    out = features // geometry.groups
    apart = w.reshape(kh * kw, 1, width * (geometry.groups // merged), merged, out) * jnp.eye(merged, dtype=w.dtype)[:, None, :, None]
    return apart.reshape(kh, kw, merged * width, features)


def _diagonal(dw, merged: int, geometry: Geometry):
    """The transpose of `_widen`, over five dimensions: over seven, jaxlib 0.10.2 ends the process on processors with AVX2 and no AVX-512."""
    kh, kw, wide, features = dw.shape
    width, out = wide // merged, features // geometry.groups
    apart = dw.reshape(kh * kw, merged, width * (geometry.groups // merged), merged, out)
    return (apart * jnp.eye(merged, dtype=dw.dtype)[:, None, :, None]).sum(1).reshape(kh, kw, width, features)


def _one(geometry: Geometry) -> Geometry:
    return Geometry(geometry.size, geometry.kernel, geometry.strides, geometry.dilation, geometry.padding, 1)


def _each(function, geometry: Geometry, *blocks):
    return jnp.concatenate([function(*parts, _one(geometry)) for parts in zip(*blocks)], -1)


def forward(x, w, geometry: Geometry):
    merged = _merged(w.shape[2], geometry)
    count = geometry.groups // merged
    return _each(dense.forward, geometry, _blocks(x, count), _blocks(_widen(w, merged, geometry), count))


def input_grad(dy, w, geometry: Geometry):
    merged = _merged(w.shape[2], geometry)
    count = geometry.groups // merged
    return _each(dense.input_grad, geometry, _blocks(dy, count), _blocks(_widen(w, merged, geometry), count))


def weight_grad(x, dy, geometry: Geometry):
    merged = _merged(x.shape[-1] // geometry.groups, geometry)
    count = geometry.groups // merged
    return _diagonal(_each(dense.weight_grad, geometry, _blocks(x, count), _blocks(dy, count)), merged, geometry)


MAPS = Maps(forward, input_grad, weight_grad, covers)

"""Strips on TPUs: a step of the grid has the strips of a few output rows and the ordered filter in on-chip memory, and adds up kw matrix products,
each of the strip's columns x, x + s, x + 2 s, … with the filter's column x. For stride s the columns come cut into s residues, so that these are
neighbours. With kh x channels in the lanes, the few channels of a first layer fill them kh times as well as the image alone would.

The gradient of the image is the same kernel over the gradient, spread out by the stride; that of the filter accumulates products of strips and
gradients over all rows of all examples in one block.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxvision.kernels.bilinear import Maps
from jaxvision.kernels.geometry import Geometry
from jaxvision.kernels.im2win_conv import reference

LANES = 128
# Bytes that one call may keep on chip: TPU v4 has 16 MiB, which is the least.
BUDGET = 12 * 2**20
DTYPES = (jnp.bfloat16, jnp.float32)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _tiles(geometry: Geometry, channels: int, features: int, itemsize: int, summed: bool) -> tuple[int, int] | None:
    """(output rows, output channels) of a step; None where not even one row and 128 channels fit. `summed`: the block of the filter is float32."""
    (rows, columns), (kh, kw) = geometry.output, geometry.kernel
    width = _up(geometry.size[1] + sum(geometry.padding[1]) + geometry.strides[1], 16)
    lanes = _up(kh * channels, LANES)
    wide = [features] + [tile for tile in (512, 256, 128) if tile < features and features % tile == 0]
    for tile in wide:
        kept = 2 * kw * _up(kh * channels, 16) * _up(tile, LANES) * (4 if summed else itemsize)
        row = 2 * width * lanes * itemsize + 2 * _up(columns, 16) * _up(tile, LANES) * 4 + width * lanes * 4
        count = min(rows, 8, max(64 // kw, 1), (BUDGET - kept) // row)
        if count > 0:
            return count, tile
    return None


def covers(a, b, geometry: Geometry) -> bool:
    """Whether a map of these two arguments fits on chip. Where shapes leave open which of the three it is, whether all that they may be do."""
    if geometry.groups != 1 or a.dtype not in DTYPES or a.dtype != b.dtype:
        return False
    image, gradient, is_filter = a.shape[1:3] == geometry.size, a.shape[1:3] == geometry.output, b.shape[:2] == geometry.kernel
    maps = []
    if image and is_filter and a.shape[-1] == b.shape[2]:
        maps.append((geometry, *b.shape[2:], False))
    if gradient and is_filter and a.shape[-1] == b.shape[3]:
        maps.append((_spread(geometry), b.shape[3], b.shape[2], False))
    if image and b.shape[:3] == (a.shape[0], *geometry.output):
        maps.append((geometry, a.shape[-1], b.shape[-1], True))
    return bool(maps) and all(_tiles(where, channels, features, a.dtype.itemsize, summed) for where, channels, features, summed in maps)


def _residues(strips, stride: int, columns: int):
    """(b, rows, columns of the strips, m) -> (b, rows, stride, columns / stride, m), the columns padded to whole strides."""
    width = _up(max(strips.shape[2], columns), stride)
    strips = lax.pad(strips, jnp.zeros((), strips.dtype), ((0, 0, 0), (0, 0, 0), (0, width - strips.shape[2], 0), (0, 0, 0)))
    return strips.reshape(*strips.shape[:2], width // stride, stride, strips.shape[-1]).swapaxes(2, 3)


def _taps(geometry: Geometry) -> list[tuple[int, int]]:
    """(residue, first column in it) of each column of the filter."""
    stride = geometry.strides[1]
    return [(x * geometry.dilation[1] % stride, x * geometry.dilation[1] // stride) for x in range(geometry.kernel[1])]


def _columns(strips_ref, row: int, tap: tuple[int, int], count: int):
    """The columns of one row's strip that one column of the filter meets, (count, m)."""
    residue, first = tap
    strip = strips_ref[0, row, residue]
    if strip.dtype == jnp.float32:
        return strip[first : first + count]
    return strip.astype(jnp.float32)[first : first + count].astype(strip.dtype)  # packed rows cannot be shifted by one


def _forward_kernel(strips_ref, filter_ref, out_ref, *, taps, rows, columns):
    for row in range(rows):
        products = (
            lax.dot(_columns(strips_ref, row, tap, columns), filter_ref[x], precision=_precision(out_ref), preferred_element_type=jnp.float32)
            for x, tap in enumerate(taps)
        )
        out_ref[0, row] = sum(products).astype(out_ref.dtype)


def _weight_kernel(strips_ref, dy_ref, out_ref, *, taps, rows, columns):
    @pl.when((pl.program_id(1) == 0) & (pl.program_id(2) == 0))
    def _():
        out_ref[...] = jnp.zeros_like(out_ref)

    for x, tap in enumerate(taps):
        for row in range(rows):
            out_ref[x] += lax.dot_general(
                _columns(strips_ref, row, tap, columns), dy_ref[0, row], (((0,), (0,)), ((), ())),
                precision=_precision(dy_ref), preferred_element_type=jnp.float32,
            )  # fmt: skip


def _precision(ref):
    return lax.Precision.HIGHEST if ref.dtype == jnp.float32 else lax.Precision.DEFAULT


def _prepared(x, geometry: Geometry, rows: int):
    """Strips cut into residues, their number of rows a multiple of `rows`."""
    strips = reference.im2win(x, geometry)
    strips = jnp.pad(strips, ((0, 0), (0, _up(strips.shape[1], rows) - strips.shape[1]), (0, 0), (0, 0)))
    return _residues(strips, geometry.strides[1], strips.shape[2])


def forward(x, w, geometry: Geometry, interpret: bool = False):
    (kh, kw), (height, width), features = geometry.kernel, geometry.output, w.shape[-1]
    rows, tile = _tiles(geometry, x.shape[-1], features, x.dtype.itemsize, False)
    strips, ordered = _prepared(x, geometry, rows), reference.window_order(w)[0]
    batch, count, residues, columns, inner = strips.shape
    out = pl.pallas_call(
        functools.partial(_forward_kernel, taps=_taps(geometry), rows=rows, columns=width),
        grid=(features // tile, batch, count // rows),
        in_specs=[
            pl.BlockSpec((1, rows, residues, columns, inner), lambda o, n, i: (n, i, 0, 0, 0)),
            pl.BlockSpec((kw, inner, tile), lambda o, n, i: (0, 0, o)),
        ],
        out_specs=pl.BlockSpec((1, rows, width, tile), lambda o, n, i: (n, i, 0, o)),
        out_shape=_like(strips, (batch, count, width, features), x.dtype),
        cost_estimate=_cost(strips, ordered, batch * height * width * features * kh * kw * x.shape[-1]),
        interpret=interpret,
    )(strips, ordered)
    return out[:, :height]


def _spread(geometry: Geometry) -> Geometry:
    """The convolution that makes the gradient of the image out of the gradient spread out by the strides, which `input_grad` pads."""
    size = tuple(n + reach - 1 for n, reach in zip(geometry.size, geometry.reach))
    return Geometry(size, geometry.kernel, (1, 1), geometry.dilation, ((0, 0), (0, 0)), 1)


def input_grad(dy, w, geometry: Geometry, interpret: bool = False):
    edges = []
    for n, count, stride, reach, (low, _) in zip(geometry.size, geometry.output, geometry.strides, geometry.reach, geometry.padding):
        before = reach - 1 - low
        edges.append((before, n + reach - 1 - before - ((count - 1) * stride + 1), stride - 1))
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    return forward(dy, w[::-1, ::-1].swapaxes(2, 3), _spread(geometry), interpret)


def weight_grad(x, dy, geometry: Geometry, interpret: bool = False):
    (kh, kw), (height, width), features = geometry.kernel, geometry.output, dy.shape[-1]
    rows, tile = _tiles(geometry, x.shape[-1], features, x.dtype.itemsize, True)
    strips = _prepared(x, geometry, rows)
    batch, count, residues, columns, inner = strips.shape
    dy = jnp.pad(dy, ((0, 0), (0, count - height), (0, 0), (0, 0)))
    out = pl.pallas_call(
        functools.partial(_weight_kernel, taps=_taps(geometry), rows=rows, columns=width),
        grid=(features // tile, batch, count // rows),
        in_specs=[
            pl.BlockSpec((1, rows, residues, columns, inner), lambda o, n, i: (n, i, 0, 0, 0)),
            pl.BlockSpec((1, rows, width, tile), lambda o, n, i: (n, i, 0, o)),
        ],
        out_specs=pl.BlockSpec((kw, inner, tile), lambda o, n, i: (0, 0, o)),
        out_shape=_like(strips, (kw, inner, features), jnp.float32),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
        cost_estimate=_cost(strips, dy, batch * height * width * features * kh * kw * x.shape[-1]),
        interpret=interpret,
    )(strips, dy)
    return out.reshape(kw, kh, x.shape[-1], features).swapaxes(0, 1).astype(x.dtype)


def _like(value, shape, dtype) -> jax.ShapeDtypeStruct:
    """The type of a result, which varies over the mesh axes of a `shard_map` as `value` does."""
    return jax.eval_shape(lambda v: lax.broadcast(v[(0,) * v.ndim], shape).astype(dtype), value)


def _cost(a, b, products: int) -> pl.CostEstimate:
    moved = sum(math.prod(v.shape) * v.dtype.itemsize for v in (a, b))
    return pl.CostEstimate(flops=2 * products, bytes_accessed=moved, transcendentals=0)


MAPS = Maps(forward, input_grad, weight_grad, covers, hand_cut=True)

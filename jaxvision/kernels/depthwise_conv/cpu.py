"""Depthwise convolution on CPUs, where the compiler's own is a loop over single elements: 20 to 50 times slower than what follows.

Channels are the vector axis throughout, and every sum is unrolled into one fused loop whose accumulator stays in registers:
forward, the sum over taps of shifted images times the tap's weights; gradient of the image, the same with the kernel turned round, once for each
residue of the stride; gradient of the kernel, for a strip of the output at a time, the sum over its pixels of windows times the pixel's gradient,
which is a (kh, kw, c) tile that stays in cache while a scan goes down the image. Where an image has hardly more pixels than the kernel has taps,
that tile is as large as the image, and the gradient of the kernel is instead read off one matrix a channel, the product of all pixels of the image
with all of the gradient. The batch is a parallel axis of all three, so a sharded batch stays sharded. Arithmetic is float32.
"""

import functools
import math
import operator

import jax.numpy as jnp
from jax import lax

from jaxvision.kernels.bilinear import Maps
from jaxvision.kernels.geometry import Geometry, Pair
from jaxvision.kernels.materialize import materialize

# Terms of one unrolled sum: beyond this the time to compile grows faster than the time to run shrinks.
MOST_TAPS = 128
MOST_PIXELS = 56
# Pixels whose products are added up before they join the accumulator: short chains of additions overlap, and round less.
PARTIAL = 14
# Multiply-adds an image below which a convolution is too short to be worth the longer compilation.
SMALLEST = 2**14
# Pixels a tap, and entries of the matrix of pixels by pixels, up to which the gradient of the kernel is read off that matrix.
PIXELS_A_TAP = 2.25
MOST_ENTRIES = 2**14
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)


def covers(a, b, geometry: Geometry) -> bool:
    channels = a.shape[-1]
    work = geometry.output[0] * geometry.output[1] * geometry.kernel[0] * geometry.kernel[1] * channels
    return geometry.groups == channels == b.shape[-1] and a.dtype in DTYPES and work >= SMALLEST


def _place(x, sides: tuple[Pair, Pair]):
    """Pads, or cuts where a side is negative."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in sides), (0, 0, 0)))


def _unrolled(x, w, output: Pair, strides: Pair, dilation: Pair):
    """sum over (i, j) of w[i, j] x[row * stride + i * dilation, column * stride + j * dilation]: every term in one loop.

    One sum a kernel row, then their sum: the additions of one chain wait for one another, those of several chains overlap.
    """
    (rows, columns), (sh, sw), (dh, dw) = output, strides, dilation

    def term(i, j):
        return x[:, i * dh : i * dh + (rows - 1) * sh + 1 : sh, j * dw : j * dw + (columns - 1) * sw + 1 : sw] * w[i, j]

    by_row = [functools.reduce(operator.add, [term(i, j) for j in range(w.shape[1])]) for i in range(w.shape[0])]
    return functools.reduce(operator.add, by_row)


def _correlate(x, w, output: Pair, strides: Pair, dilation: Pair):
    """`_unrolled` for kernels of any size: large ones a few kernel rows at a time."""
    kh, kw = w.shape[:2]
    if kh * kw <= MOST_TAPS:
        return _unrolled(x, w, output, strides, dilation)
    rows = max(1, MOST_TAPS // kw)
    steps = -(-kh // rows)
    extra = steps * rows - kh
    x = _place(x, ((0, extra * dilation[0]), (0, 0)))
    w = jnp.pad(w, ((0, extra), (0, 0), (0, 0))).reshape(steps, rows, kw, -1)
    height = (rows - 1) * dilation[0] + (output[0] - 1) * strides[0] + 1

    def add(total, step):
        start, tile = step
        return total + _unrolled(lax.dynamic_slice_in_dim(x, start, height, 1), tile, output, strides, dilation), None

    first = _unrolled(x[:, :height], w[0], output, strides, dilation)
    return lax.scan(add, first, (jnp.arange(1, steps) * rows * dilation[0], w[1:]))[0]


def forward(x, w, geometry: Geometry):
    x32, w32 = _place(x, geometry.padding).astype(jnp.float32), w[:, :, 0].astype(jnp.float32)
    y = _correlate(x32, w32, geometry.output, geometry.strides, geometry.dilation)
    return materialize(y.astype(x.dtype))


def input_grad(dy, w, geometry: Geometry):
    """The pixels of one residue modulo the stride see every stride-th tap: each residue is a correlation of stride 1, and they interleave."""
    w32, dy32 = w[:, :, 0].astype(jnp.float32), dy.astype(jnp.float32)
    (sh, sw), padding = geometry.strides, geometry.padding
    first = tuple(p[0] // s for p, s in zip(padding, geometry.strides))
    count = tuple((p[0] + n - 1) // s - f + 1 for p, n, s, f in zip(padding, geometry.size, geometry.strides, first))

    def residue(r: Pair):
        taps, sides, dilation = [], [], []
        for axis in range(2):
            k, s, d = geometry.kernel[axis], geometry.strides[axis], geometry.dilation[axis]
            seen = [i for i in range(k) if (i * d - r[axis]) % s == 0]
            if not seen:
                return jnp.zeros_like(dy32, shape=(dy.shape[0], *count, dy.shape[-1]))
            step = seen[1] - seen[0] if len(seen) > 1 else s
            spread = step * d // s
            start = first[axis] - (seen[-1] * d - r[axis]) // s
            stop = start + count[axis] + (len(seen) - 1) * spread
            taps.append(seen[::-1])
            sides.append((-start, stop - geometry.output[axis]))
            dilation.append(max(spread, 1))
        kernel = w32[taps[0][-1] :: _step(taps[0]), taps[1][-1] :: _step(taps[1])][: len(taps[0]), : len(taps[1])][::-1, ::-1]
        return _correlate(_place(dy32, tuple(sides)), kernel, count, (1, 1), tuple(dilation))

    if geometry.strides == (1, 1):
        return materialize(residue((0, 0)).astype(dy.dtype))
    rows = [jnp.stack([residue((r, c)) for c in range(sw)], 3) for r in range(sh)]
    dx = jnp.stack(rows, 2).reshape(dy.shape[0], count[0] * sh, count[1] * sw, dy.shape[-1])
    top, left = (p[0] - f * s for p, f, s in zip(padding, first, geometry.strides))
    return materialize(dx[:, top : top + geometry.size[0], left : left + geometry.size[1]].astype(dy.dtype))


def _step(descending: list[int]) -> int:
    return descending[0] - descending[1] if len(descending) > 1 else 1


def _meeting(geometry: Geometry, axis: int, tap: int) -> list[Pair]:
    """(pixel of the image, pixel of the output) that a tap of the kernel brings together."""
    stride, first = geometry.strides[axis], tap * geometry.dilation[axis] - geometry.padding[axis][0]
    return [(out * stride + first, out) for out in range(geometry.output[axis]) if 0 <= out * stride + first < geometry.size[axis]]


def _few_pixels(geometry: Geometry) -> bool:
    pixels, taps = math.prod(geometry.size), math.prod(geometry.kernel)
    return pixels <= PIXELS_A_TAP * taps and pixels * math.prod(geometry.output) <= MOST_ENTRIES


def _from_products(x, dy, geometry: Geometry):
    """The gradient of the kernel from the products of all pixels of the image with all of the output: sums along the diagonals of that matrix."""
    batch, channels = x.shape[0], x.shape[-1]
    flat = (value.astype(jnp.float32).reshape(batch, -1, channels) for value in (x, dy))
    products = jnp.einsum("bnc,bmc->cnm", *flat).reshape(channels, *geometry.size, *geometry.output)
    add = lambda terms: functools.reduce(operator.add, terms, jnp.float32(0))
    rows = [add(products[:, r, :, p] for r, p in _meeting(geometry, 0, i)) for i in range(geometry.kernel[0])]
    rows = jnp.stack([jnp.broadcast_to(row, (channels, geometry.size[1], geometry.output[1])) for row in rows])
    taps = [add(rows[:, :, s, q] for s, q in _meeting(geometry, 1, j)) for j in range(geometry.kernel[1])]
    taps = jnp.stack([jnp.broadcast_to(tap, (geometry.kernel[0], channels)) for tap in taps], 1)
    return taps[:, :, None].astype(dy.dtype)


def weight_grad(x, dy, geometry: Geometry):
    if _few_pixels(geometry):
        return _from_products(x, dy, geometry)
    (kh, kw), (rows, columns), (sh, sw), (dh, dw) = geometry.kernel, geometry.output, geometry.strides, geometry.dilation
    batch, channels, dtype = x.shape[0], x.shape[-1], dy.dtype
    # A strip: whole rows while they are short, else an equal part of one row.
    parts = -(-columns // MOST_PIXELS)
    wide = -(-columns // parts)
    tall = max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or n * wide <= MOST_PIXELS)) if parts == 1 else 1
    # A tile of the kernel: all of it while it is small, else a few of its rows.
    tile = kh if kh * kw <= MOST_TAPS else max(1, MOST_TAPS // kw)
    tiles = -(-kh // tile)

    bottom = (rows - 1) * sh + (tiles * tile - 1) * dh + 1 - geometry.size[0] - geometry.padding[0][0]
    right = (parts * wide - 1) * sw + (kw - 1) * dw + 1 - geometry.size[1] - geometry.padding[1][0]
    x = _place(x.astype(jnp.float32), ((geometry.padding[0][0], bottom), (geometry.padding[1][0], right)))
    dy = _place(dy.astype(jnp.float32), ((0, 0), (0, parts * wide - columns)))
    height, width = (tall - 1) * sh + (tile - 1) * dh + 1, (wide - 1) * sw + (kw - 1) * dw + 1

    def strip(total, step, first_tap):
        row, part = step // parts * tall, step % parts * wide
        windows = lax.dynamic_slice(x, (0, row * sh + first_tap * dh, part * sw, 0), (batch, height, width, channels))
        pixels = lax.dynamic_slice(dy, (0, row, part, 0), (batch, tall, wide, channels))
        products = [
            windows[:, r * sh : r * sh + (tile - 1) * dh + 1 : dh, c * sw : c * sw + (kw - 1) * dw + 1 : dw] * pixels[:, r, c, None, None]
            for r in range(tall)
            for c in range(wide)
        ]
        for i in range(0, len(products), PARTIAL):
            part_sum = sum(products[i + 1 : i + PARTIAL], products[i])
            total = part_sum if total is None else total + part_sum
        return total

    def one(first_tap):
        total = strip(None, 0, first_tap)
        steps = rows // tall * parts
        if steps > 1:
            total = lax.scan(lambda total, step: (strip(total, step, first_tap), None), total, jnp.arange(1, steps))[0]
        return total.sum(0)

    whole = one(0) if tiles == 1 else lax.map(one, jnp.arange(tiles) * tile).reshape(tiles * tile, kw, channels)[:kh]
    return whole[:, :, None].astype(dtype)


MAPS = Maps(forward, input_grad, weight_grad, covers)

"""Depthwise convolution on TPUs, as matrix products: with the batch in the lanes, a channel's image is a matrix of pixels by examples, and its
convolution is multiplication by a banded matrix of pixels by pixels.

The vector unit needs two operations a tap, 98 a pixel at 7x7, and this is what the compiler's own code does. The matrix unit, sixteen times as fast,
multiplies mostly by zeros here and is ahead all the same. Of the banded matrix only one block is kept, since it looks the same a few rows further
down: `per` output rows from the input rows that they see, all columns of both, with strides, dilations, padding and the sides of the image written
into it. The same kernel with the transposed band is the gradient of the image. The gradient of the kernel is the product of the two images over the
examples, in a block of the same shape, of whose diagonals the sums are taken outside.

Inside the kernel channels lie next to one another in the sublanes: a strided store puts each channel's pixels in rows of their own once, bfloat16
two channels to a word. An image too large for on-chip memory passes through in strips, each kept until the next has been read. Of a kernel so tall
that no strip fits, a few rows at a time are a kernel of their own, and their maps are added up. Sums are float32.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxvision.kernels.bilinear import Maps
from jaxvision.kernels.depthwise_conv import bands
from jaxvision.kernels.depthwise_conv.bands import LANES, SUBLANES, Band, band, pieces
from jaxvision.kernels.geometry import Geometry, Pair


def _product(a, b, contracted, interpret: bool):
    """Summed in float32. XLA has no such product of bfloat16 on CPUs, where the kernels are interpreted."""
    if interpret:
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(a, b, (contracted, ((), ())), precision=precision, preferred_element_type=jnp.float32)


def _matrix(w, geometry: Geometry, one: Band, field: str, interpret: bool):
    """(channels, pixels of the block, pixels that it sees) of a kernel (kh, kw, 1, channels): linear in it, so the transpose takes sums of diagonals.

    First each kernel row's band of columns by columns, then for each output row the kernel rows that it sees, at the input rows that they stand on.
    """
    (sh, sw), (dh, dw), ((top, _), (left, _)) = geometry.strides, geometry.dilation, geometry.padding
    columns, width = one.target[1], one.source[1]
    made, seen = np.ogrid[:columns, :width]
    near, far = (made, seen) if field != "input_grad" else (seen, made)
    across = np.stack([near * sw + j * dw - left == far for j in range(geometry.kernel[1])])
    # Kernel rows in the order in which they stand in a row of the block. (Turned later, the compiler would join this with the padding, and fail.)
    upside_down = field == "input_grad"
    kernel = lax.rev(w[:, :, 0], (0,)) if upside_down else w[:, :, 0]
    by_row = _product(kernel, jnp.asarray(across, w.dtype), ((1,), (0,)), interpret).astype(w.dtype).transpose(1, 2, 0, 3)

    rows, last = [], geometry.kernel[0] - 1
    for r in range(one.rows):
        if not upside_down:
            stands = [(i, r * sh + i * dh - top - one.first) for i in range(last + 1)]
        else:
            down = ((i, r + top - (last - i) * dh) for i in range(last + 1))
            stands = [(i, t // sh - one.first) for i, t in down if t % sh == 0]
        stands = [(i, t) for i, t in stands if 0 <= t < one.window]
        if not stands:
            rows.append(jnp.zeros_like(by_row, shape=(w.shape[-1], columns, one.window * width)))
            continue
        (i, t), count = stands[0], len(stands)
        by, apart = (stands[1][0] - i, stands[1][1] - t) if count > 1 else (1, 1)
        seen = lax.slice_in_dim(by_row, i, stands[-1][0] + 1, by, 2)
        sides = (t, one.window - 1 - t - (count - 1) * apart, apart - 1)
        placed = lax.pad(seen, jnp.zeros((), seen.dtype), ((0, 0, 0), (0, 0, 0), sides, (0, 0, 0)))
        rows.append(placed.reshape(w.shape[-1], columns, one.window * width))
    return jnp.concatenate(rows, 1)


def _channels(words, dtype):
    """The channels in 32-bit words: one, or two of bfloat16, the lower half first."""
    if dtype == jnp.float32:
        return [lax.bitcast_convert_type(words, jnp.float32)]
    halves = (words << 16, words & jnp.uint32(0xFFFF0000))
    return [lax.bitcast_convert_type(half, jnp.float32).astype(dtype) for half in halves]


def _words(channels, dtype):
    """The inverse of `_channels`, of float32 values that are rounded to `dtype`."""
    bits = [lax.bitcast_convert_type(y.astype(dtype).astype(jnp.float32), jnp.uint32) for y in channels]
    return bits[0] if dtype == jnp.float32 else (bits[0] >> 16) | bits[1]


def _spread(ref, held, pitch: int, row: int, end, *, columns: int, interpret: bool):
    """Writes rows of `ref` (rows, columns, channels, examples) behind one another a channel, from row `row` of `held`.

    Rows from `end` on are 0, where it is not a number that counts them all.
    """

    # The view costs the compiled kernel half as much as the value does; interpreted, it copies the whole block at each read.
    words = None if interpret else ref.bitcast(jnp.uint32)

    def one(r, _):
        def put(read):
            for q in range(columns):
                held[pl.ds((row + r) * columns + q, SUBLANES, stride=pitch), :] = read(q)

        there = lambda: put(lambda q: pltpu.bitcast(ref[r, q], jnp.uint32) if interpret else words[r, q])
        if isinstance(end, int):
            there()
        else:
            pl.when(r < end)(there)
            pl.when(r >= end)(lambda: put(lambda q: jnp.zeros((SUBLANES, LANES), jnp.uint32)))
        return 0

    lax.fori_loop(0, ref.shape[0], one, 0)


def _clear(held, pitch: int, start: int, count: int):
    def one(c, _):
        held[pl.ds(c * pitch + start, count), :] = jnp.zeros((count, LANES), jnp.uint32)
        return 0

    if count > 0:
        lax.fori_loop(0, SUBLANES, one, 0)


def _take_in(one: Band, strip: int, ref, held, pitch: int, t, interpret: bool):
    """The next strip of the input, or all of it; padding around it is 0."""
    width, above = one.source[1], max(0, -one.first)
    if strip == one.blocks:
        _clear(held, pitch, 0, above * width)
        end = (above + one.source[0]) * width
        _clear(held, pitch, end, pitch - end)
        _spread(ref, held, pitch, above, one.source[0], columns=width, interpret=interpret)
        return
    rows = strip * one.step

    @pl.when(t == 0)
    def _():
        _clear(held, pitch, 0, (above + rows) * width)

    _spread(ref, held, pitch, above + rows, one.source[0] - t * rows, columns=width, interpret=interpret)


def _move_on(one: Band, strip: int, held, pitch: int):
    """What the next strip still sees moves to the front."""
    rows, above = strip * one.step, max(0, -one.first)
    size = rows * one.source[1]

    def move(c, _):
        for start in range(0, (above + rows) * one.source[1], size):
            count = min(size, (above + rows) * one.source[1] - start)
            held[pl.ds(c * pitch + start, count), :] = held[pl.ds(c * pitch + start + size, count), :]
        return 0

    lax.fori_loop(0, SUBLANES, move, 0)


def _each_block(strip: int, run):
    """run(sublane, block) for all of a strip, two at a time, so that one's products overlap with the other's sums."""

    def both(n, _):
        for m in (2 * n, 2 * n + 1):
            run(lax.div(m, strip), lax.rem(m, strip))
        return 0

    lax.fori_loop(0, SUBLANES * strip // 2, both, 0)


def _start(block, pixels: int, c, pitch: int):
    start = block * pixels
    return (pl.multiple_of(start, SUBLANES) if pixels % SUBLANES == 0 else start) + c * pitch


def _setting(one: Band, strip: int, x):
    """Grid, index maps and block shapes that the two kernels share."""
    whole = strip == one.blocks
    per_word = 4 // x.dtype.itemsize
    group = SUBLANES * per_word
    strips = 1 if whole else -(-one.blocks // strip) + 1
    inner, outer = one.held(strip)
    last = -(-one.source[0] // (strip * one.step)) - 1
    seen = (one.source[0] if whole else strip * one.step, one.source[1], group, LANES)
    made = (one.target[0] if whole else strip * one.rows, one.target[1], group, LANES)
    grid = (pl.cdiv(x.shape[2], group), x.shape[3] // LANES, strips)
    source = pl.BlockSpec(seen, lambda c, b, t: (0 if whole else jnp.minimum(t, last), 0, c, b))
    target = pl.BlockSpec(made, lambda c, b, t: (0 if whole else jnp.maximum(t - 1, 0), 0, c, b))
    matrix = pl.BlockSpec((group, *one.shape), lambda c, b, t: (c, 0, 0))
    held = [pltpu.VMEM((SUBLANES * n, LANES), jnp.uint32) for n in (inner, outer)]
    return whole, per_word, grid, source, target, matrix, held, (inner, outer)


def _call(kernel, grid, specs, out, shape, held, interpret: bool, parallel: int):
    order = ("parallel",) * parallel + ("arbitrary",) * (3 - parallel)
    params = pltpu.CompilerParams(dimension_semantics=order, vmem_limit_bytes=bands.BUDGET + 2**20)
    return pl.pallas_call(
        kernel, grid=grid, in_specs=specs, out_specs=out, out_shape=shape, scratch_shapes=held, interpret=interpret, compiler_params=params
    )


def _apply(x, w, geometry: Geometry, field: str, interpret: bool):
    """The band of `w` times `x`."""
    one, strip = band(geometry, x.dtype, field)
    matrix = _matrix(w, geometry, one, field, interpret)
    x = x.transpose(1, 2, 3, 0)
    whole, per_word, grid, source, target, spec, held, (inner, outer) = _setting(one, strip, x)
    pixels, seen = one.shape

    def kernel(x_ref, matrix_ref, y_ref, x_held, y_held):
        t = pl.program_id(2)
        _take_in(one, strip, x_ref, x_held, inner, t, interpret)

        def block(c, n):
            words = x_held[pl.ds(_start(n, one.step * one.source[1], c, inner), seen), :]
            xs = _channels(words, x_ref.dtype)
            ys = [_product(matrix_ref[per_word * c + k], xs[k], ((1,), (0,)), interpret) for k in range(per_word)]
            y_held[pl.ds(_start(n, pixels, c, outer), pixels), :] = _words(ys, y_ref.dtype)

        def run():
            _each_block(strip, block)

            def gather(r, _):
                for q in range(one.target[1]):
                    y_ref[r, q] = pltpu.bitcast(y_held[pl.ds(r * one.target[1] + q, SUBLANES, stride=outer), :], y_ref.dtype)
                return 0

            lax.fori_loop(0, y_ref.shape[0], gather, 0)

        if whole:
            run()
        else:
            pl.when(t > 0)(run)
            _move_on(one, strip, x_held, inner)

    shape = jax.ShapeDtypeStruct((*one.target, *x.shape[2:]), x.dtype)
    return _call(kernel, grid, [source, spec], target, shape, held, interpret, 2)(x, matrix).transpose(3, 0, 1, 2)


def _without(x, rows: Pair):
    return x[:, rows[0] : x.shape[1] - rows[1]] if any(rows) else x


def _summed(maps, dtype):
    """The sum of (map, rows that are missing above and below)."""
    if len(maps) == 1:
        return maps[0][0]
    whole = [jnp.pad(y.astype(jnp.float32), ((0, 0), missing, (0, 0), (0, 0))) for y, missing in maps]
    return functools.reduce(jnp.add, whole).astype(dtype)


def forward(x, w, geometry: Geometry, *, interpret: bool = False):
    parts = pieces(geometry, x.dtype, "forward")
    return _summed([(_apply(_without(x, p.unseen), w[slice(*p.rows)], p.geometry, "forward", interpret), p.unmade) for p in parts], x.dtype)


def input_grad(dy, w, geometry: Geometry, *, interpret: bool = False):
    parts = pieces(geometry, dy.dtype, "input_grad")
    return _summed([(_apply(_without(dy, p.unmade), w[slice(*p.rows)], p.geometry, "input_grad", interpret), p.unseen) for p in parts], dy.dtype)


def weight_grad(x, dy, geometry: Geometry, *, interpret: bool = False):
    parts = pieces(geometry, x.dtype, "weight_grad")
    return jnp.concatenate([_weight_grad(_without(x, p.unseen), _without(dy, p.unmade), p.geometry, interpret) for p in parts])


def _weight_grad(x, dy, geometry: Geometry, interpret: bool):
    one, strip = band(geometry, x.dtype, "weight_grad")
    x, dy = x.transpose(1, 2, 3, 0), dy.transpose(1, 2, 3, 0)
    whole, per_word, grid, source, target, spec, held, (inner, outer) = _setting(one, strip, x)
    pixels, seen = one.shape

    def kernel(x_ref, dy_ref, sum_ref, x_held, dy_held):
        b, t = pl.program_id(1), pl.program_id(2)

        @pl.when((b == 0) & (t == 0))
        def _():
            def zero(c, _):
                sum_ref[c] = jnp.zeros(sum_ref.shape[1:], jnp.float32)
                return 0

            lax.fori_loop(0, sum_ref.shape[0], zero, 0)

        _take_in(one, strip, x_ref, x_held, inner, t, interpret)

        def block(c, n):
            xs = _channels(x_held[pl.ds(_start(n, one.step * one.source[1], c, inner), seen), :], x_ref.dtype)
            dys = _channels(dy_held[pl.ds(_start(n, pixels, c, outer), pixels), :], x_ref.dtype)
            for k in range(per_word):
                sum_ref[per_word * c + k] += _product(dys[k], xs[k], ((1,), (1,)), interpret)

        def run():
            _clear(dy_held, outer, dy_ref.shape[0] * one.target[1], outer - dy_ref.shape[0] * one.target[1])
            done = 0 if whole else (t - 1) * strip * one.rows
            _spread(dy_ref, dy_held, outer, 0, one.target[0] - done, columns=one.target[1], interpret=interpret)
            _each_block(strip, block)

        if whole:
            run()
        else:
            pl.when(t > 0)(run)
            _move_on(one, strip, x_held, inner)

    shape = jax.ShapeDtypeStruct((x.shape[2], *one.shape), jnp.float32)
    sums = _call(kernel, grid, [source, target], spec, shape, held, interpret, 1)(x, dy)
    w = jax.eval_shape(lambda v: jnp.zeros_like(v, shape=(*geometry.kernel, 1, v.shape[0])), sums)
    return jax.linear_transpose(lambda w: _matrix(w, geometry, one, "forward", interpret), w)(sums)[0].astype(dy.dtype)


MAPS = Maps(forward, input_grad, weight_grad, bands.covers, hand_cut=True, ahead=bands.ahead)

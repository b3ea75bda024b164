"""The square form on TPUs as matrix products. Bilinear sampling of an image at one place a pixel is multiplication by a matrix of image pixels by
output pixels, and that matrix is a product of two small ones: how near each image row is to the place, and how near each image column. So for each of
the eight taps around the centre it is written on the chip, one multiplication an entry, and multiplied with the image, channels in the sublanes:

    y[c, p] = w[4, c] x[c, p] + sum over taps k of w[k, c] (x t_k)[c, p]      t_k[(row, column), p] = near(row) near(column)

With z_k = dy t_k^T the gradient of the image is the sum of w[k] z_k, that of the kernel the sum of x z_k over pixels, and that of the scale the sum
over the image of t_k's derivative times x^T (w[k] dy). Most of a matrix is zeros, and still it is far ahead of gathers and of sums over all radii. Of
a large image, output pixels pass in blocks of rows, of which a tap sees its own rows and as many above or below as it can reach.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
# Bytes that one call may keep on chip: TPU v4 has 16 MiB, which is the least.
BUDGET = 14 * 2**20
# Output pixels of a block, at least; the fewer, the smaller the part of a large image that they see.
PIXELS = 256
DTYPES = (jnp.bfloat16, jnp.float32)
CENTRE = 4
TAPS = tuple((3 * (i + 1) + j + 1, i, j) for i in (-1, 0, 1) for j in (-1, 0, 1))
AROUND = tuple(tap for tap in TAPS if tap[0] != CENTRE)


class Blocks(NamedTuple):
    """How an image goes through: padded to `height` x `width`, in blocks of `rows` output rows.

    Attributes:
      outward, inward: image rows beyond a block that a tap above or below the centre sees on its own side, and, where radii may be negative, on the
        other. Multiples of the number of rows whose pixels are whole registers.
    """

    height: int
    width: int
    rows: int
    outward: int
    inward: int

    @property
    def count(self) -> int:
        return self.height // self.rows

    @property
    def pixels(self) -> int:
        return self.rows * self.width

    @property
    def window(self) -> int:
        """Image rows that such a tap sees."""
        return min(self.height, self.rows + self.outward + self.inward)

    @property
    def seen(self) -> int:
        return self.window * self.width


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def blocks_of(height: int, width: int, bound: int, low: int) -> Blocks:
    """Padded by zeros to the right and below, which is what is outside of an image anyway."""
    width = _up(width, 16)
    step = LANES // math.gcd(width, LANES)
    rows = _up(-(-PIXELS // width), step)
    # One row more than the largest radius reaches: its weight is 0, and has a derivative where the scale stands at its bound.
    outward, inward = _up(max(bound + 2, 0), step), _up(max(-(low + 1), 0), step)
    if _up(height, step) * width <= 2 * PIXELS:
        return Blocks(_up(height, step), width, _up(height, step), outward, inward)
    return Blocks(_up(height, rows), width, rows, outward, inward)


def _bytes(blocks: Blocks, channels: int, item: int) -> int:
    """What the backward kernel keeps, the larger of the two."""
    image, lanes = blocks.height * blocks.width * channels, _up(channels, LANES)
    passing = 2 * item * lanes * (2 * blocks.height * blocks.width + blocks.pixels) + 4 * 4 * LANES * channels
    kept = image * (item + 4) + blocks.seen * blocks.pixels * (item + 4) + channels * (4 * blocks.seen + 8 * blocks.pixels)
    # A product of float32 splits its operands into three parts of 16 bits.
    return passing + kept + (6 * channels * (blocks.seen + blocks.pixels) if item == 4 else 0)


def parts_of(blocks: Blocks, channels: int, item: int) -> int:
    """How many calls the channels, of which each is for itself, are divided among so that one fits on chip; 0 where none does."""
    fits = lambda n: channels % n == 0 and channels // n % 16 == 0 and _bytes(blocks, channels // n, item) <= BUDGET
    return next((n for n in range(1, channels // 16 + 1) if fits(n)), 0)


def covers(x, scale, kernel, *, bound: int, low: int) -> bool:
    if not all(isinstance(n, int) for n in x.shape) or x.dtype not in DTYPES:
        return False
    return parts_of(blocks_of(*x.shape[1:3], bound, low), x.shape[3], x.dtype.itemsize) > 0


def _near(distance):
    return jnp.maximum(0.0, 1.0 - jnp.abs(distance))


def _slope(distance):
    """The derivative of `_near(pixel - radius)` by a growing radius, from the radius below as `shifted` has it."""
    return jnp.where(distance <= 0, jnp.where(distance > -1, -1.0, 0.0), jnp.where(distance <= 1, 1.0, 0.0))


class Window(NamedTuple):
    """The image rows that a tap sees: the first, how many, and their pixels."""

    first: jax.Array | int
    count: int
    pixels: pl.Slice


def _window(block, blocks: Blocks, sign: int) -> Window:
    if (sign and blocks.window == blocks.height) or blocks.count == 1:
        return Window(0, blocks.height, pl.ds(0, blocks.height * blocks.width))
    if not sign:
        first, count = block * blocks.rows, blocks.rows
    else:
        above = blocks.outward if sign < 0 else blocks.inward
        first, count = jnp.clip(block * blocks.rows - above, 0, blocks.height - blocks.window), blocks.window
    return Window(first, count, pl.ds(pl.multiple_of(first * blocks.width, LANES), count * blocks.width))


def _weights(scale, block, windows, blocks: Blocks, slopes: bool):
    """{(axis, sign): (rows or columns, pixels)}: how near each row (axis 0) and column (1) is to where a tap of that sign stands; and the slopes."""
    radius = 1.0 + scale
    number = (block * blocks.pixels + lax.broadcasted_iota(jnp.int32, scale.shape, 1)).astype(jnp.float32)
    row = jnp.floor((number + 0.5) / blocks.width)
    own = row, number - row * blocks.width
    found = {}
    for sign in (-1, 0, 1):
        for axis, (first, count) in enumerate((windows[sign][:2], (0, blocks.width))):
            there = (lax.broadcasted_iota(jnp.int32, (count, scale.shape[1]), 0) + first).astype(jnp.float32) - own[axis]
            distance = there * sign - radius if sign else there
            found[axis, sign] = _near(distance)
            if slopes and sign:
                found[axis, sign, "slope"] = _slope(distance)
    return found


def _written(t_ref, rows, columns):
    """t[(row, column), pixel] = rows[row, pixel] columns[column, pixel], by way of t_ref."""
    seen = rows.shape[0] * columns.shape[0]
    t_ref[:seen] = (rows[:, None] * columns[None]).astype(t_ref.dtype).reshape(seen, rows.shape[1])
    return t_ref[:seen]


def _product(a, b, contracted, interpret: bool):
    """Summed in float32. XLA has no such product of bfloat16 on CPUs, where the kernels are interpreted."""
    if interpret:
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(a, b, (contracted, ((), ())), precision=precision, preferred_element_type=jnp.float32)


def _turned(x):
    return x.astype(jnp.float32).T


def _forward_kernel(x_ref, scale_ref, w_ref, y_ref, xt_ref, t_ref, sum_ref, *, blocks: Blocks, interpret: bool):
    block = pl.program_id(1)

    @pl.when(block == 0)
    def _():
        xt_ref[...] = _turned(x_ref[0]).astype(xt_ref.dtype)

    windows = {sign: _window(block, blocks, sign) for sign in (-1, 0, 1)}
    near, own = _weights(scale_ref[0], block, windows, blocks, False), windows[0].pixels
    sum_ref[...] = w_ref[:, CENTRE : CENTRE + 1] * xt_ref[:, own].astype(jnp.float32)
    for k, i, j in AROUND:
        t = _written(t_ref, near[0, i], near[1, j])
        sampled = _product(xt_ref[:, windows[i].pixels], t, ((1,), (0,)), interpret)
        sum_ref[...] += w_ref[:, k : k + 1] * sampled
    y_ref[0] = sum_ref[...].T.astype(y_ref.dtype)


def _backward_kernel(
    x_ref, dy_ref, scale_ref, w_ref, dx_ref, dscale_ref, dw_ref, xt_ref, dxt_ref, dyt_ref, t_ref, g_ref, *, blocks: Blocks, interpret: bool
):
    image, block = pl.program_id(0), pl.program_id(1)

    @pl.when(block == 0)
    def _():
        xt_ref[...] = _turned(x_ref[0]).astype(xt_ref.dtype)
        dxt_ref[...] = jnp.zeros(dxt_ref.shape, jnp.float32)

    @pl.when((image == 0) & (block == 0))
    def _():
        dw_ref[...] = jnp.zeros(dw_ref.shape, jnp.float32)

    windows = {sign: _window(block, blocks, sign) for sign in (-1, 0, 1)}
    near, own = _weights(scale_ref[0], block, windows, blocks, True), windows[0].pixels
    dyt_ref[...] = _turned(dy_ref[0])
    dxt_ref[:, own] += w_ref[:, CENTRE : CENTRE + 1] * dyt_ref[...]
    dw_ref[:, CENTRE : CENTRE + 1] += jnp.sum(dyt_ref[...] * xt_ref[:, own].astype(jnp.float32), 1, keepdims=True)
    dscale = jnp.zeros(scale_ref.shape[1:], jnp.float32)
    for k, i, j in AROUND:
        t, seen = _written(t_ref, near[0, i], near[1, j]), windows[i].pixels
        z = _product(dyt_ref[...].astype(t.dtype), t, ((1,), (1,)), interpret)
        dxt_ref[:, seen] += w_ref[:, k : k + 1] * z
        dw_ref[:, k : k + 1] += jnp.sum(z * xt_ref[:, seen].astype(jnp.float32), 1, keepdims=True)
        slope = (w_ref[:, k : k + 1] * dyt_ref[...]).astype(x_ref.dtype)
        g_ref[: t.shape[0]] = _product(x_ref[0, seen], slope, ((1,), (0,)), interpret)
        g = g_ref[: t.shape[0]].reshape(windows[i].count, blocks.width, -1)
        if i:
            dscale += jnp.sum(near[0, i, "slope"] * jnp.sum(near[1, j][None] * g, 1), 0, keepdims=True)
        if j:
            dscale += jnp.sum(near[0, i] * jnp.sum(near[1, j, "slope"][None] * g, 1), 0, keepdims=True)
    dscale_ref[0] = dscale

    @pl.when(block == blocks.count - 1)
    def _():
        dx_ref[0] = dxt_ref[...].T.astype(dx_ref.dtype)


def _arranged(image, blocks: Blocks):
    """(b, h, w, c) -> (b, pixels, c) with zeros to the right and below."""
    b, h, w, c = image.shape
    padded = jnp.pad(image, ((0, 0), (0, blocks.height - h), (0, blocks.width - w), (0, 0)))
    return padded.reshape(b, blocks.height * blocks.width, c)


def _cropped(image, blocks: Blocks, height: int, width: int):
    return image.reshape(image.shape[0], blocks.height, blocks.width, -1)[:, :height, :width]


def _specs(blocks: Blocks, channels: int):
    """Block shapes of a whole image, of a block of it, of a block's scales, and of the kernel."""
    image = pl.BlockSpec((1, blocks.height * blocks.width, channels), lambda b, n: (b, 0, 0))
    part = pl.BlockSpec((1, blocks.pixels, channels), lambda b, n: (b, n, 0))
    scales = pl.BlockSpec((1, 1, blocks.pixels), lambda b, n: (b, 0, n))
    return image, part, scales, pl.BlockSpec((channels, 9), lambda b, n: (0, 0))


def _operands(x, scale, kernel, blocks: Blocks):
    scales = _arranged(scale.astype(jnp.float32), blocks).reshape(x.shape[0], 1, -1)
    # Rounded as the other forms multiply by them.
    return _arranged(x, blocks), scales, kernel.reshape(9, -1).astype(x.dtype).astype(jnp.float32).T


def _params(kind: str):
    return pltpu.CompilerParams(dimension_semantics=(kind, "arbitrary"), vmem_limit_bytes=BUDGET + 2**20)


def _divided(channels: int, blocks: Blocks, item: int) -> list[slice]:
    step = channels // parts_of(blocks, channels, item)
    return [slice(first, first + step) for first in range(0, channels, step)]


def forward(x, scale, kernel, *, bound: int, low: int, interpret: bool = False):
    blocks = blocks_of(*x.shape[1:3], bound, low)
    divided = _divided(x.shape[3], blocks, x.dtype.itemsize)
    return jnp.concatenate([_forward(x[..., part], scale, kernel[..., part], blocks, interpret) for part in divided], -1)


def _forward(x, scale, kernel, blocks: Blocks, interpret: bool):
    b, h, w, c = x.shape
    image, part, scales, taps = _specs(blocks, c)
    pixels = blocks.height * blocks.width
    y = pl.pallas_call(
        functools.partial(_forward_kernel, blocks=blocks, interpret=interpret),
        grid=(b, blocks.count),
        in_specs=[image, scales, taps],
        out_specs=part,
        out_shape=jax.ShapeDtypeStruct((b, pixels, c), x.dtype),
        scratch_shapes=[
            pltpu.VMEM((c, pixels), x.dtype),
            pltpu.VMEM((blocks.seen, blocks.pixels), x.dtype),
            pltpu.VMEM((c, blocks.pixels), jnp.float32),
        ],
        interpret=interpret,
        compiler_params=_params("parallel"),
    )(*_operands(x, scale, kernel, blocks))
    return _cropped(y, blocks, h, w)


def cotangents(dy, x, scale, kernel, *, bound: int, low: int, interpret: bool = False):
    """Of image, scale and kernel."""
    blocks = blocks_of(*x.shape[1:3], bound, low)
    divided = _divided(x.shape[3], blocks, x.dtype.itemsize)
    found = [_cotangents(dy[..., part], x[..., part], scale, kernel[..., part], blocks, interpret) for part in divided]
    dx, dscale, dw = zip(*found)
    return jnp.concatenate(dx, -1), sum(dscale).astype(scale.dtype), jnp.concatenate(dw, -1)


def _cotangents(dy, x, scale, kernel, blocks: Blocks, interpret: bool):
    """The scale's in float32: it is a sum over channels, of which others may be in another call."""
    b, h, w, c = x.shape
    image, part, scales, taps = _specs(blocks, c)
    pixels = blocks.height * blocks.width
    flat, scale_rows, columns = _operands(x, scale, kernel, blocks)
    dx, dscale, dw = pl.pallas_call(
        functools.partial(_backward_kernel, blocks=blocks, interpret=interpret),
        grid=(b, blocks.count),
        in_specs=[image, part, scales, taps],
        out_specs=[image, scales, taps],
        out_shape=[
            jax.ShapeDtypeStruct(flat.shape, x.dtype),
            jax.ShapeDtypeStruct(scale_rows.shape, jnp.float32),
            jax.ShapeDtypeStruct(columns.shape, jnp.float32),
        ],
        scratch_shapes=[
            pltpu.VMEM((c, pixels), x.dtype),
            pltpu.VMEM((c, pixels), jnp.float32),
            pltpu.VMEM((c, blocks.pixels), jnp.float32),
            pltpu.VMEM((blocks.seen, blocks.pixels), x.dtype),
            pltpu.VMEM((blocks.seen, blocks.pixels), jnp.float32),
        ],
        interpret=interpret,
        compiler_params=_params("arbitrary"),
    )(flat, _arranged(dy, blocks), scale_rows, columns)
    dscale = _cropped(dscale.reshape(b, pixels, 1), blocks, h, w)
    return _cropped(dx, blocks, h, w), dscale, dw.T.reshape(kernel.shape).astype(kernel.dtype)

"""The branch of maps with many channels on TPUs, forward and backward in one kernel each; hidden values are never written.

From 256 channels on the compiler keeps a map with channels in the lanes and examples in the sublanes, pixel by pixel, and so does the kernel: a block
is (pixels, examples, channels), its rows times the weights. The hidden channels pass through in chunks, and the backward pass computes them again.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxvision.kernels.mlp.inner import NN, dot, share_below, slope, standardized, through_norm

# Hidden channels at a time.
CHUNK = 256
# Rows, which are a pixel of an example, in a block.
ROWS = 512
# Fewer channels leave lanes empty (examples.py); of more, the weights and their gradients leave no room in the 16 MiB of TPU v4.
CHANNELS = (256, 384)
# Rows of a tile of 16 bits, of one of 32, and its columns.
TILE, WORDS, LANES = 16, 8, 128
MEMORY = 2**24


def _plan(pixels: int, batch: int) -> tuple[int, int]:
    """(pixels, examples) of a block."""
    examples = max(n for n in range(TILE, min(ROWS, batch) + 1, TILE) if batch % n == 0)
    return max(n for n in range(1, pixels + 1) if pixels % n == 0 and n * examples <= max(ROWS, examples)), examples


def covers(x, w1, b1, w2, b2, shift, skip, factor, epsilon=None) -> bool:
    channels, hidden = w1.shape
    return (
        x.dtype in (jnp.bfloat16, jnp.float32)
        and CHANNELS[0] <= channels <= CHANNELS[1]
        and w2.shape[1] == channels
        and hidden <= 4 * channels
        and channels % LANES == hidden % CHUNK == 0
        and x.shape[0] % TILE == 0
        and math.prod(x.shape[1:-1]) > 0
    )


def _rows(ref):
    pixels, examples, channels = ref.shape
    return ref[...].reshape(pixels * examples, channels)


def _each_row(factor, pixels: int):
    """(1, examples, 1) -> (pixels * examples, 1)."""
    return jnp.concatenate([factor[0]] * pixels, 0)


def _forward_kernel(x, skip, factor, w1, b1, w2, b2, shift, y, *, epsilon: float | None):
    _, inner, _ = standardized(_rows(x).astype(jnp.float32) + shift[...], 1, epsilon, x.dtype)
    out = b2[...]
    for j in range(0, w1.shape[1], CHUNK):
        h = dot(inner, w1[:, j : j + CHUNK], NN) + b1[:, j : j + CHUNK]
        out = out + dot((h * share_below(h, x.dtype)).astype(x.dtype), w2[j : j + CHUNK, :], NN)
    out = _rows(skip).astype(jnp.float32) + _each_row(factor, x.shape[0]) * out
    y[...] = out.astype(y.dtype).reshape(y.shape)


def _backward_kernel(dy, x, factor, w1, b1, w1t, w2t, shift, dx, dw1, db1, dw2t, db2, dshift, *, epsilon: float | None):
    """`w1t` (hidden, channels) and `w2t` (channels, hidden) are transposed, and so is dw2t; sums over sublanes are left to the caller."""

    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _():
        for total in (dw1, db1, dw2t, db2, dshift):
            total[...] = jnp.zeros(total.shape, total.dtype)

    fold = lambda value: value.reshape(-1, WORDS, value.shape[-1]).sum(0)
    standard, inner, deviation = standardized(_rows(x).astype(jnp.float32) + shift[...], 1, epsilon, x.dtype)
    wide = _rows(dy).astype(jnp.float32) * _each_row(factor, x.shape[0])
    cotangent, out = wide.astype(x.dtype), 0.0
    inner_t, cotangent_t = inner.T, cotangent.T
    for j in range(0, w1.shape[1], CHUNK):
        here = slice(j, j + CHUNK)
        h = dot(inner, w1[:, here], NN) + b1[:, here]
        below = share_below(h, x.dtype)
        dh = dot(cotangent, w2t[:, here], NN) * slope(h, below)
        db1[:, here] += fold(dh)
        dh = dh.astype(x.dtype)
        dw1[:, here] += dot(inner_t, dh, NN)
        dw2t[:, here] += dot(cotangent_t, (h * below).astype(x.dtype), NN)
        out = out + dot(dh, w1t[here, :], NN)
    db2[...] += fold(wide)
    out = through_norm(out, standard, deviation, 1)
    dshift[...] += fold(out)
    dx[...] = out.astype(dx.dtype).reshape(dx.shape)


def _pixels(x):
    """(b, …, c) as (pixels, b, c). No copy where the compiler keeps the map so anyway."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, x.shape[-1]), 0, 1)


def _call(kernel, name: str, blocked, factor, whole, results, epsilon: float | None, interpret: bool, *, summed: bool):
    """`blocked` and the first result pass through in blocks of pixels and examples, the rest is on the chip all the time."""
    pixels, batch, channels = blocked[0].shape
    (count, examples), hidden = _plan(pixels, batch), whole[0].shape[1]
    item = blocked[0].dtype.itemsize
    cost = pl.CostEstimate(
        flops=2 * (5 if summed else 2) * pixels * batch * channels * hidden,
        transcendentals=(2 if summed else 1) * pixels * batch * hidden,
        bytes_accessed=(len(blocked) + 1) * blocked[0].size * item + sum(a.size * a.dtype.itemsize for a in (*whole, *results[1:])),
    )
    block = pl.BlockSpec((count, examples, channels), lambda p, b: (p, b, 0))
    full = lambda a: pl.BlockSpec(a.shape, lambda p, b: (0, 0))
    return pl.pallas_call(
        functools.partial(kernel, epsilon=epsilon),
        out_shape=results,
        grid=(pixels // count, batch // examples),
        in_specs=[block] * len(blocked) + [pl.BlockSpec((1, examples, 1), lambda p, b: (0, b, 0))] + [full(a) for a in whole],
        out_specs=[block] + [full(a) for a in results[1:]],
        interpret=interpret,
        name=name,
        cost_estimate=cost,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary" if summed else "parallel",) * 2, vmem_limit_bytes=MEMORY),
    )(*blocked, factor.astype(jnp.float32).reshape(1, batch, 1), *whole)


def _row(vector):
    return vector.astype(jnp.float32)[None, :]


def forward(x, w1, b1, w2, b2, shift, skip, factor, *, epsilon: float | None = None, interpret: bool = False):
    blocked = (_pixels(x), _pixels(skip))
    whole = (w1.astype(x.dtype), _row(b1), w2.astype(x.dtype), _row(b2), _row(shift))
    results = [jax.ShapeDtypeStruct(blocked[0].shape, x.dtype)]
    (y,) = _call(_forward_kernel, "mlp_forward", blocked, factor, whole, results, epsilon, interpret, summed=False)
    return jnp.moveaxis(y, 1, 0).reshape(x.shape)


def cotangents(dy, x, w1, b1, w2, b2, shift, skip, factor, *, epsilon: float | None = None, interpret: bool = False):
    blocked, (channels, hidden) = (_pixels(dy), _pixels(x)), w1.shape
    first, second = w1.astype(x.dtype), w2.astype(x.dtype)
    whole = (first, _row(b1), first.T, second.T, _row(shift))
    sums = ((channels, hidden), (WORDS, hidden), (channels, hidden), (WORDS, channels), (WORDS, channels))
    results = [jax.ShapeDtypeStruct(blocked[0].shape, x.dtype), *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in sums)]
    dx, dw1, db1, dw2, db2, dshift = _call(_backward_kernel, "mlp_backward", blocked, factor, whole, results, epsilon, interpret, summed=True)
    of_rows = lambda total, like: total.sum(0).astype(like.dtype)
    dx = jnp.moveaxis(dx, 1, 0).reshape(x.shape)
    return dx, dw1.astype(w1.dtype), of_rows(db1, b1), dw2.T.astype(w2.dtype), of_rows(db2, b2), of_rows(dshift, shift), dy, None

"""The branch of maps with few channels on TPUs, forward and backward in one kernel each; hidden values are never written.

The compiler keeps such maps with the batch in the lanes, since 96 channels would leave a quarter of them empty, and so does the kernel: a pixel is a
matrix of channels by examples, and a layer is its product with the weights from the left. The hidden channels pass through in chunks. The backward
pass computes them again from the input, and sums the gradients of weights and biases in float32 on the chip, over all pixels and examples. A
normalization over channels, along the sublanes, costs a tenth of that, and two passes through memory where it is an op of its own.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxvision.kernels.mlp.inner import NN, NT, dot, share_below, slope, standardized, through_norm

LANES = 128
# Hidden channels at a time.
CHUNK = 128
# Values of a block of pixels and channels a lane: with two copies of input, cotangent and result each, and the weights, within the 16 MiB of TPU v4.
BLOCK = 5376
# Pixels next to one another in the columns of a product.
WIDE = 4
# More channels fill the lanes by themselves: the compiler keeps them there, and its own products are as fast.
MOST_CHANNELS = 192


def _plan(pixels: int, channels: int) -> tuple[int, int]:
    """(pixels a grid step, those of them in one product)."""
    count = max(n for n in range(1, pixels + 1) if pixels % n == 0 and n * channels <= max(BLOCK, channels))
    return count, max(n for n in (1, 2, WIDE) if count % n == 0)


def covers(x, w1, b1, w2, b2, shift, factor, skip=None, epsilon=None) -> bool:
    pixels, channels, hidden = math.prod(x.shape[1:-1]), *w1.shape
    return (
        x.dtype in (jnp.bfloat16, jnp.float32)
        and w2.shape[1] == channels <= MOST_CHANNELS
        and hidden <= 4 * MOST_CHANNELS
        and channels % 16 == hidden % 16 == 0
        and x.shape[0] % LANES == 0
        and pixels > 0
    )


def _each(count: int, wide: int, one) -> None:
    """`one` for each group of pixels: read(ref) is the group (channels, wide * LANES), write(ref, value) stores it."""

    def step(i, _):
        read = lambda ref: jnp.concatenate([ref[i * wide + k] for k in range(wide)], 1)

        def write(ref, value):
            for k in range(wide):
                ref[i * wide + k] = value[:, k * LANES : (k + 1) * LANES].astype(ref.dtype)

        one(read, write)
        return 0

    lax.fori_loop(0, count // wide, step, 0)


def _forward_kernel(x, *refs, own: bool, count: int, wide: int, epsilon: float | None):
    skip, factor, w1, b1, w2, b2, shift, y = (x, *refs) if own else refs
    hidden, channels = w1.shape
    chunk = math.gcd(hidden, CHUNK)
    factors = jnp.concatenate([factor[...]] * wide, 1)

    def one(read, write):
        _, pixels, _ = standardized(read(x).astype(jnp.float32) + shift[...], 0, epsilon, x.dtype)
        out = jnp.broadcast_to(b2[...], (channels, LANES * wide))
        for j in range(0, hidden, chunk):
            h = dot(w1[j : j + chunk, :], pixels, NN) + b1[j : j + chunk, :]
            out = out + dot(w2[:, j : j + chunk], (h * share_below(h, x.dtype)).astype(x.dtype), NN)
        write(y, read(skip).astype(jnp.float32) + factors * out)

    _each(count, wide, one)


def _backward_kernel(
    dy, x, factor, w1, b1, w1t, w2t, shift, dx, dw1, db1, dw2, db2, dshift, *, own: bool, count: int, wide: int, epsilon: float | None
):
    """`w1t` (channels, hidden) and `w2t` (hidden, channels) are w1 and w2 transposed, and so is dw2; sums over lanes are left to the caller."""
    hidden = w1.shape[0]
    chunk = math.gcd(hidden, CHUNK)
    factors = jnp.concatenate([factor[...]] * wide, 1)

    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _():
        for total in (dw1, db1, dw2, db2, dshift):
            total[...] = jnp.zeros(total.shape, total.dtype)

    fold = lambda value: functools.reduce(jnp.add, [value[:, k * LANES : (k + 1) * LANES] for k in range(wide)])

    def one(read, write):
        standard, pixels, deviation = standardized(read(x).astype(jnp.float32) + shift[...], 0, epsilon, x.dtype)
        scaled = read(dy).astype(jnp.float32) * factors
        cotangent, out = scaled.astype(x.dtype), 0.0
        for j in range(0, hidden, chunk):
            here = slice(j, j + chunk)
            h = dot(w1[here, :], pixels, NN) + b1[here, :]
            below = share_below(h, x.dtype)
            dh = dot(w2t[here, :], cotangent, NN) * slope(h, below)
            db1[here, :] += fold(dh)
            dh = dh.astype(x.dtype)
            dw1[here, :] += dot(dh, pixels, NT)
            dw2[here, :] += dot((h * below).astype(x.dtype), cotangent, NT)
            out = out + dot(w1t[:, here], dh, NN)
        db2[...] += fold(scaled)
        out = through_norm(out, standard, deviation, 0)
        dshift[...] += fold(out)
        write(dx, out + read(dy).astype(jnp.float32) if own else out)

    _each(count, wide, one)


def _pixels(x):
    """(b, …, c) with the batch in the lanes: (pixels, c, b). No copy where the compiler keeps the map so anyway."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, x.shape[-1]), 0, 2)


def _call(kernel, name: str, blocked, factor, whole, results, interpret: bool, *, summed: bool, **static):
    """`blocked` and the first result pass through in blocks of pixels and examples, the rest is on the chip all the time."""
    pixels, channels, batch = blocked[0].shape
    (count, wide), hidden = _plan(pixels, channels), whole[0].shape[0]
    products = 5 if summed else 2
    item = blocked[0].dtype.itemsize
    cost = pl.CostEstimate(
        flops=2 * products * pixels * batch * channels * hidden,
        transcendentals=(2 if summed else 1) * pixels * batch * hidden,
        bytes_accessed=(len(blocked) + 1) * blocked[0].size * item + sum(a.size * a.dtype.itemsize for a in (*whole, *results[1:])),
    )
    block = pl.BlockSpec((count, channels, LANES), lambda p, b: (p, 0, b))
    full = lambda a: pl.BlockSpec(a.shape, lambda p, b: (0, 0))
    return pl.pallas_call(
        functools.partial(kernel, count=count, wide=wide, **static),
        out_shape=results,
        grid=(pixels // count, batch // LANES),
        in_specs=[block] * len(blocked) + [pl.BlockSpec((1, LANES), lambda p, b: (0, b))] + [full(a) for a in whole],
        out_specs=[block] + [full(a) for a in results[1:]],
        interpret=interpret,
        name=name,
        cost_estimate=cost,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary" if summed else "parallel",) * 2),
    )(*blocked, factor.astype(jnp.float32)[None, :], *whole)


def _column(vector):
    return vector.astype(jnp.float32)[:, None]


def forward(x, w1, b1, w2, b2, shift, factor, skip=None, *, epsilon: float | None = None, interpret: bool = False):
    blocked, static = [_pixels(x) for x in (x, skip) if x is not None], {"own": skip is None, "epsilon": epsilon}
    whole = (w1.astype(x.dtype).T, _column(b1), w2.astype(x.dtype).T, _column(b2), _column(shift))
    results = [jax.ShapeDtypeStruct(blocked[0].shape, x.dtype)]
    (y,) = _call(_forward_kernel, "mlp_forward", blocked, factor, whole, results, interpret, summed=False, **static)
    # Without the barrier a norm that follows has its cast to float32 moved before the reshape, and written.
    return lax.optimization_barrier(jnp.moveaxis(y, 2, 0).reshape(x.shape))


def cotangents(dy, x, w1, b1, w2, b2, shift, factor, skip=None, *, epsilon: float | None = None, interpret: bool = False):
    blocked, (channels, hidden) = (_pixels(dy), _pixels(x)), w1.shape
    first, second = w1.astype(x.dtype), w2.astype(x.dtype)
    whole = (first.T, _column(b1), first, second, _column(shift))
    sums = ((hidden, channels), (hidden, LANES), (hidden, channels), (channels, LANES), (channels, LANES))
    results = [jax.ShapeDtypeStruct(blocked[0].shape, x.dtype), *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in sums)]
    static = {"own": skip is None, "epsilon": epsilon}
    found = _call(_backward_kernel, "mlp_backward", blocked, factor, whole, results, interpret, summed=True, **static)
    dx, dw1, db1, dw2, db2, dshift = found
    of_lanes = lambda total, like: total.sum(1).astype(like.dtype)
    dx = jnp.moveaxis(dx, 2, 0).reshape(x.shape)
    summed = dw1.T.astype(w1.dtype), of_lanes(db1, b1), dw2.astype(w2.dtype), of_lanes(db2, b2), of_lanes(dshift, shift)
    return dx, *summed, None, *(() if skip is None else (dy,))

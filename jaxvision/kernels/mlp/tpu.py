"""The perceptron of maps with few channels on TPUs, forward and backward in one kernel each; hidden values are never written.

The compiler keeps such maps with the batch in the lanes, since 96 channels would leave a quarter of them empty, and so does the kernel: a pixel is a
matrix of channels by examples, and a layer is its product with the weights from the left. The hidden channels pass through in chunks. The backward
pass computes them again from the input, and sums the gradients of weights and biases in float32 on the chip, over all pixels and examples. A
normalization over channels, along the sublanes, costs a tenth of that, and two passes through memory where it is an op of its own.

In bfloat16 the normal distribution's share below x is 0.5 + 0.5 tanh(x (c0 + c1 s + c2 s^2)), s = min(x^2, 36), off by at most 1.9e-5 (GELU by
5.5e-5); erf, a dozen operations of the vector unit longer, took more than half of the kernel's time. In float32 it is erf.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
# Hidden channels at a time.
CHUNK = 128
# Values of a block of pixels and channels a lane: with two copies of input, cotangent and result each, and the weights, within the 16 MiB of TPU v4.
BLOCK = 5376
# Pixels next to one another in the columns of a product.
WIDE = 4
# More channels fill the lanes by themselves: the compiler keeps them there, and its own products are as fast.
MOST_CHANNELS = 192
TANH = (7.97717586e-01, 3.67986361e-02, -3.15890019e-04)
DENSITY = math.sqrt(0.5 / math.pi)

dot = functools.partial(lax.dot_general, preferred_element_type=jnp.float32)
NN, NT = ((((1,), (n,)), ((), ())) for n in (0, 1))


def _plan(pixels: int, channels: int) -> tuple[int, int]:
    """(pixels a grid step, those of them in one product)."""
    count = max(n for n in range(1, pixels + 1) if pixels % n == 0 and n * channels <= max(BLOCK, channels))
    return count, max(n for n in (1, 2, WIDE) if count % n == 0)


def covers(x, w1, b1, w2, b2, epsilon=None) -> bool:
    pixels, channels, hidden = math.prod(x.shape[1:-1]), *w1.shape
    return (
        x.dtype in (jnp.bfloat16, jnp.float32)
        and w2.shape[1] == channels <= MOST_CHANNELS
        and hidden <= 4 * MOST_CHANNELS
        and channels % 16 == hidden % 16 == 0
        and x.shape[0] % LANES == 0
        and pixels > 0
    )


def _below(x, dtype):
    """The share of the normal distribution below x."""
    if dtype == jnp.float32:
        return 0.5 + 0.5 * lax.erf(math.sqrt(0.5) * x)
    s, (c0, c1, c2) = jnp.minimum(x * x, 36.0), TANH
    return 0.5 + 0.5 * jnp.tanh(x * (c0 + s * (c1 + s * c2)))


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


def _standardized(x, epsilon: float | None, dtype):
    """Columns (c, n) with mean 0 and variance 1, in float32 and rounded to `dtype`, and the factor that brought the latter about."""
    if epsilon is None:
        return x, x, None
    x = x.astype(jnp.float32)
    x = x - x.mean(0, keepdims=True)
    factor = lax.rsqrt(jnp.square(x).mean(0, keepdims=True) + epsilon)
    x = x * factor
    return x, x.astype(dtype), factor


def _forward_kernel(x, w1, b1, w2, b2, y, *, count: int, wide: int, epsilon: float | None):
    hidden, channels = w1.shape
    chunk = math.gcd(hidden, CHUNK)

    def one(read, write):
        _, pixels, _ = _standardized(read(x), epsilon, x.dtype)
        out = jnp.broadcast_to(b2[...], (channels, LANES * wide))
        for j in range(0, hidden, chunk):
            h = dot(w1[j : j + chunk, :], pixels, NN) + b1[j : j + chunk, :]
            out = out + dot(w2[:, j : j + chunk], (h * _below(h, x.dtype)).astype(x.dtype), NN)
        write(y, out)

    _each(count, wide, one)


def _backward_kernel(dy, x, w1, b1, w1t, w2t, dx, dw1, db1, dw2, db2, *, count: int, wide: int, epsilon: float | None):
    """`w1t` (channels, hidden) and `w2t` (hidden, channels) are w1 and w2 transposed, and so is dw2; sums over lanes are left to the caller."""
    hidden = w1.shape[0]
    chunk = math.gcd(hidden, CHUNK)

    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _():
        for total in (dw1, db1, dw2, db2):
            total[...] = jnp.zeros(total.shape, total.dtype)

    fold = lambda value: functools.reduce(jnp.add, [value[:, k * LANES : (k + 1) * LANES] for k in range(wide)])

    def one(read, write):
        standard, pixels, factor = _standardized(read(x), epsilon, x.dtype)
        cotangent, out = read(dy), 0.0
        for j in range(0, hidden, chunk):
            here = slice(j, j + chunk)
            h = dot(w1[here, :], pixels, NN) + b1[here, :]
            below = _below(h, x.dtype)
            slope = below + h * (DENSITY * jnp.exp2((-0.5 * math.log2(math.e)) * (h * h)))
            dh = dot(w2t[here, :], cotangent, NN) * slope
            db1[here, :] += fold(dh)
            dh = dh.astype(x.dtype)
            dw1[here, :] += dot(dh, pixels, NT)
            dw2[here, :] += dot((h * below).astype(x.dtype), cotangent, NT)
            out = out + dot(w1t[:, here], dh, NN)
        db2[...] += fold(cotangent.astype(jnp.float32))
        if factor is not None:
            out = factor * (out - out.mean(0, keepdims=True) - standard * (out * standard).mean(0, keepdims=True))
        write(dx, out)

    _each(count, wide, one)


def _pixels(x):
    """(b, …, c) with the batch in the lanes: (pixels, c, b). No copy where the compiler keeps the map so anyway."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, x.shape[-1]), 0, 2)


def _call(kernel, name: str, blocked, whole, results, epsilon: float | None, interpret: bool, *, summed: bool):
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
        functools.partial(kernel, count=count, wide=wide, epsilon=epsilon),
        out_shape=results,
        grid=(pixels // count, batch // LANES),
        in_specs=[block] * len(blocked) + [full(a) for a in whole],
        out_specs=[block] + [full(a) for a in results[1:]],
        interpret=interpret,
        name=name,
        cost_estimate=cost,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary" if summed else "parallel",) * 2),
    )(*blocked, *whole)


def _weights(x, w1, b1, w2):
    """Both matrices from the left, in the dtype of x, and the inner bias as a column of float32."""
    return w1.astype(x.dtype).T, b1.astype(jnp.float32)[:, None], w2.astype(x.dtype).T


def forward(x, w1, b1, w2, b2, *, epsilon: float | None = None, interpret: bool = False):
    values, (w1t, column, w2t) = _pixels(x), _weights(x, w1, b1, w2)
    whole = (w1t, column, w2t, b2.astype(jnp.float32)[:, None])
    results = [jax.ShapeDtypeStruct(values.shape, x.dtype)]
    (y,) = _call(_forward_kernel, "mlp_forward", (values,), whole, results, epsilon, interpret, summed=False)
    return jnp.moveaxis(y, 2, 0).reshape(x.shape)


def cotangents(dy, x, w1, b1, w2, b2, *, epsilon: float | None = None, interpret: bool = False):
    values, (w1t, column, w2t) = _pixels(x), _weights(x, w1, b1, w2)
    hidden, channels = w1t.shape
    sums = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((hidden, channels), (hidden, LANES), (hidden, channels), (channels, LANES))]
    whole = (w1t, column, w1t.T, w2t.T)
    results = [jax.ShapeDtypeStruct(values.shape, x.dtype), *sums]
    dx, dw1, db1, dw2, db2 = _call(_backward_kernel, "mlp_backward", (_pixels(dy), values), whole, results, epsilon, interpret, summed=True)
    dx = jnp.moveaxis(dx, 2, 0).reshape(x.shape)
    return dx, dw1.T.astype(w1.dtype), db1.sum(1).astype(b1.dtype), dw2.astype(w2.dtype), db2.sum(1).astype(b2.dtype)

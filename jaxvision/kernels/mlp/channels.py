"""The branch of sequences, and of maps with many channels, on TPUs, forward and backward in one kernel each; hidden values are never written.

Channels are in the lanes (kernels/row_blocks.py), and a block's rows are multiplied by the weights. The hidden channels pass through in chunks, and
the backward pass computes them again. Of a branch that is added to its own input the backward pass also sums the two cotangents.
"""

import functools

import jax
import jax.numpy as jnp

from jaxvision.kernels.mlp.inner import NN, dot, share_below, slope, standardized, through_norm
from jaxvision.kernels.row_blocks import LANES, back, each_row, filled, known, laid, of_examples, over_blocks, rows_of, zeroed

# Hidden channels at a time.
CHUNK = 256
# Fewer channels leave lanes empty (examples.py); of more, the weights and their gradients leave no room in the 16 MiB of TPU v4.
CHANNELS = (256, 384)
# Rows of a tile of 32 bits.
WORDS = 8


def covers(x, w1, b1, w2, b2, shift, factor, skip=None, epsilon=None) -> bool:
    channels, hidden = w1.shape
    fits = CHANNELS[0] <= channels <= CHANNELS[1] and w2.shape[1] == channels and hidden <= 4 * channels
    return fits and channels % LANES == hidden % CHUNK == 0 and filled(x)


def _forward_kernel(x, *refs, rows: int, own: bool, epsilon: float | None):
    skip, factor, w1, b1, w2, b2, shift, y = (x, *refs) if own else refs
    _, inner, _ = standardized(rows_of(x).astype(jnp.float32) + shift[...], 1, epsilon, x.dtype)
    out = b2[...]
    for j in range(0, w1.shape[1], CHUNK):
        h = dot(inner, w1[:, j : j + CHUNK], NN) + b1[:, j : j + CHUNK]
        out = out + dot((h * share_below(h, x.dtype)).astype(x.dtype), w2[j : j + CHUNK, :], NN)
    out = rows_of(skip).astype(jnp.float32) + each_row(factor, x.shape) * out
    y[...] = out.astype(y.dtype).reshape(y.shape)


def _backward_kernel(dy, x, factor, w1, b1, w1t, w2t, shift, dx, dw1, db1, dw2t, db2, dshift, *, rows: int, own: bool, epsilon: float | None):
    """`w1t` (hidden, channels) and `w2t` (channels, hidden) are transposed, and so is dw2t; sums over sublanes are left to the caller."""
    zeroed(dw1, db1, dw2t, db2, dshift)
    fold = lambda value: value.reshape(-1, WORDS, value.shape[-1]).sum(0)
    standard, inner, deviation = standardized(known(rows_of(x).astype(jnp.float32) + shift[...], x.shape, rows), 1, epsilon, x.dtype)
    wide = known(rows_of(dy).astype(jnp.float32) * each_row(factor, x.shape), x.shape, rows)
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
    out = out + rows_of(dy).astype(jnp.float32) if own else out
    dx[...] = out.astype(dx.dtype).reshape(dx.shape)


def _row(vector):
    return vector.astype(jnp.float32)[None, :]


def forward(x, w1, b1, w2, b2, shift, factor, skip=None, *, epsilon: float | None = None, interpret: bool = False):
    blocked, own = [laid(x) for x in (x, skip) if x is not None], skip is None
    whole = (w1.astype(x.dtype), _row(b1), w2.astype(x.dtype), _row(b2), _row(shift))
    (y,) = over_blocks(
        functools.partial(_forward_kernel, own=own, epsilon=epsilon),
        "mlp_forward", blocked, whole, [jax.ShapeDtypeStruct(blocked[0].shape, x.dtype)],
        products=2 * w1.size, curves=w1.shape[1], factor=of_examples(factor, x), interpret=interpret,
    )  # fmt: skip
    return back(y, x.shape)


def cotangents(dy, x, w1, b1, w2, b2, shift, factor, skip=None, *, epsilon: float | None = None, interpret: bool = False):
    blocked, (channels, hidden) = (laid(dy), laid(x)), w1.shape
    first, second = w1.astype(x.dtype), w2.astype(x.dtype)
    whole = (first, _row(b1), first.T, second.T, _row(shift))
    sums = ((channels, hidden), (WORDS, hidden), (channels, hidden), (WORDS, channels), (WORDS, channels))
    dx, dw1, db1, dw2, db2, dshift = over_blocks(
        functools.partial(_backward_kernel, own=skip is None, epsilon=epsilon),
        "mlp_backward", blocked, whole,
        [jax.ShapeDtypeStruct(blocked[0].shape, x.dtype), *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in sums)],
        products=5 * w1.size, curves=2 * hidden, factor=of_examples(factor, x), interpret=interpret,
    )  # fmt: skip
    of_rows = lambda total, like: total.sum(0).astype(like.dtype)
    summed = dw1.astype(w1.dtype), of_rows(db1, b1), dw2.T.astype(w2.dtype), of_rows(db2, b2), of_rows(dshift, shift)
    return back(dx, x.shape), *summed, None, *(() if skip is None else (dy,))

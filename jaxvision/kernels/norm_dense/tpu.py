"""The op on TPUs, forward and backward in one kernel each; normalized values are never written, nor is the gradient of one.

The compiler computes a norm and its gradient again for each tile of the product that reads them, or writes them; here they are computed once a block
of rows (kernels/row_blocks.py). The gradient of the weights is summed on the chip.
"""

import functools

import jax
import jax.numpy as jnp

from jaxvision.kernels.mlp.inner import NN, dot, standardized, through_norm
from jaxvision.kernels.row_blocks import LANES, back, filled, known, laid, over_blocks, rows_of, zeroed

# Columns of a product at a time.
CHUNK = 384
# Weights with more entries leave no room in the 16 MiB of TPU v4 for their gradient and for blocks.
MOST = 384 * 1152


def fits(channels: int, features: int) -> bool:
    return channels % LANES == features % LANES == 0 and channels * features <= MOST


def covers(x, w, epsilon) -> bool:
    return fits(*w.shape) and filled(x)


def _chunks(features: int) -> list[slice]:
    return [slice(j, min(j + CHUNK, features)) for j in range(0, features, CHUNK)]


def _forward_kernel(x, w, y, *, rows: int, epsilon: float):
    _, inner, _ = standardized(rows_of(x).astype(jnp.float32), 1, epsilon, x.dtype)
    for here in _chunks(w.shape[1]):
        y[..., here] = dot(inner, w[:, here], NN).astype(y.dtype).reshape(*y.shape[:2], -1)


def _backward_kernel(dy, x, wt, dx, dw, *, rows: int, epsilon: float):
    zeroed(dw)
    standard, inner, deviation = standardized(known(rows_of(x).astype(jnp.float32), x.shape, rows), 1, epsilon, x.dtype)
    inner_t, out = inner.T, 0.0
    for here in _chunks(wt.shape[0]):
        cotangent = known(rows_of(dy, here), x.shape, rows)
        out = out + dot(cotangent, wt[here, :], NN)
        dw[:, here] += dot(inner_t, cotangent, NN)
    dx[...] = through_norm(out, standard, deviation, 1).astype(dx.dtype).reshape(dx.shape)


def forward(x, w, *, epsilon: float, interpret: bool = False):
    blocked = laid(x)
    result = jax.ShapeDtypeStruct((*blocked.shape[:2], w.shape[1]), x.dtype)
    kernel = functools.partial(_forward_kernel, epsilon=epsilon)
    (y,) = over_blocks(kernel, "norm_dense_forward", [blocked], [w.astype(x.dtype)], [result], products=w.size, interpret=interpret)
    return back(y, (*x.shape[:-1], w.shape[1]))


def cotangents(dy, x, w, *, epsilon: float, interpret: bool = False):
    blocked = [laid(dy), laid(x)]
    results = [jax.ShapeDtypeStruct(blocked[1].shape, x.dtype), jax.ShapeDtypeStruct(w.shape, jnp.float32)]
    kernel = functools.partial(_backward_kernel, epsilon=epsilon)
    whole = [w.astype(x.dtype).T]
    dx, dw = over_blocks(kernel, "norm_dense_backward", blocked, whole, results, products=2 * w.size, interpret=interpret)
    return back(dx, x.shape), dw.astype(w.dtype)

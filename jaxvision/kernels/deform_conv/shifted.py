"""The square form without gathers: at radius r + f between two integers, bilinear interpolation weighs r by 1 - f and r + 1 by f, along rows and
along columns. So an edge tap is a sum over radii of shifted images, and a corner tap one over pairs of radii that differ by at most one.

f is the distance from the radius below, so that at whole radii, where training begins, the derivative is that of a growing radius. (By gathers the
taps above and on the left have that of a shrinking one, as a place's neighbours are counted downwards there.)
"""

import functools
import operator

import jax
import jax.numpy as jnp
from jax import lax

SIGNS = (-1, 1)


# A function of its own in the program: its thousand operations are traced and differentiated once for all layers of one shape, also where the
# program is for another platform and they are dropped.
@functools.partial(jax.jit, static_argnames=("bound", "low"))
def square(x, scale, kernel, bound: int, low: int = 0):
    # One radius more than there is: its weight is 0, and has a derivative where the scale stands at its bound.
    largest, (height, width) = bound + 2, x.shape[1:3]
    reach = max(largest, -(low + 1))
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (reach, reach, 0), (reach, reach, 0), (0, 0, 0)))
    w = kernel[:, :, 0].astype(x.dtype)

    def at(down: int, right: int):
        return padded[:, reach + down : reach + down + height, reach + right : reach + right + width]

    def edges(r: int):
        return functools.reduce(operator.add, [w[1 + i, 1] * at(i * r, 0) + w[1, 1 + i] * at(0, i * r) for i in SIGNS])

    def corners(rows: int, columns: int):
        return functools.reduce(operator.add, [w[1 + i, 1 + j] * at(i * rows, j * columns) for i in SIGNS for j in SIGNS])

    radius = 1 + scale.astype(jnp.float32)
    below = jnp.floor(lax.stop_gradient(radius))
    part = radius - below
    near = {r: jnp.where(below == r, 1 - part, jnp.where(below == r - 1, part, 0)) for r in range(low + 1, largest + 1)}
    terms = [w[1, 1] * x]
    for r, weight in near.items():
        terms.append(weight.astype(x.dtype) * edges(r))
        for other in (r - 1, r, r + 1):
            if other in near:
                terms.append((weight * near[other]).astype(x.dtype) * corners(r, other))
    return functools.reduce(operator.add, terms)

"""The square form without gathers: at radius r + f between two integers, bilinear interpolation weighs r by 1 - f and r + 1 by f, along rows and
along columns. So an edge tap is a sum over radii of shifted images, and a corner tap one over pairs of radii that differ by at most one.
"""

import functools
import operator

import jax.numpy as jnp
from jax import lax


def square(x, scale, kernel, bound: int):
    reach, (height, width) = bound + 1, x.shape[1:3]
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (reach, reach, 0), (reach, reach, 0), (0, 0, 0)))
    w = kernel[:, :, 0].astype(x.dtype)

    def at(down: int, right: int):
        return padded[:, reach + down : reach + down + height, reach + right : reach + right + width]

    def taps(rows: int, columns: int):
        """The taps of a corner at (rows, columns), or of an edge where one of them is 0, each times its weight."""
        signs = {(i, j) for i in ((-1, 1) if rows else (0,)) for j in ((-1, 1) if columns else (0,))}
        return functools.reduce(operator.add, [w[1 + i, 1 + j] * at(i * rows, j * columns) for i, j in sorted(signs)])

    radius = 1 + scale.astype(jnp.float32)
    near = {r: jnp.maximum(1 - jnp.abs(radius - r), 0) for r in range(1, reach + 1)}
    terms = [w[1, 1] * x]
    for r, weight in near.items():
        terms.append(weight.astype(x.dtype) * (taps(r, 0) + taps(0, r)))
        for other in (r - 1, r, r + 1):
            if other in near:
                terms.append((weight * near[other]).astype(x.dtype) * taps(r, other))
    return functools.reduce(operator.add, terms)

"""The derivative of the maximum over windows on CPUs, where the compiler expands `select_and_scatter` into a search through single elements.

Each window's place of the maximum is found once by comparing shifted images with the maxima. The derivative then sums, over the places, shifted
images masked by it; the image is first cut into its residues modulo the stride, so that all shifts, and those of the transpose, are of whole blocks.
"""

import functools
import operator

import jax.numpy as jnp
from jax import lax


def tangent(x, y, dx, *, window, strides, padding):
    """The derivative at `x`, whose maxima are `y`, in the direction `dx`."""
    places = [(i, j) for i in range(window[0]) for j in range(window[1])]
    take = functools.partial(_shifted, output=y.shape[1:3], strides=strides)
    values = _residues(x, -jnp.inf, y.shape[1:3], window, strides, padding)
    winner = jnp.full(y.shape, -1, jnp.int32)
    for number, place in reversed(list(enumerate(places))):
        winner = jnp.where(take(values, place) == y, number, winner)
    slopes = _residues(dx, 0, y.shape[1:3], window, strides, padding)
    return functools.reduce(operator.add, [jnp.where(winner == number, take(slopes, place), 0) for number, place in enumerate(places)])


def _residues(x, fill, output, window, strides, padding):
    """The padded image as a table [r][s] of its pixels (row, column) = (r, s) modulo the strides, each (b, rows, columns, c)."""
    counts = [n + (k - 1) // s for n, k, s in zip(output, window, strides)]
    sides = [(low, count * s - size - low) for count, s, size, (low, _) in zip(counts, strides, x.shape[1:3], padding)]
    x = lax.pad(x, jnp.asarray(fill, x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in sides), (0, 0, 0)))
    (sh, sw), (rows, columns), batch, channels = strides, counts, x.shape[0], x.shape[-1]
    x = x.reshape(batch, rows, sh, columns, sw, channels)
    shape = (batch, rows, columns, channels)
    return [[part.reshape(shape) for part in lax.split(row, (1,) * sw, 4)] for row in lax.split(x, (1,) * sh, 2)]


def _shifted(residues, place, output, strides):
    """The pixel at `place` of every window."""
    (down, r), (right, s) = (divmod(k, stride) for k, stride in zip(place, strides))
    return residues[r][s][:, down : down + output[0], right : right + output[1]]

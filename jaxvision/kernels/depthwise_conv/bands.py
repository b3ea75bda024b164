"""How a depthwise convolution on TPUs is divided: the block of the banded matrix, the strips of an image, the pieces of a tall kernel; which maps
are covered, and which of them are ahead of the compiler's own."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax.numpy as jnp

from jaxvision.kernels.geometry import Geometry, Pair

LANES, SUBLANES = 128, 8
# Bytes that one call may keep on chip: TPU v4 has 16 MiB, which is the least.
BUDGET = 14 * 2**20
# Columns that are written out one by one.
MOST_COLUMNS = 128
DTYPES = (jnp.bfloat16, jnp.float32)
# Parts that a tall kernel is divided into.
MOST_PIECES = 6
# 7x7 is ahead on large maps, from 9x9 on all are, 5x5 is not. The gradient of the kernel is made of sums of diagonals, which take the compiler
# minutes at 27 rows.
SOME_TAPS, MANY_TAPS, TALLEST = 45, 75, 15
LARGE = {"forward": 28 * 28, "input_grad": 28 * 28, "weight_grad": 56 * 56}


@dataclasses.dataclass(frozen=True)
class Band:
    """A block of the banded matrix and how it moves down the image.

    Attributes:
      rows, columns: of the output of a block.
      first, window: first input row of a block relative to its first step row (negative: padding), and how many input rows it sees.
      step: input rows from one block to the next.
      blocks: how many make the image.
      source, target: sides of the whole input and output.
    """

    rows: int
    first: int
    window: int
    step: int
    blocks: int
    source: tuple[int, int]
    target: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows * self.target[1], self.window * self.source[1]

    def cost(self) -> float:
        """Cycles of the matrix unit a channel, and those of writing and reading the block once through memory; only their order matters."""
        pixels, seen = _up(self.shape[0], 16), _up(self.shape[1], LANES)
        return self.blocks * max(self.shape[1], seen // LANES * pixels) / 4 + 20 * self.blocks + pixels * seen / 90

    def aligned(self) -> bool:
        return self.blocks == 1 or (self.step * self.source[1] % SUBLANES == 0 and self.rows * self.target[1] % SUBLANES == 0)

    def strips(self, dtype, summed: bool) -> int | None:
        """Blocks a strip: all of them, or as many as fit; None where not even one does. `summed`: the block is the float32 result."""
        item = jnp.dtype(dtype).itemsize
        pixel = SUBLANES * LANES * 4
        kept = 2 * (SUBLANES * 4 // item) * _up(self.shape[0], 16) * _up(self.shape[1], LANES) * (4 if summed else item)
        for count in range(self.blocks, 0, -1):
            whole = count == self.blocks
            inner, outer = self.held(count)
            seen = (self.source[0] if whole else count * self.step) * self.source[1]
            made = (self.target[0] if whole else count * self.rows) * self.target[1]
            if kept + pixel * (2 * seen + 2 * made + inner + outer) <= BUDGET:
                if whole or self.window - self.step + self.first <= count * self.step:
                    return count
        return None

    def held(self, count: int) -> tuple[int, int]:
        """Pixels of a channel kept for `count` blocks: of the input, of the output, each with room for the last store."""
        above = max(0, -self.first)
        if count == self.blocks:
            rows = max(above + self.source[0], above + self.first + (self.blocks - 1) * self.step + self.window)
        else:
            rows = above + 2 * count * self.step
        return _up(rows * self.source[1], SUBLANES) + SUBLANES, _up(count * self.rows * self.target[1], SUBLANES) + SUBLANES


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _forward_band(geometry: Geometry, per: int) -> Band:
    (height, width), (rows, columns) = geometry.size, geometry.output
    stride, reach = geometry.strides[0], geometry.reach[0]
    if per >= rows:
        return Band(rows, 0, height, height, 1, (height, width), (rows, columns))
    window = (per - 1) * stride + reach
    return Band(per, -geometry.padding[0][0], window, per * stride, -(-rows // per), (height, width), (rows, columns))


def _backward_band(geometry: Geometry, per: int) -> Band:
    """From the gradient of the output to that of the input: `per` rows of the former a step."""
    (height, width), (rows, columns) = geometry.size, geometry.output
    stride, reach, top = geometry.strides[0], geometry.reach[0], geometry.padding[0][0]
    if per >= rows:
        return Band(height, 0, rows, rows, 1, (rows, columns), (height, width))
    made = per * stride
    first = -((reach - 1 - top) // stride)
    return Band(made, first, (made - 1 + top) // stride - first + 1, per, -(-height // made), (rows, columns), (height, width))


@functools.cache
def band(geometry: Geometry, dtype, field: str) -> tuple[Band, int] | None:
    """The cheapest band of a map and its blocks a strip, None where there is none."""
    make = _backward_band if field == "input_grad" else _forward_band
    found = []
    for per in {*range(1, min(16, geometry.output[0])), geometry.output[0]}:
        one = make(geometry, per)
        if one.first <= 0 < one.window and one.aligned():
            if strips := one.strips(dtype, field == "weight_grad"):
                found.append((one.cost(), per, one, strips))
    return min(found)[2:] if found else None


class Piece(NamedTuple):
    """Some rows of a kernel as a convolution of their own.

    Attributes:
      rows: (from, to). unseen: rows of the image above and below that these do not see. unmade: rows of the result that see nothing but padding.
    """

    rows: Pair
    unseen: Pair
    unmade: Pair
    geometry: Geometry


def _piece(geometry: Geometry, start: int, stop: int) -> Piece:
    (top, bottom), dilation, stride = geometry.padding[0], geometry.dilation[0], geometry.strides[0]
    sides = top - start * dilation, bottom - (geometry.kernel[0] - stop) * dilation
    unseen = tuple(max(0, -side) for side in sides)
    unmade = tuple(max(0, side - (stop - start - 1) * dilation) // stride for side in sides)
    size, kernel = (geometry.size[0] - sum(unseen), geometry.size[1]), (stop - start, geometry.kernel[1])
    padding = tuple(max(0, side) - stride * rows for side, rows in zip(sides, unmade))
    part = dataclasses.replace(geometry, size=size, kernel=kernel, padding=(padding, geometry.padding[1]))
    return Piece((start, stop), unseen, unmade, part)


@functools.cache
def pieces(geometry: Geometry, dtype, field: str) -> tuple[Piece, ...]:
    """A kernel as a whole, or the cheapest of its divisions by rows, for a map; nothing where there is none."""
    tall = geometry.kernel[0]
    if band(geometry, dtype, field) and (field != "weight_grad" or tall <= TALLEST):
        return (Piece((0, tall), (0, 0), (0, 0), geometry),)
    found = []
    for count in range(2, MOST_PIECES + 1):
        high = -(-tall // count)
        parts = tuple(_piece(geometry, start, min(start + high, tall)) for start in range(0, tall, high))
        if high <= TALLEST and all(part.geometry.known and band(part.geometry, dtype, field) for part in parts):
            # Each reads and writes its map once more.
            cost = sum(band(part.geometry, dtype, field)[0].cost() + math.prod(geometry.output) / 2 for part in parts)
            found.append((cost, count, parts))
    return min(found)[2] if found else ()


def covers(a, b, geometry: Geometry) -> bool:
    """A full set of lanes of examples, narrow enough images, and a band for each of the three maps."""
    batch, channels = a.shape[0], a.shape[-1]
    return (
        isinstance(batch, int)
        and batch % LANES == 0
        and geometry.groups == channels == b.shape[-1]
        and channels >= SUBLANES * 4 // jnp.dtype(a.dtype).itemsize
        and a.dtype in DTYPES
        and max(geometry.size[1], geometry.output[1]) <= MOST_COLUMNS
        and all(pieces(geometry, jnp.dtype(a.dtype), field) for field in ("forward", "input_grad", "weight_grad"))
    )


def ahead(field: str, geometry: Geometry) -> bool:
    """Whether a map is faster than the compiler's own (docs/performance.md): theirs grows with the taps, ours hardly does."""
    least = SOME_TAPS if math.prod(geometry.output) >= LARGE[field] else MANY_TAPS
    return math.prod(geometry.kernel) >= least

"""What kernels for TPUs share that pass over rows of channels, a block of them at a time, each row a pixel or a token of an example.

Channels are in the lanes. Of sequences (b, t, c) tokens are in the sublanes, as attention has them. From 256 channels on the compiler keeps a map
with examples in the sublanes, pixel by pixel, and so do the kernels. A block is (examples, tokens, channels) or (pixels, examples, channels).
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# Rows in a block.
ROWS = 512
# Rows of a tile of 16 bits, and columns of any tile.
TILE, LANES = 16, 128
# Share of the blocks' rows that may lie beyond the array.
EMPTY = 0.25
# TPU v4 has no more.
MEMORY = 2**24


def _plan(outer: int, rows: int) -> tuple[int, int]:
    """Along the two axes, a block's; the last one may reach beyond the array along the second."""
    size = TILE * pl.cdiv(pl.cdiv(rows, pl.cdiv(rows, ROWS)), TILE)
    return max(n for n in range(1, outer + 1) if outer % n == 0 and n * size <= max(ROWS, size)), size


def filled(x: jax.ShapeDtypeStruct) -> bool:
    """Whether blocks of `x` are mostly full, of a dtype that kernels take."""
    rows = x.shape[1] if x.ndim == 3 else x.shape[0]
    known = x.dtype in (jnp.bfloat16, jnp.float32) and x.size > 0
    return known and rows >= (1 - EMPTY) * (size := _plan(1, rows)[1]) * pl.cdiv(rows, size)


def laid(x):
    """Sequences as they are, maps (b, …, c) as (pixels, b, c). No copy where the compiler keeps them so anyway."""
    return x if x.ndim == 3 else jnp.moveaxis(x.reshape(x.shape[0], -1, x.shape[-1]), 0, 1)


def back(y, shape: Sequence[int]):
    """`laid` undone; `shape` is that of the map."""
    return y if len(shape) == 3 else jnp.moveaxis(y, 1, 0).reshape(shape)


def of_examples(factor, x):
    """Factors (b,) as blocks of `laid(x)` take them."""
    return factor.astype(jnp.float32).reshape((-1, 1, 1) if x.ndim == 3 else (1, -1, 1))


def rows_of(ref, columns: slice = slice(None)):
    """A block (outer, size, channels) as (outer * size, channels)."""
    outer, size, _ = ref.shape
    return ref[..., columns].reshape(outer * size, -1)


def each_row(factor, shape: Sequence[int]):
    """(1, size, 1) or (outer, 1, 1) -> (outer * size, 1)."""
    outer, size, _ = shape
    return jnp.concatenate([jnp.broadcast_to(factor[i % len(factor)], (size, 1)) for i in range(outer)], 0)


def known(values, shape: Sequence[int], rows: int):
    """Nothing is known of a block's rows that lie beyond the array's `rows`: zeros in their place."""
    outer, size, _ = shape
    if rows % size == 0:
        return values
    place = pl.program_id(1) * size + lax.broadcasted_iota(jnp.int32, (size, 1), 0)
    return jnp.where(jnp.concatenate([place < rows] * outer, 0), values, 0)


def zeroed(*totals) -> None:
    """Sums over all blocks begin with zeros."""

    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _():
        for total in totals:
            total[...] = jnp.zeros(total.shape, total.dtype)


def over_blocks(
    kernel: Callable,
    name: str,
    blocked: Sequence,
    whole: Sequence,
    results: Sequence,
    *,
    products: int,
    interpret: bool,
    factor=None,
    curves: int = 0,
):
    """kernel(*blocked, [factor], *whole, *results, rows=) for each block of rows.

    Args:
      blocked: arrays (outer, rows, channels) of any channels, which pass through in blocks, and so does the first result.
      whole: matrices that are on the chip all the time, as are the further results, which are sums over all blocks.
      products: multiply-adds a row, and `curves` values of exp or tanh.
    """
    outer, rows, _ = blocked[0].shape
    count, size = _plan(outer, rows)
    cost = pl.CostEstimate(
        flops=2 * outer * rows * products,
        transcendentals=outer * rows * curves,
        bytes_accessed=sum(a.size * a.dtype.itemsize for a in (*blocked, *whole, *results)),
    )
    block = lambda a: pl.BlockSpec((count, size, a.shape[2]), lambda p, r: (p, r, 0))
    full = lambda a: pl.BlockSpec(a.shape, lambda p, r: (0, 0))
    factors = []
    if factor is not None:
        by_outer = factor.shape[0] > 1
        factors = [pl.BlockSpec((count, 1, 1), lambda p, r: (p, 0, 0)) if by_outer else pl.BlockSpec((1, size, 1), lambda p, r: (0, r, 0))]
    return pl.pallas_call(
        functools.partial(kernel, rows=rows),
        out_shape=results,
        grid=(outer // count, pl.cdiv(rows, size)),
        in_specs=[block(a) for a in blocked] + factors + [full(a) for a in whole],
        out_specs=[block(results[0])] + [full(a) for a in results[1:]],
        interpret=interpret,
        name=name,
        cost_estimate=cost,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary" if len(results) > 1 else "parallel",) * 2, vmem_limit_bytes=MEMORY),
    )(*blocked, *(() if factor is None else (factor,)), *whole)

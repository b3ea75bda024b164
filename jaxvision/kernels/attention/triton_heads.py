"""What the kernels of `triton` share: how they see their operands, and a tile of scores."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxvision.kernels.attention.call import Call, kept
from jaxvision.kernels.attention.tpu import dim_of

# The least side of a tile that a matrix product takes, and the side of a block of queries or keys.
LEAST, BLOCK = 16, 64
# Programs that keep a GPU busy, four a multiprocessor of an H100.
PROGRAMS = 528
LOG2E = math.log2(math.e)
NN, NT, TN = ((((a,), (b,)), ((), ())) for a, b in ((1, 0), (1, 1), (0, 0)))


def tiles(tokens: int) -> list[tuple[int, int]]:
    """(first, number) of tiles that hold so many tokens: powers of two, the largest first."""
    left, found, first = -(-tokens // LEAST) * LEAST, [], 0
    while left:
        size = 1 << (left.bit_length() - 1)
        found.append((first, size))
        first, left = first + size, left - size
    return found


def blocks(tokens: int) -> tuple[int, int]:
    """(tokens of a block, blocks): one that holds all, or several of `BLOCK`."""
    size = min(BLOCK, max(LEAST, pl.next_power_of_2(tokens)))
    return size, pl.cdiv(tokens, size)


def repeated(count: int, body, carry):
    """`body(i, carry)` so often; without a loop where that is once."""
    return body(0, carry) if count == 1 else jax.lax.fori_loop(0, count, body, carry)


def tiled(shape: tuple[int, ...], axis: int):
    """Of each element of an array of this shape, its number along an axis."""
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)


class Heads:
    """A call as its kernels see it: heads an axis of their own, of which a program has one.

    A kernel's block holds that head of all examples, so that a program may go through several: the numbers of an example and of its first token are
    indices, and what lies beyond the tokens or lanes is masked.

    Attributes:
      q, t, width, lanes: tokens and numbers of a head, lanes the next power of two; size, number: of the blocks of queries.
      interpret: on another platform than its own.
    """

    def __init__(self, call: Call, operands, interpret: bool):
        self.call, self.width, (self.q, self.t) = call, dim_of(call, operands) // call.heads, call.tokens(operands)
        self.lanes, self.batch = max(LEAST, pl.next_power_of_2(self.width)), operands[0].shape[0]
        self.size, self.number = blocks(self.q)
        self.named, self.dtype, self.interpret = call.named(operands), operands[0].dtype, interpret
        self.biases = self.named["bias"].shape[0] if call.bias else 1
        # Three products of tf32 are a product of float32 but for its last bit or two, and run on the matrix unit.
        exact = jax.lax.Precision.HIGHEST if interpret else jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
        precision = exact if self.dtype == jnp.float32 else None
        self.dot = functools.partial(jax.lax.dot_general, precision=precision, preferred_element_type=jnp.float32)

    # --- arrays outside of a kernel ---

    def split(self, x):
        """(b, tokens, parts heads width) as (b, tokens, parts, heads, width)."""
        return x.reshape(*x.shape[:2], -1, self.call.heads, self.width)

    def arrays(self, operands):
        """Operands of a kernel."""
        offset, bias, seed = (self.named[name] for name in ("offset", "bias", "seed"))
        rest = None if offset is None else offset.reshape(3, self.call.heads, self.width), bias, seed
        return [*(self.split(x) for x in operands[: self.call.arrays]), *(x for x in rest if x is not None)]

    def moving(self, which: tuple[int, ...]) -> tuple[bool, bool]:
        """Whether gradients of offset and bias are asked for."""
        at = self.call.arrays
        return self.call.offset and at in which, self.call.bias and at + self.call.offset in which

    def options(self, name: str, products: int) -> dict:
        """What all kernels are called with; `products` of the scores' size with a head's width."""
        flops = 2 * products * self.batch * self.call.heads * self.q * self.t * self.width
        params = plgpu.CompilerParams(num_warps=4, num_stages=2)
        return {"name": name, "interpret": self.interpret, "compiler_params": params, "metadata": {"flops": str(flops)}}

    def spec(self, x):
        """Of an array (b, tokens, parts, heads, width). Heads are always the first axis of the grid."""
        return pl.BlockSpec((x.shape[0], -(-x.shape[1] // BLOCK) * BLOCK, x.shape[2], None, self.lanes), lambda head, *_: (0, 0, 0, head, 0))

    def table_spec(self, heads: int, number):
        """Of an array (any, heads, q, t); `number`: place in the grid -> which of them."""
        sides = (-(-n // BLOCK) * BLOCK for n in (self.q, self.t))
        return pl.BlockSpec((None, None, *sides), lambda head, *rest: (number(*rest), head if heads > 1 else 0, 0, 0))

    def specs(self, operands, number):
        """Of `arrays`; `number`: place in the grid after the heads -> number of the bias."""
        found = [self.spec(self.split(x)) for x in operands[: self.call.arrays]]
        if self.call.offset:
            found.append(pl.BlockSpec((3, None, self.lanes), lambda head, *_: (0, head, 0)))
        if self.call.bias:
            found.append(self.table_spec(self.named["bias"].shape[1], number))
        if self.call.dropout:
            found.append(pl.BlockSpec((self.batch,), lambda *_: (0,)))
        return found

    # --- inside of a kernel: `refs` begin with the operands ---

    def inside(self, first, size: int, count: int):
        """Which tokens from `first` on, and lanes, there are: (size, lanes)."""
        shape = size, self.lanes
        return (first + tiled(shape, 0) < count) & (tiled(shape, 1) < self.width)

    def read(self, ref, part: int, example, first, size: int, count: int):
        """(size, lanes) of an array (b, tokens, parts, lanes) with `count` tokens, zeros where there is nothing."""
        return plgpu.load(ref.at[example, pl.ds(first, size), np.int32(part), :], mask=self.inside(first, size, count), other=0.0)

    def load(self, refs, part: int, example, first, size: int):
        """Tokens of q (part 0), k or v with the offset added; zeros, or the offset, beyond their number."""
        ref, at = (refs[0], part) if self.call.packed else (refs[part], 0)
        x = self.read(ref, at, example, first, size, self.t if part else self.q)
        if not self.call.offset:
            return x
        lane = tiled((self.lanes,), 0)
        return x + plgpu.load(refs[1].at[np.int32(part), :], mask=lane < self.width, other=0.0)[None]

    def store(self, refs, part: int, example, first, value):
        """Tokens of q's, k's or v's gradient."""
        ref, at = (refs[0], part) if self.call.packed else (refs[part], 0)
        size = value.shape[0]
        mask = self.inside(first, size, self.t if part else self.q)
        plgpu.store(ref.at[example, pl.ds(first, size), np.int32(at), :], value.astype(ref.dtype), mask=mask)

    def store_sum(self, ref, part: int, value):
        """A sum over tokens, of an array (parts, lanes)."""
        plgpu.store(ref.at[np.int32(part), :], value, mask=tiled(value.shape, 0) < self.width)

    def scores(self, refs, q, k, first, column):
        """Scores of queries from `first` and keys from `column` on, times log2(e); keys that there are not have -inf."""
        shape = q.shape[0], k.shape[0]
        value = self.dot(q, k, NT) * (self.width**-0.5 * LOG2E)
        columns = column + tiled(shape, 1)
        if self.call.bias:
            ref = refs[self.call.arrays + self.call.offset]
            mask = (first + tiled(shape, 0) < self.q) & (columns < self.t)
            bias = plgpu.load(ref.at[pl.ds(first, shape[0]), pl.ds(column, shape[1])], mask=mask, other=0.0)
            value = value + bias.astype(jnp.float32) * LOG2E
        return jnp.where(columns < self.t, value, -jnp.inf)

    def dropped(self, refs, head, example, first, column, *values):
        """A tile of weights, or of their gradients, after dropout."""
        if not self.call.dropout:
            return values
        rows, columns = (start + tiled(values[0].shape, axis) for axis, start in enumerate((first, column)))
        seed = plgpu.load(refs[self.call.arrays + self.call.offset + self.call.bias].at[example])
        place = ((head * self.q + rows) * self.t + columns).astype(jnp.uint32)
        keep = kept(seed, place, self.call.dropout)
        return tuple(jnp.where(keep, x * (1 / (1 - self.call.dropout)), 0.0) for x in values)


class Rounds:
    """Which examples a program goes through: (g rounds + r) biases + i of group g and bias i, rounds cut into runs for `PROGRAMS` programs or more.

    A sum over a run's examples is written once, and the compiler adds up those of the runs: nothing races, the same input gives the same gradient.
    """

    def __init__(self, heads: Heads, blocks: int, summed: bool):
        self.biases, self.groups = heads.biases, heads.call.groups
        rounds = heads.batch // (self.groups * self.biases)
        at_once = self.biases * self.groups * heads.call.heads * blocks
        enough = (n for n in range(1, rounds + 1) if rounds % n == 0 and n * at_once >= PROGRAMS)
        self.runs = next(enough, rounds) if summed else rounds
        self.each, self.programs = rounds // self.runs, self.groups * self.runs * self.biases

    def bias(self, program):
        return jax.lax.rem(program, jnp.int32(self.biases))

    def example(self, program, i):
        return (jax.lax.div(program, jnp.int32(self.biases)) * self.each + i) * self.biases + self.bias(program)

    def table(self, parts, bias):
        """The bias's gradient from the programs' (programs, heads, q, t)."""
        table = parts.reshape(self.groups, self.runs, self.biases, *parts.shape[1:]).sum(1)
        table = table if bias.shape[1] > 1 else table.sum(2, keepdims=True)
        return table.reshape(-1, *bias.shape[1:]).astype(bias.dtype)

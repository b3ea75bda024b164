"""Attention over short sequences on TPUs: the scores of one head of one example are made, used and dropped on chip.

A grid step holds all heads of one or several examples. Heads that share a register's 128 lanes are told apart by zeroing the other lanes of q (and
of the cotangent), which costs the matrix unit nothing, since a narrow contraction is padded to 128 anyway, and saves moving lanes. The backward pass
works on transposed scores (t, q): softmax's sums run over sublanes, two of its three products with them need no transposition, and nothing from the
forward pass is kept but its operands.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxvision.kernels.attention.call import Call, kept

LANES = 128
# On-chip memory that a grid step may take, every block twice (one is filled while the other is used): a kernel gets 16 MiB unless it asks for more.
BUDGET = 16 * 2**20
# Queries and keys below which a kernel is not ahead: a single query, as of a class token, leaves nearly all of a register empty.
FEWEST = 16
dot = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
NN, NT, TN = ((((a,), (b,)), ((), ())) for a, b in ((1, 0), (1, 1), (0, 0)))


def _groups(heads: int, width: int) -> list[tuple[int, int]]:
    """(first head, number) of the heads that share a register's lanes."""
    many = max(1, LANES // width)
    return [(first, min(many, heads - first)) for first in range(0, heads, many)]


def _bytes(call: Call, operands, gradients: bool) -> tuple[int, int]:
    """(on-chip memory that a grid step takes whatever it holds, and that of each example): blocks twice, and arrays of a head's scores.

    The factors 25 / 4 of the scores and 1.15 of the blocks are those of compiled kernels, 577 and 640 tokens of width 384.
    """
    (q, t), dim, bias = call.tokens(operands), dim_of(call, operands), call.named(operands)["bias"]
    tile = lambda rows, columns, size: (-(-rows // (32 // size)) * 32 // size) * (-(-columns // LANES) * LANES) * size
    size = operands[0].dtype.itemsize
    once = tile(q, dim, size) + 2 * tile(t, dim, size)
    each, fixed = 2 * (once + tile(q, dim, size) + (once if gradients else 0)), 25 * max(tile(q, t, 4), tile(t, q, 4)) // 4
    if bias is not None:
        table = 2 * bias.shape[1] * max(tile(q, t, 4), tile(t, q, 4)) * (2 if gradients else 1)
        each, fixed = (each + table, fixed) if bias.shape[0] > 1 else (each, fixed + table)
    return fixed, int(1.15 * each)


def dim_of(call: Call, operands) -> int:
    return operands[0].shape[2] // 3 if call.packed else operands[0].shape[2]


def covers(call: Call, *operands) -> bool:
    dim = dim_of(call, operands)
    width = dim // call.heads
    same = call.packed or operands[1].shape[2] == operands[2].shape[2] == dim
    wide = operands[0].dtype in (jnp.bfloat16, jnp.float32) and 16 <= width <= LANES
    return same and wide and min(call.tokens(operands)) >= FEWEST and sum(_bytes(call, operands, True)) <= BUDGET


def _mask(head: int, width: int, lanes: int):
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, lanes), 1)
    return (lane >= head * width) & (lane < (head + 1) * width)


def _keep(call: Call, seed, head: int, q: int, t: int, transposed: bool):
    """The weights of one head that dropout keeps, (q, t) or (t, q)."""
    shape = (t, q) if transposed else (q, t)
    rows, columns = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in ((1, 0) if transposed else (0, 1)))
    return kept(seed, (jnp.uint32(head * q) + rows) * jnp.uint32(t) + columns, call.dropout)


class _Blocks:
    """The blocks of a grid step by name."""

    def __init__(self, call: Call, refs, dim: int, examples: int):
        self.call, self.dim, self.refs = call, dim, refs[: call.arrays]
        count = call.arrays + call.offset + call.bias + bool(call.dropout)
        named = call.named(refs[:count])
        self.offset, self.bias, self.seed, self.rest = named["offset"], named["bias"], named["seed"], refs[count:]
        # Number of the grid step's first example; read here, because inside a loop it cannot be.
        self.start = (pl.program_id(1) * pl.num_programs(0) + pl.program_id(0)) * examples if call.dropout else 0

    def load(self, part: int, example, first: int, lanes: int):
        """Lanes of q (part 0), k or v of an example."""
        ref, start = (self.refs[0], part * self.dim + first) if self.call.packed else (self.refs[part], first)
        value = ref[example, :, start : start + lanes]
        return value if self.offset is None else value + self.offset[:, start : start + lanes]


def _forward_kernel(call: Call, dim: int, examples: int, *refs):
    blocks = _Blocks(call, refs, dim, examples)
    (out,), width = blocks.rest, dim // call.heads

    def one(example):
        for first, number in _groups(call.heads, width):
            lanes, start = number * width, first * width
            q, k, v = (blocks.load(part, example, start, lanes) for part in range(3))
            q, y = q * jnp.asarray(width**-0.5, q.dtype), None
            for g in range(number):
                own = _mask(g, width, lanes)
                scores = dot(jnp.where(own, q, jnp.zeros((), q.dtype)) if number > 1 else q, k, NT)
                if call.bias:
                    scores = scores + _bias(blocks.bias, example, first + g)
                weights = jnp.exp(scores - scores.max(1, keepdims=True))
                total = weights.sum(1, keepdims=True)
                if call.dropout:
                    keep = _keep(call, blocks.seed[blocks.start + example], first + g, *weights.shape, False)
                    weights, total = jnp.where(keep, weights, 0.0), total * (1 - call.dropout)
                head = dot(weights.astype(v.dtype), v, NN) * (1 / total)
                y = head if y is None else jnp.where(own, head, y)
            out[example, :, start : start + lanes] = y.astype(out.dtype)

    _each(examples, one)


def _backward_kernel(call: Call, dim: int, examples: int, moving: tuple[bool, int], *refs):
    """`moving`: whether the offset's gradient is asked for, summed over this grid step's examples, and over how many rounds the bias's is; 0: not."""
    blocks = _Blocks(call, refs[1:], dim, examples)
    cotangent, outs, width = refs[0], blocks.rest, dim // call.heads
    offset_out, bias_out = outs[call.arrays] if moving[0] else None, outs[-1] if moving[1] else None
    if moving[0]:
        offset_out[...] = jnp.zeros(offset_out.shape, offset_out.dtype)
    if moving[1]:
        first = jax.lax.rem(pl.program_id(1), moving[1]) == 0
        pl.when(first)(lambda: bias_out.__setitem__(..., jnp.zeros(bias_out.shape, bias_out.dtype)))

    def store(part, example, first, value):
        ref, start = (outs[0], part * dim + first) if call.packed else (outs[part], first)
        ref[example, :, start : start + value.shape[1]] = value.astype(ref.dtype)
        if moving[0]:
            here = (0, slice(None), slice(start, start + value.shape[1]))
            offset_out[here] = offset_out[here] + value.sum(0, keepdims=True)

    def one(example):
        for first, number in _groups(call.heads, width):
            lanes, start = number * width, first * width
            q, k, v = (blocks.load(part, example, start, lanes) for part in range(3))
            dy = cotangent[example, :, start : start + lanes]
            q, dq, dk, dv = q * jnp.asarray(width**-0.5, q.dtype), None, None, None
            for g in range(number):
                own = _mask(g, width, lanes)
                alone = (lambda x: jnp.where(own, x, jnp.zeros((), x.dtype))) if number > 1 else lambda x: x
                mine, dmine = alone(q), alone(dy)
                scores = dot(k, mine, NT)
                if call.bias:
                    scores = scores + _bias(blocks.bias, example, first + g)
                weights = jnp.exp(scores - scores.max(0, keepdims=True))
                weights = weights * (1 / weights.sum(0, keepdims=True))
                dropped, dweights = weights, dot(v, dmine, NT)
                if call.dropout:
                    keep = _keep(call, blocks.seed[blocks.start + example], first + g, weights.shape[1], weights.shape[0], True)
                    dropped, dweights = (jnp.where(keep, x * (1 / (1 - call.dropout)), 0.0) for x in (weights, dweights))
                product = weights * dweights
                dscores = product - weights * product.sum(0, keepdims=True)
                if moving[1]:
                    _add_bias(bias_out, example, first + g, dscores)
                dscores = dscores.astype(q.dtype)
                # Other heads' lanes of mine and dmine are zero, so these two can simply be added up.
                dv_own, dk_own, dq_own = dot(dropped.astype(dy.dtype), dmine, NN), dot(dscores, mine, NN), dot(dscores, k, TN)
                dq = dq_own if dq is None else jnp.where(own, dq_own, dq)
                dk, dv = (new if old is None else old + new for old, new in ((dk, dk_own), (dv, dv_own)))
            for part, value in enumerate((dq * width**-0.5, dk, dv)):
                store(part, example, start, value)

    _each(examples, one)


def _bias(ref, example, head: int):
    return ref[example if ref.shape[0] > 1 else 0, head if ref.shape[1] > 1 else 0].astype(jnp.float32)


def _add_bias(ref, example, head: int, value):
    place = (example if ref.shape[0] > 1 else 0, head if ref.shape[1] > 1 else 0)
    ref[place] = ref[place] + value


def _each(examples: int, one) -> None:
    if examples == 1:
        one(0)
    else:
        jax.lax.fori_loop(0, examples, lambda i, _: (one(i), 0)[1], 0)


def _plan(call: Call, operands, gradients: bool) -> tuple[int, int, int]:
    """(examples a grid step, grid steps over the biases, rounds over them). Biases stand still in the inner loop, over which their gradient grows."""
    b, (fixed, each) = operands[0].shape[0], _bytes(call, operands, gradients)
    biases = call.named(operands)["bias"].shape[0] if call.bias else 1
    per_round = biases if biases > 1 else b // call.groups
    examples = max(n for n in range(1, per_round + 1) if per_round % n == 0 and (n == 1 or (n <= MOST_EXAMPLES and fixed + n * each <= BUDGET)))
    return (examples, biases // examples, b // biases) if biases > 1 else (examples, 1, b // examples)


# Examples a grid step, where they are so small that a step's overhead shows.
MOST_EXAMPLES = 16


def _specs(call: Call, operands, plan):
    """Block specifications of the operands."""
    examples, steps, _ = plan
    named = call.named(operands)
    specs = [pl.BlockSpec((examples, *x.shape[1:]), lambda i, j: (j * steps + i, 0, 0)) for x in operands[: call.arrays]]
    if call.offset:
        specs.append(pl.BlockSpec(named["offset"].shape, lambda i, j: (0, 0)))
    if call.bias:
        specs.append(_bias_spec(named["bias"], examples))
    if call.dropout:
        specs.append(pl.BlockSpec(memory_space=pltpu.SMEM))
    return specs


def _bias_spec(bias, examples: int, steps: int = 1, rounds: int = 0):
    """`rounds` over the biases make one group; 0: there are no groups."""
    own = bias.shape[0] > 1
    # Not `//`: for signs that never come it asks which chip is at hand, and there is none while compiling ahead.
    group = lambda j: jax.lax.div(j, jnp.int32(rounds)) if rounds else 0
    return pl.BlockSpec((examples if own else 1, *bias.shape[1:]), lambda i, j: (steps * group(j) + (i if own else 0), 0, 0, 0))


def like(x, shape, dtype=None):
    kind = jax.typeof(x)
    return jax.ShapeDtypeStruct(shape, dtype or x.dtype, **({"vma": kind.vma} if hasattr(kind, "vma") else {}))


def cost(call: Call, operands, products: int, arrays):
    """What the compiler is told of a kernel: `products` of the scores' size with a head's width, and the arrays that it moves."""
    (q, t), b = call.tokens(operands), operands[0].shape[0]
    moved = sum(x.size * x.dtype.itemsize for x in arrays)
    return pl.CostEstimate(flops=2 * products * b * q * t * dim_of(call, operands), bytes_accessed=moved, transcendentals=b * call.heads * q * t)


def _params(parallel: bool):
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel" if parallel else "arbitrary"))


def forward(call: Call, *operands, interpret: bool = False):
    plan = _plan(call, operands, False)
    (q, _), dim = call.tokens(operands), dim_of(call, operands)
    examples, steps, rounds = plan
    out = like(operands[0], (operands[0].shape[0], q, dim))
    return pl.pallas_call(
        functools.partial(_forward_kernel, call, dim, examples),
        out_shape=out,
        cost_estimate=cost(call, operands, 2, (*operands, out)),
        grid=(steps, rounds),
        in_specs=_specs(call, operands, plan),
        out_specs=pl.BlockSpec((examples, q, dim), lambda i, j: (j * steps + i, 0, 0)),
        compiler_params=_params(True),
        interpret=interpret,
        name="attention_forward",
    )(*operands)


def backward(call: Call, which: tuple[int, ...], cotangent, *operands, interpret: bool = False):
    plan = _plan(call, operands, True)
    examples, steps, rounds = plan
    operands, dim, grid_steps = list(operands), dim_of(call, operands), steps * rounds
    numbers = dict(zip((name for name in ("offset", "bias") if getattr(call, name)), call.shared))
    moving = tuple(numbers.get(name, -1) in which for name in ("offset", "bias"))
    if call.bias:
        operands[numbers["bias"]] = operands[numbers["bias"]].swapaxes(2, 3)
    specs = _specs(call, operands, plan)
    out_shape, out_specs = [like(x, x.shape) for x in operands[: call.arrays]], specs[: call.arrays]
    if moving[0]:
        out_shape.append(like(operands[0], (grid_steps, *operands[numbers["offset"]].shape), jnp.float32))
        out_specs.append(pl.BlockSpec((1, *out_shape[-1].shape[1:]), lambda i, j: (j * steps + i, 0, 0)))
    if moving[1]:
        bias = operands[numbers["bias"]]
        out_shape.append(like(operands[0], (call.groups * bias.shape[0], *bias.shape[1:]), jnp.float32))
        out_specs.append(_bias_spec(bias, examples, steps, rounds // call.groups))
    spec = pl.BlockSpec((examples, *cotangent.shape[1:]), lambda i, j: (j * steps + i, 0, 0))
    results = list(
        pl.pallas_call(
            functools.partial(_backward_kernel, call, dim, examples, (moving[0], rounds // call.groups if moving[1] else 0)),
            out_shape=out_shape,
            cost_estimate=cost(call, operands, 5, (cotangent, *operands, *out_shape)),
            grid=(steps, rounds),
            in_specs=[spec, *specs],
            out_specs=out_specs,
            compiler_params=_params(not moving[1]),
            interpret=interpret,
            name="attention_backward",
        )(cotangent, *operands)
    )
    found = dict(enumerate(results[: call.arrays]))
    if moving[0]:
        parts = results[call.arrays].reshape(call.groups, grid_steps // call.groups, -1).sum(1)
        found[numbers["offset"]] = parts.astype(operands[numbers["offset"]].dtype)
    if moving[1]:
        found[numbers["bias"]] = results[-1].swapaxes(2, 3).astype(operands[numbers["bias"]].dtype)
    return tuple(found[i] for i in which)

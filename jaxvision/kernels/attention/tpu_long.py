"""Attention over long sequences on TPUs: a block of queries against all keys, of the heads that share a register's 128 lanes.

A block's scores with all keys are on chip at once, up to some 4,300 keys, so that softmax is what it says and needs no running maximum. Neither does
the backward pass need anything from the forward pass but its operands: it makes a block's scores again, and with them all three gradients, in five
products a pair of query and key where flash attention's two backward kernels take seven. Gradients grow on chip over the blocks of queries and are
then sent where they belong in the gradient of the projection's result, so that nothing has to put three arrays side by side. Heads narrower than a
power of two, or too few to fill 128 lanes, are padded outside.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxvision.kernels.attention.call import Call, kept
from jaxvision.kernels.attention.tpu import LANES, NN, NT, TN, cost, dim_of, dot, like

# A grid step gets 16 MiB of on-chip memory; what the compiler keeps for itself is not in `_memory`.
BUDGET = 15 * 2**20
# Queries of a block forward; backward they lie in the lanes. Keys that are worked on at a time backward.
MOST_QUERIES, CHUNK = 512, 512
# Heads of a block up to which each has code of its own.
UNROLLED = 2


@dataclasses.dataclass(frozen=True)
class Layout:
    """Heads as they lie in blocks of 128 lanes: `per` of them, each `wide` lanes of which the first `width` are its own, in `blocks` blocks."""

    heads: int
    width: int

    @property
    def wide(self) -> int:
        return max(16, 1 << (self.width - 1).bit_length())

    @property
    def per(self) -> int:
        return LANES // self.wide

    @property
    def blocks(self) -> int:
        return -(-self.heads // self.per)

    @property
    def direct(self) -> bool:
        """Whether the operands lie so already."""
        return self.wide == self.width and self.heads % self.per == 0


def _layout(call: Call, operands) -> Layout:
    return Layout(call.heads, dim_of(call, operands) // call.heads)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _memory(call: Call, operands, queries: int, gradients: bool, buffers: int) -> int:
    """On-chip bytes of a grid step of `queries` queries: keys and values `buffers` times, all else twice, and what is made of them."""
    (q, t), size, layout = call.tokens(operands), operands[0].dtype.itemsize, _layout(call, operands)
    t, q = _up(t, 16) if gradients else _up(t, LANES), _up(q, 16)
    keys, rows = 2 * t * LANES * size, queries * LANES * size
    bias = 2 * (layout.per if call.named(operands)["bias"].shape[1] > 1 else 1) * t * queries * 4 if call.bias else 0
    if not gradients:
        return buffers * keys + 4 * rows + bias + t * queries * (8 + size) + queries * LANES * 8
    own = 2 * layout.per * t * queries * 4 if call.bias else 0
    kept = (q + 2 * t) * LANES * size + 2 * t * LANES * 4 + 2 * t * queries * 4
    return buffers * keys + 4 * rows + bias + own + kept + 4 * min(t, CHUNK) * queries * 4


def _plan(call: Call, operands, gradients: bool) -> tuple[int, int] | None:
    """(queries of a block, how often keys and values are kept), None where nothing fits."""
    q, _ = call.tokens(operands)
    if gradients:
        choices = [LANES]
    else:
        choices = [_up(-(-q // blocks), 16) for blocks in range(-(-q // MOST_QUERIES), -(-q // LANES) + 1)]
    found = ((queries, buffers) for buffers in (2, 1) for queries in choices if _memory(call, operands, queries, gradients, buffers) <= BUDGET)
    return next(found, None)


def covers(call: Call, *operands) -> bool:
    dim = dim_of(call, operands)
    width = dim // call.heads
    same = call.packed or operands[1].shape[2] == operands[2].shape[2] == dim
    known = same and operands[0].dtype in (jnp.bfloat16, jnp.float32) and 16 <= width <= LANES
    return known and call.tokens(operands)[0] >= LANES and all(_plan(call, operands, gradients) is not None for gradients in (False, True))


def _arranged(call: Call, layout: Layout, operands):
    """q, k and v, and the number of the first block of lanes of each: of one array, if that is how they came."""
    if call.packed and layout.direct:
        qkv = operands[0] + operands[1] if call.offset else operands[0]
        return (qkv,) * 3, tuple(part * layout.blocks for part in range(3))
    return tuple(_padded(layout, x) for x in call.parts(operands)), (0, 0, 0)


def _padded(layout: Layout, x):
    if layout.direct:
        return x
    x = x.reshape(*x.shape[:2], layout.heads, layout.width)
    more = ((0, 0), (0, 0), (0, layout.blocks * layout.per - layout.heads), (0, layout.wide - layout.width))
    return jnp.pad(x, more).reshape(*x.shape[:2], layout.blocks * LANES)


def _cut(layout: Layout, x):
    """The inverse of `_padded`."""
    if layout.direct:
        return x
    x = x.reshape(*x.shape[:2], layout.blocks * layout.per, layout.wide)[:, :, : layout.heads, : layout.width]
    return x.reshape(*x.shape[:2], -1)


def _bias(call: Call, layout: Layout, operands):
    """The bias with a row of heads for each block, or one for all."""
    bias = call.named(operands)["bias"]
    more = layout.blocks * layout.per - bias.shape[1] if bias.shape[1] > 1 else 0
    return jnp.pad(bias, ((0, 0), (0, more), (0, 0), (0, 0)))


def _each_head(layout: Layout, one, start):
    return jax.lax.fori_loop(0, layout.per, one, start, unroll=layout.per <= UNROLLED)


def _own(layout: Layout, head, x):
    """`x` with zeros in the lanes of the other heads."""
    return x if layout.per == 1 else jnp.where(_lanes(layout, head), x, jnp.zeros((), x.dtype))


def _lanes(layout: Layout, head):
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    return (lane >= head * layout.wide) & (lane < (head + 1) * layout.wide)


def _keep(call: Call, seed, head, shape, first, axis: int, tokens: tuple[int, int]):
    """The weights of one head that dropout keeps, the rows of `shape` along `axis` being queries; first: (query, key) of the corner."""
    rows = jax.lax.broadcasted_iota(jnp.uint32, shape, axis) + first[0].astype(jnp.uint32)
    columns = jax.lax.broadcasted_iota(jnp.uint32, shape, 1 - axis) + jnp.uint32(first[1])
    number = jnp.asarray(head, jnp.int32).astype(jnp.uint32) * jnp.uint32(tokens[0]) + rows
    return kept(seed, number * jnp.uint32(tokens[1]) + columns, call.dropout)


def _forward_kernel(call: Call, layout: Layout, tokens: tuple[int, int], *refs):
    q_ref, k_ref, v_ref, *extra, out = refs
    bias = extra[0] if call.bias else None
    seed = extra[-1][pl.program_id(0)] if call.dropout else None
    head_of, first = pl.program_id(1) * layout.per, pl.program_id(2) * out.shape[1]
    q, k, v = q_ref[0] * jnp.asarray(layout.width**-0.5, q_ref.dtype), k_ref[0], v_ref[0]

    def one(g, y):
        scores = dot(_own(layout, g, q), k, NT)
        if call.bias:
            scores = scores + bias[0, g if bias.shape[1] > 1 else 0].astype(jnp.float32)
        weights = jnp.exp(scores - scores.max(1, keepdims=True))
        total = weights.sum(1, keepdims=True)
        if call.dropout:
            keep = _keep(call, seed, head_of + g, weights.shape, (first, 0), 0, tokens)
            weights, total = jnp.where(keep, weights, 0.0), total * (1 - call.dropout)
        head = dot(weights.astype(v.dtype), v, NN) * (1 / total)
        return head if layout.per == 1 else jnp.where(_lanes(layout, g), head, y)

    out[0] = _each_head(layout, one, jnp.zeros(out.shape[1:], jnp.float32)).astype(out.dtype)


def _backward_kernel(call: Call, layout: Layout, tokens: tuple[int, int], firsts: tuple[int, ...], moving: tuple[bool, bool], *refs):
    """`moving`: whether gradients of offset and bias are asked for, which are written for every example."""
    dy_ref, q_ref, k_ref, v_ref, *rest = refs
    extra, rest = rest[: call.bias + bool(call.dropout)], rest[call.bias + bool(call.dropout) :]
    bias, doffset, dbias = extra[0] if call.bias else None, rest[0], rest[moving[0]]
    *outs, dk_sum, dv_sum, weights_of, dweights_of, dq, dk, dv, sent = rest[sum(moving) :]
    example, lanes, block, queries = pl.program_id(0), pl.program_id(1), pl.program_id(2), q_ref.shape[1]
    seed = extra[-1][example] if call.dropout else None
    head_of, first = lanes * layout.per, block * queries
    chunks = [slice(start, min(start + CHUNK, tokens[1])) for start in range(0, tokens[1], CHUNK)]

    @pl.when(block == 0)
    def _():
        dk_sum[...] = jnp.zeros(dk_sum.shape, jnp.float32)
        dv_sum[...] = jnp.zeros(dv_sum.shape, jnp.float32)

    q, dy = q_ref[0] * jnp.asarray(layout.width**-0.5, q_ref.dtype), dy_ref[0]
    partial = tokens[0] % queries > 0
    if partial:  # what lies beyond the last query is anything at all
        there = jax.lax.broadcasted_iota(jnp.int32, (queries, 1), 0) < tokens[0] - first
        q, dy = (jnp.where(there, x, jnp.zeros((), x.dtype)) for x in (q, dy))

    def one(g, total_dq):
        mine, dmine = _own(layout, g, q), _own(layout, g, dy)
        top = jnp.full((1, queries), -jnp.inf, jnp.float32)
        for chunk in chunks:
            scores = dot(k_ref[0, chunk, :], mine, NT)
            if call.bias:
                table = bias[0, g if bias.shape[1] > 1 else 0, chunk, :].astype(jnp.float32)
                if partial:
                    table = jnp.where(jax.lax.broadcasted_iota(jnp.int32, (1, queries), 1) < tokens[0] - first, table, 0.0)
                scores = scores + table
            weights_of[chunk, :] = scores
            top = jnp.maximum(top, scores.max(0, keepdims=True))
        total, inner = jnp.zeros((1, queries), jnp.float32), jnp.zeros((1, queries), jnp.float32)
        for chunk in chunks:
            weights, dweights = jnp.exp(weights_of[chunk, :] - top), dot(v_ref[0, chunk, :], dmine, NT)
            if call.dropout:
                keep = _keep(call, seed, head_of + g, weights.shape, (first, chunk.start), 1, tokens)
                dweights = jnp.where(keep, dweights * (1 / (1 - call.dropout)), 0.0)
            weights_of[chunk, :], dweights_of[chunk, :] = weights, dweights
            total, inner = total + weights.sum(0, keepdims=True), inner + (weights * dweights).sum(0, keepdims=True)
        share = 1 / total
        inner = inner * share
        for chunk in chunks:
            weights = weights_of[chunk, :] * share
            dscores, dropped = weights * (dweights_of[chunk, :] - inner), weights
            if call.dropout:
                keep = _keep(call, seed, head_of + g, weights.shape, (first, chunk.start), 1, tokens)
                dropped = jnp.where(keep, weights * (1 / (1 - call.dropout)), 0.0)
            if moving[1]:
                dbias[0, g, chunk, :] = dscores
            dscores = dscores.astype(q.dtype)
            # Other heads' lanes of mine and dmine are zero, so these two can simply be added up.
            dv_sum[chunk, :] += dot(dropped.astype(dy.dtype), dmine, NN)
            dk_sum[chunk, :] += dot(dscores, mine, NN)
            total_dq = total_dq + _own(layout, g, dot(dscores, k_ref[0, chunk, :], TN))
        return total_dq

    last, over = divmod(tokens[0] - 1, queries)
    block_dq = (_each_head(layout, one, jnp.zeros(dy.shape, jnp.float32)) * layout.width**-0.5).astype(dq.dtype)

    @pl.when(block < last)
    def _():
        dq[pl.ds(first, queries), :] = block_dq

    @pl.when(block == last)
    def _():
        dq[last * queries :, :] = block_dq[: over + 1]
        dk[...], dv[...] = dk_sum[...].astype(dk.dtype), dv_sum[...].astype(dv.dtype)
        if moving[0]:
            doffset[0] = jnp.concatenate([x[...].astype(jnp.float32).sum(0, keepdims=True) for x in (dq, dk_sum, dv_sum)])
        copies = []
        for part, (made, start) in enumerate(zip((dq, dk, dv), firsts)):
            place = pl.ds(pl.multiple_of((start + lanes) * LANES, LANES), LANES)
            copies.append(pltpu.make_async_copy(made, outs[part if len(outs) > 1 else 0].at[example, :, place], sent.at[part]))
        for copy in copies:
            copy.start()
        for copy in copies:
            copy.wait()


def _specs(call: Call, layout: Layout, tokens, firsts, queries: int, buffers: int, bias, transposed: bool):
    """Block specifications of q, k, v, and of bias and seeds where there are."""
    once = {} if buffers == 2 else {"pipeline_mode": pl.Buffered(1)}
    specs = [pl.BlockSpec((1, queries, LANES), lambda b, g, r: (b, r, firsts[0] + g))]
    specs += [pl.BlockSpec((1, tokens[1], LANES), lambda b, g, r, first=first: (b, 0, first + g), **once) for first in firsts[1:]]
    if call.bias:
        count, per = bias.shape[0], layout.per if bias.shape[1] > 1 else 1
        number = lambda b: jax.lax.rem(b, jnp.int32(count)) if count > 1 else 0
        shape = (1, per, tokens[1], queries) if transposed else (1, per, queries, tokens[1])
        of_head = lambda g: g if bias.shape[1] > 1 else 0
        specs.append(pl.BlockSpec(shape, lambda b, g, r: (number(b), of_head(g), *((0, r) if transposed else (r, 0)))))
    if call.dropout:
        specs.append(pl.BlockSpec(memory_space=pltpu.SMEM))
    return specs


def _extras(call: Call, layout: Layout, operands, transposed: bool):
    found = [_bias(call, layout, operands)] if call.bias else []
    found = [bias.swapaxes(2, 3) for bias in found] if transposed else found
    return [*found, call.named(operands)["seed"]] if call.dropout else found


def _params():
    return pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


def forward(call: Call, *operands, interpret: bool = False):
    layout, tokens = _layout(call, operands), call.tokens(operands)
    queries, buffers = _plan(call, operands, False)
    arrays, firsts = _arranged(call, layout, operands)
    extras = _extras(call, layout, operands, False)
    out = like(operands[0], (operands[0].shape[0], tokens[0], layout.blocks * LANES))
    y = pl.pallas_call(
        functools.partial(_forward_kernel, call, layout, tokens),
        out_shape=out,
        cost_estimate=cost(call, operands, 2, (*operands, out)),
        grid=(out.shape[0], layout.blocks, -(-tokens[0] // queries)),
        in_specs=_specs(call, layout, tokens, firsts, queries, buffers, extras[0] if call.bias else None, False),
        out_specs=pl.BlockSpec((1, queries, LANES), lambda b, g, r: (b, r, g)),
        compiler_params=_params(),
        interpret=interpret,
        name="attention_long_forward",
    )(*arrays, *extras)
    return _cut(layout, y)


def backward(call: Call, which: tuple[int, ...], cotangent, *operands, interpret: bool = False):
    layout, tokens, like_it = _layout(call, operands), call.tokens(operands), functools.partial(like, operands[0])
    (b, *_), (q, t), dim = operands[0].shape, tokens, layout.blocks * LANES
    queries, buffers = _plan(call, operands, True)
    arrays, firsts = _arranged(call, layout, operands)
    extras = _extras(call, layout, operands, True)
    numbers = dict(zip((name for name in ("offset", "bias") if getattr(call, name)), call.shared))
    moving, joined = tuple(numbers.get(name, -1) in which for name in ("offset", "bias")), call.packed and layout.direct
    out_shape = [like_it((b, q, 3 * dim))] if joined else [like_it((b, n, dim)) for n in (q, t, t)]
    out_specs = [pl.BlockSpec(memory_space=pl.ANY)] * len(out_shape)
    if moving[1]:
        out_shape.insert(0, like_it((b, layout.blocks * layout.per, t, q), jnp.float32))
        out_specs.insert(0, pl.BlockSpec((1, layout.per, t, queries), lambda b, g, r: (b, g, 0, r)))
    if moving[0]:
        out_shape.insert(0, like_it((b, 3, dim), jnp.float32))
        out_specs.insert(0, pl.BlockSpec((1, 3, LANES), lambda b, g, r: (b, 0, g)))
    sums = [pltpu.VMEM((t, columns), jnp.float32) for columns in (LANES, LANES, queries, queries)]
    results = pl.pallas_call(
        functools.partial(_backward_kernel, call, layout, tokens, firsts, moving),
        out_shape=out_shape,
        cost_estimate=cost(call, operands, 5, (cotangent, *operands, *out_shape)),
        grid=(b, layout.blocks, -(-q // queries)),
        in_specs=[
            pl.BlockSpec((1, queries, LANES), lambda b, g, r: (b, r, g)),
            *_specs(call, layout, tokens, firsts, queries, buffers, extras[0] if call.bias else None, True),
        ],
        out_specs=out_specs,
        scratch_shapes=[*sums, *(pltpu.VMEM((n, LANES), operands[0].dtype) for n in (q, t, t)), pltpu.SemaphoreType.DMA((3,))],
        compiler_params=_params(),
        interpret=interpret,
        name="attention_long_backward",
    )(_padded(layout, cotangent), *arrays, *extras)
    own, results = results[: sum(moving)], results[sum(moving) :]
    made = list(results) if joined else [_cut(layout, x) for x in results]
    found = {0: made[0] if joined else jnp.concatenate(made, -1)} if call.packed else dict(enumerate(made))
    if moving[0]:
        summed = _cut(layout, own[0].reshape(call.groups, -1, 3, dim).sum(1))
        found[numbers["offset"]] = summed.reshape(call.groups, -1).astype(operands[numbers["offset"]].dtype)
    if moving[1]:
        found[numbers["bias"]] = _bias_gradient(call, own[-1], operands[numbers["bias"]])
    return tuple(found[i] for i in which)


def _bias_gradient(call: Call, each, bias):
    """Of every example's (b, heads, keys, queries) to what is shared: over the rounds through the biases, and over heads where they share one."""
    own = each[:, : call.heads].reshape(call.groups, -1, bias.shape[0], call.heads, *each.shape[2:]).sum(1)
    own = own.sum(2, keepdims=True) if bias.shape[1] == 1 else own
    return own.reshape(-1, *own.shape[2:]).swapaxes(2, 3).astype(bias.dtype)

"""The backward pass of sequences of 65 to 256 tokens, whose gradients do not fit the registers of one program: three kernels.

    queries   one head of an example, a block of queries after the other: their gradient, and of each row the softmax's sum and the mean of the
              weights' gradient
    keys      a block of keys of one head of an example: its gradient and its values', by those two numbers of each row
    bias      a block of queries and keys of one head of all examples that share a bias, in float32

The offset's gradient is the sum of what programs of the first two write beside the gradients.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxvision.kernels.attention.tpu import like
from jaxvision.kernels.attention.triton_heads import BLOCK, NN, NT, TN, Heads, Rounds, blocks, repeated, tiled, tiles


def _queries_kernel(heads: Heads, moving: bool, *refs):
    head, example, scale = pl.program_id(0), pl.program_id(1), heads.width**-0.5
    cotangent, refs = refs[0], refs[1:]
    outs = refs[-3 - moving :]
    keys = [(column, *(heads.load(refs, part, example, column, size) for part in (1, 2))) for column, size in tiles(heads.t)]

    def block(i, total):
        first = i * heads.size
        q, dy = heads.load(refs, 0, example, first, heads.size), heads.read(cotangent, 0, example, first, heads.size, heads.q)
        scores = [heads.scores(refs, q, k, first, column) for column, k, _ in keys]
        most = functools.reduce(jnp.maximum, (s.max(1) for s in scores))
        sums = most + jnp.log2(sum(jnp.exp2(s - most[:, None]).sum(1) for s in scores))
        weights = [jnp.exp2(s - sums[:, None]) for s in scores]
        # The mean of the weights' gradient is that of the result with the result, which needs no second tile beside a row's weights.
        dropped = [heads.dropped(refs, head, example, first, column, w)[0] for (column, *_), w in zip(keys, weights)]
        y = sum(heads.dot(w.astype(v.dtype), v, NN) for w, (*_, v) in zip(dropped, keys))
        mean, dq = (y * dy.astype(jnp.float32)).sum(1), 0.0
        for (column, k, v), w in zip(keys, weights):
            (dweights,) = heads.dropped(refs, head, example, first, column, heads.dot(dy, v, NT))
            dq = dq + heads.dot((w * (dweights - mean[:, None])).astype(q.dtype), k, NN)
        dq = dq * scale
        heads.store(outs, 0, example, first, dq)
        rows = tiled((heads.size,), 0) + first < heads.q
        for ref, value in zip(outs[-2:], (sums, mean)):
            plgpu.store(ref.at[example, pl.ds(first, heads.size)], value, mask=rows)
        return total + dq.sum(0)

    total = repeated(heads.number, block, jnp.zeros((heads.lanes,), jnp.float32))
    if moving:
        heads.store_sum(outs[1], 0, total)


def _gradients(heads: Heads, refs, rows, head, example, first, column, q, k, v, dy):
    """A tile's weights after dropout, and its scores' gradient. Rows that there are not have weight 0."""
    mask = tiled((heads.size,), 0) + first < heads.q
    sums, mean = (plgpu.load(ref.at[example, pl.ds(first, heads.size)], mask=mask, other=other) for ref, other in zip(rows, (jnp.inf, 0.0)))
    weights = jnp.exp2(heads.scores(refs, q, k, first, column) - sums[:, None])
    dropped, dweights = heads.dropped(refs, head, example, first, column, weights, heads.dot(dy, v, NT))
    return dropped, weights * (dweights - mean[:, None])


def _keys_kernel(heads: Heads, size: int, moving: bool, *refs):
    head, column, example = pl.program_id(0), pl.program_id(1) * size, pl.program_id(2)
    cotangent, rows, refs = refs[0], refs[1:3], refs[3:]
    k, v = (heads.load(refs, part, example, column, size) for part in (1, 2))

    def block(i, found):
        first = i * heads.size
        q, dy = heads.load(refs, 0, example, first, heads.size), heads.read(cotangent, 0, example, first, heads.size, heads.q)
        dropped, dscores = _gradients(heads, refs, rows, head, example, first, column, q, k, v, dy)
        return found[0] + heads.dot(dscores.astype(q.dtype), q, TN), found[1] + heads.dot(dropped.astype(dy.dtype), dy, TN)

    zero = jnp.zeros((size, heads.lanes), jnp.float32)
    dk, dv = repeated(heads.number, block, (zero, zero))
    found = dk * heads.width**-0.5, dv
    outs = refs[-1 - (not heads.call.packed) - moving :]
    for part, value in enumerate(found, 1):
        heads.store(outs if heads.call.packed else (None, *outs), part, example, column, value)
        if moving:
            heads.store_sum(outs[-1], part - 1, value.sum(0))


def _bias_kernel(heads: Heads, rounds: Rounds, columns: int, size: int, *refs):
    head, place, program = (pl.program_id(axis) for axis in range(3))
    first, column = jax.lax.div(place, jnp.int32(columns)) * heads.size, jax.lax.rem(place, jnp.int32(columns)) * size
    cotangent, rows, refs = refs[0], refs[1:3], refs[3:]

    def example(i, table):
        number = rounds.example(program, i)
        q, k, v = (heads.load(refs, part, number, *at) for part, at in enumerate(((first, heads.size), (column, size), (column, size))))
        dy = heads.read(cotangent, 0, number, first, heads.size, heads.q)
        return table + _gradients(heads, refs, rows, head, number, first, column, q, k, v, dy)[1]

    table = repeated(rounds.each, example, jnp.zeros((heads.size, size), jnp.float32))
    mask = (first + tiled(table.shape, 0) < heads.q) & (column + tiled(table.shape, 1) < heads.t)
    plgpu.store(refs[-1].at[pl.ds(first, heads.size), pl.ds(column, size)], table, mask=mask)


def backward(heads: Heads, which: tuple[int, ...], dy, operands) -> dict:
    """{number of an operand: its gradient}."""
    call, moving = heads.call, heads.moving(which)
    arrays, number_of = heads.arrays(operands), lambda example: jax.lax.rem(example, jnp.int32(heads.biases))
    whole = [like(x, heads.split(x).shape) for x in operands[: call.arrays]]
    row = like(dy, (heads.batch, call.heads, heads.q), jnp.float32)
    row_spec = pl.BlockSpec((heads.batch, None, -(-heads.q // BLOCK) * BLOCK), lambda head, *_: (0, head, 0))
    sums = lambda *shape: [like(dy, (heads.batch, *shape, call.heads, heads.width), jnp.float32)] if moving[0] else []
    sums_spec = lambda block, at: [pl.BlockSpec(block, at)] if moving[0] else []

    dq, *rest = pl.pallas_call(
        functools.partial(_queries_kernel, heads, moving[0]),
        out_shape=[whole[0], *sums(1), row, row],
        grid=(call.heads, heads.batch),
        in_specs=[heads.spec(dy), *heads.specs(operands, number_of)],
        out_specs=[heads.spec(whole[0]), *sums_spec((None, 1, None, heads.lanes), lambda head, b: (b, 0, head, 0)), row_spec, row_spec],
        **heads.options("attention_backward_queries", 4),
    )(dy, *arrays)
    rows, (size, columns) = rest[-2:], blocks(heads.t)

    # Where q, k and v are one array, the second kernel goes on with what the first has written.
    begun = [dq] if call.packed else []
    outs = whole if call.packed else whole[1:]
    of_keys = pl.pallas_call(
        functools.partial(_keys_kernel, heads, size, moving[0]),
        out_shape=[*outs, *sums(columns, 2)],
        grid=(call.heads, columns, heads.batch),
        in_specs=[heads.spec(dy), row_spec, row_spec, *heads.specs(operands, lambda _, example: number_of(example)), *map(heads.spec, begun)],
        out_specs=[
            *map(heads.spec, outs),
            *sums_spec((None, None, 2, None, heads.lanes), lambda head, block, b: (b, block, 0, head, 0)),
        ],
        input_output_aliases={3 + len(arrays): 0} if begun else {},
        **heads.options("attention_backward_keys", 4),
    )(dy, *rows, *arrays, *begun)
    found = dict(enumerate(of_keys[:1] if call.packed else (dq, *of_keys[:2])))

    if moving[0]:
        offset = operands[1]
        grouped = [x.reshape(call.groups, -1, *x.shape[-3:]).sum(1) for x in (rest[0], of_keys[-1])]
        found[1] = jnp.concatenate(grouped, 1).reshape(call.groups, offset.shape[1]).astype(offset.dtype)
    if moving[1]:
        rounds = Rounds(heads, heads.number * columns, True)
        parts = pl.pallas_call(
            functools.partial(_bias_kernel, heads, rounds, columns, size),
            out_shape=like(dy, (rounds.programs, call.heads, heads.q, heads.t), jnp.float32),
            grid=(call.heads, heads.number * columns, rounds.programs),
            in_specs=[heads.spec(dy), row_spec, row_spec, *heads.specs(operands, lambda _, program: rounds.bias(program))],
            out_specs=heads.table_spec(call.heads, lambda _, program: program),
            **heads.options("attention_backward_bias", 2),
        )(dy, *rows, *arrays)
        found[call.shared[-1]] = rounds.table(parts, heads.named["bias"])
    return found

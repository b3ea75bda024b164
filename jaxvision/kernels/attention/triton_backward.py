"""The backward pass of windows of up to 64 tokens: all gradients of one head of an example in one program, of which nothing is read or written twice.

A program goes through examples that share a bias, so that the bias's gradient grows in its registers and is written once, in float32.
"""

import functools

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxvision.kernels.attention.tpu import like
from jaxvision.kernels.attention.triton_heads import NN, NT, TN, Heads, Rounds, blocks, repeated, tiled


def _kernel(heads: Heads, rounds: Rounds, moving: tuple[bool, bool], *refs):
    """`moving`: whether gradients of offset and bias are asked for."""
    head, program, scale = pl.program_id(0), pl.program_id(1), heads.width**-0.5
    cotangent, refs, outs = refs[0], refs[1:], refs[-heads.call.arrays - sum(moving) :]
    keys = blocks(heads.t)[0]

    def example(i, sums):
        number = rounds.example(program, i)
        dy = heads.read(cotangent, 0, number, 0, heads.size, heads.q)
        q, k, v = (heads.load(refs, part, number, 0, size) for part, size in enumerate((heads.size, keys, keys)))
        scores = heads.scores(refs, q, k, 0, 0)
        weights = jnp.exp2(scores - scores.max(1)[:, None])
        weights = weights * (1 / weights.sum(1))[:, None]
        dropped, dweights = heads.dropped(refs, head, number, 0, 0, weights, heads.dot(dy, v, NT))
        dscores = weights * (dweights - (weights * dweights).sum(1)[:, None])
        narrow = dscores.astype(q.dtype)
        found = heads.dot(narrow, k, NN) * scale, heads.dot(narrow, q, TN) * scale, heads.dot(dropped.astype(dy.dtype), dy, TN)
        for part, value in enumerate(found):
            heads.store(outs, part, number, 0, value)
        offset, bias = sums
        return tuple(old + value.sum(0) for old, value in zip(offset, found)), bias + dscores if moving[1] else bias

    zeros = (jnp.zeros((heads.lanes,), jnp.float32),) * 3 if moving[0] else ()
    offset, bias = repeated(rounds.each, example, (zeros, jnp.zeros((heads.size, keys), jnp.float32) if moving[1] else 0.0))
    for part, value in enumerate(offset):
        heads.store_sum(outs[heads.call.arrays], part, value)
    if moving[1]:
        mask = (tiled(bias.shape, 0) < heads.q) & (tiled(bias.shape, 1) < heads.t)
        plgpu.store(outs[-1].at[pl.ds(0, heads.size), pl.ds(0, keys)], bias, mask=mask)


def backward(heads: Heads, which: tuple[int, ...], dy, operands) -> dict:
    """{number of an operand: its gradient}."""
    call, moving = heads.call, heads.moving(which)
    rounds = Rounds(heads, 1, any(moving))
    out_shape = [like(x, heads.split(x).shape) for x in operands[: call.arrays]]
    out_specs = [heads.spec(x) for x in out_shape]
    if moving[0]:
        out_shape.append(like(dy, (rounds.programs, 3, call.heads, heads.width), jnp.float32))
        out_specs.append(pl.BlockSpec((None, 3, None, heads.lanes), lambda head, program: (program, 0, head, 0)))
    if moving[1]:
        out_shape.append(like(dy, (rounds.programs, call.heads, heads.q, heads.t), jnp.float32))
        out_specs.append(heads.table_spec(call.heads, lambda program: program))
    results = pl.pallas_call(
        functools.partial(_kernel, heads, rounds, moving),
        out_shape=out_shape,
        grid=(call.heads, rounds.programs),
        in_specs=[heads.spec(dy), *heads.specs(operands, rounds.bias)],
        out_specs=out_specs,
        **heads.options("attention_backward", 5),
    )(dy, *heads.arrays(operands))
    found = dict(enumerate(results[: call.arrays]))
    if moving[0]:
        offset = operands[1]
        found[1] = results[call.arrays].reshape(call.groups, -1, offset.shape[1]).sum(1).astype(offset.dtype)
    if moving[1]:
        found[call.shared[-1]] = rounds.table(results[-1], heads.named["bias"])
    return found

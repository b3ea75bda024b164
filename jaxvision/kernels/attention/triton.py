"""Attention over short sequences on NVIDIA GPUs, with biases, dropout and any number of tokens: Triton's compiler through Pallas.

cuDNN's kernel takes neither such biases nor dropout as it is defined here. Here a program computes one head of one example: its keys and values are
read once, queries come in blocks, and scores never leave the multiprocessor. Triton's arrays have powers of two as sides, so keys are held as several
tiles (197 are 128, 64 and 16), which wastes at most 15 of them. Products are summed in float32, and those of float32 are not rounded to tf32.

The backward pass keeps nothing of the forward pass but its operands. Windows of up to 64 tokens are one kernel (`triton_backward`), which reads every
operand once and writes every gradient once; longer sequences go block by block through three (`triton_blocks`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxvision.kernels.attention import triton_backward, triton_blocks
from jaxvision.kernels.attention.call import Call
from jaxvision.kernels.attention.gpu import recent
from jaxvision.kernels.attention.tpu import dim_of, like
from jaxvision.kernels.attention.triton_heads import BLOCK, LEAST, NN, Heads, repeated, tiles

# Below, padding is most of the work; beyond, a row of scores does not fit the registers.
FEWEST, MOST_TOKENS, MOST_WIDTH = 16, 256, 128
# Of a head's keys: with values and blocks of queries, up to six times as much is in the 227 KB of shared memory at once.
MOST_BYTES = 36 * 2**10


def covers(call: Call, *operands) -> bool:
    dim, lengths, offset = dim_of(call, operands), call.tokens(operands), call.named(operands)["offset"]
    same = call.packed or operands[1].shape[2] == operands[2].shape[2] == dim
    alike = len({x.dtype for x in (*operands[: call.arrays], *([] if offset is None else [offset]))}) == 1
    known = operands[0].dtype in (jnp.bfloat16, jnp.float16, jnp.float32) and LEAST <= dim // call.heads <= MOST_WIDTH
    # float32 is held as two numbers of tf32.
    size = {2: 2, 4: 8}.get(operands[0].dtype.itemsize, 0)
    held = sum(number for _, number in tiles(lengths[1])) * pl.next_power_of_2(dim // call.heads) * size
    return same and alike and known and held <= MOST_BYTES and min(lengths) >= FEWEST and max(lengths) <= MOST_TOKENS and recent()


def _forward_kernel(heads: Heads, *refs):
    head, example = pl.program_id(0), pl.program_id(1)
    keys = [(column, *(heads.load(refs, part, example, column, size) for part in (1, 2))) for column, size in tiles(heads.t)]

    def block(i, _):
        first = i * heads.size
        q = heads.load(refs, 0, example, first, heads.size)
        scores = [heads.scores(refs, q, k, first, column) for column, k, _ in keys]
        most = functools.reduce(jnp.maximum, (s.max(1) for s in scores))
        weights = [jnp.exp2(s - most[:, None]) for s in scores]
        total = sum(w.sum(1) for w in weights)
        weights = [heads.dropped(refs, head, example, first, column, w)[0] for (column, *_), w in zip(keys, weights)]
        y = sum(heads.dot(w.astype(v.dtype), v, NN) for w, (*_, v) in zip(weights, keys)) * (1 / total)[:, None]
        mask = heads.inside(first, heads.size, heads.q)
        plgpu.store(refs[-1].at[example, pl.ds(first, heads.size), np.int32(0), :], y.astype(refs[-1].dtype), mask=mask)
        return 0

    repeated(heads.number, block, 0)


def forward(call: Call, *operands, interpret: bool = False):
    heads = Heads(call, operands, interpret)
    out = like(operands[0], (heads.batch, heads.q, 1, call.heads, heads.width))
    y = pl.pallas_call(
        functools.partial(_forward_kernel, heads),
        out_shape=out,
        grid=(call.heads, heads.batch),
        in_specs=heads.specs(operands, lambda example: jax.lax.rem(example, jnp.int32(heads.biases))),
        out_specs=heads.spec(out),
        **heads.options("attention_forward", 2),
    )(*heads.arrays(operands))
    return y.reshape(heads.batch, heads.q, -1)


def backward(call: Call, which: tuple[int, ...], cotangent, *operands, interpret: bool = False):
    heads = Heads(call, operands, interpret)
    form = triton_backward if max(heads.q, heads.t) <= BLOCK else triton_blocks
    dy = cotangent.reshape(heads.batch, heads.q, 1, call.heads, heads.width)
    results = form.backward(heads, which, dy, operands)
    return tuple(results[i].reshape(-1, *operands[i].shape[1:]) for i in which)

"""Attention on TPUs over sequences of which not even a block of queries' scores fit on chip: JAX's own flash attention, keys block by block.

It takes no bias here, which would have to be given for every example. Sequences are padded to whole blocks, whose keys are told apart as a segment of
their own. Its backward pass wants the sums of the forward pass, which is run again.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import flash_attention as flash

from jaxvision.kernels.attention import reference
from jaxvision.kernels.attention.call import Call
from jaxvision.kernels.attention.tpu import LANES, dim_of

BLOCK = 512


def covers(call: Call, *operands) -> bool:
    dim = dim_of(call, operands)
    same = call.packed or operands[1].shape[2] == operands[2].shape[2] == dim
    known = same and operands[0].dtype in (jnp.bfloat16, jnp.float32) and 16 <= dim // call.heads <= LANES
    return known and not call.bias and not call.dropout and min(call.tokens(operands)) >= BLOCK


def _attend(call: Call, *operands):
    (q, t), width = call.tokens(operands), dim_of(call, operands) // call.heads
    rows, columns = (-(-n // BLOCK) * BLOCK for n in (q, t))

    def arranged(x, length):
        x = x.reshape(*x.shape[:2], call.heads, width).swapaxes(1, 2)
        return jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0)))

    parts = [arranged(x, length) for x, length in zip(call.parts(operands), (rows, columns, columns))]
    segments = None
    if columns > t:
        number = lambda n, count: jnp.broadcast_to(jnp.where(jnp.arange(n) < count, 0, 1).astype(jnp.int32), (parts[0].shape[0], n))
        # Queries of the padding look at keys of the padding, so that no row is empty.
        segments = flash.SegmentIds(number(rows, q), number(columns, t))
    sizes = flash.BlockSizes(*(BLOCK, BLOCK, BLOCK, 1), *(BLOCK,) * 7)
    y = flash.flash_attention(*parts, segment_ids=segments, sm_scale=width**-0.5, block_sizes=sizes)
    return y[:, :, :q].swapaxes(1, 2).reshape(y.shape[0], q, -1)


def forward(call: Call, *operands, interpret: bool = False):
    # Where it is asked for on another platform: this kernel cannot be interpreted while a program is lowered.
    return reference.forward(call, *operands) if interpret else _attend(call, *operands)


def backward(call: Call, which: tuple[int, ...], cotangent, *operands, interpret: bool = False):
    if interpret:
        return tuple(reference.backward(call, which, cotangent, *operands))
    gradients = jax.vjp(functools.partial(_attend, call), *operands)[1](cotangent)
    return tuple(gradients[i] for i in which)

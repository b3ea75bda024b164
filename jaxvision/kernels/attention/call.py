"""One call of attention: what is static about it, and its dropout."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxvision.kernels.sharded import Cut

ONE_DEVICE = Cut()


@dataclasses.dataclass(frozen=True)
class Call:
    """Operands are arrays in this order: `qkv` (b, t, 3 heads width) if `packed`, else q, k and v (b, tokens, heads width); then, where there are
    such, the bias (n, 1 or heads, q, t), of which example i takes number i modulo n, and the seeds of dropout (b,) uint32.

    Attributes:
      heads: attention heads, side by side in the last axis.
      packed, bias: which operands there are.
      dropout: share of the weights that is zeroed; 0 for none, and then there are no seeds.
      groups: runs of neighbouring examples (made by `vmap`), each of which has a gradient of the bias of its own.
      cut: how the mesh around the call cuts the batch.
      implementation: "reference", "tpu" or "cuda"; None takes the one for the platform that the program is compiled for.
    """

    heads: int
    packed: bool
    bias: bool
    dropout: float = 0.0
    groups: int = 1
    cut: Cut = ONE_DEVICE
    implementation: str | None = None

    @property
    def arrays(self) -> int:
        """How many operands q, k and v are."""
        return 1 if self.packed else 3

    def tokens(self, operands) -> tuple[int, int]:
        """(queries, keys) of an example."""
        return (operands[0].shape[1],) * 2 if self.packed else (operands[0].shape[1], operands[1].shape[1])

    def parts(self, operands):
        """((q, k, v), bias or None, seeds or None), each of q, k, v (b, tokens, heads width)."""
        bias = operands[self.arrays] if self.bias else None
        seed = operands[-1] if self.dropout else None
        if not self.packed:
            return tuple(operands[:3]), bias, seed
        return tuple(jnp.split(operands[0], 3, axis=-1)), bias, seed


def keep_mask(seed, shape, rate: float):
    """Which weights (b, heads, q, t) dropout keeps: a function of an example's seed and of the place alone, the same on every platform."""
    place = [jax.lax.broadcasted_iota(jnp.uint32, shape[1:], axis) for axis in range(3)]
    return kept(seed[:, None, None, None], (place[0] * shape[2] + place[1]) * shape[3] + place[2], rate)


def kept(seed, number, rate: float):
    """Murmur3's finalizer of seed + number, compared with the rate."""
    x = (seed + number * jnp.uint32(0x9E3779B1)).astype(jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    # 31 bits compared as signed integers, which every vector unit can.
    return (x >> 1).astype(jnp.int32) >= jnp.int32(round(rate * 2**31))

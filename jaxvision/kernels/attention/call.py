"""One call of attention: what is static about it, and its dropout."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxvision.kernels.sharded import Cut

ONE_DEVICE = Cut()


@dataclasses.dataclass(frozen=True)
class Call:
    """Operands are arrays in this order:

        qkv (b, t, 3 heads width) if `packed`, else q, k and v (b, tokens, heads width);
        if `offset`, what is added to every token's qkv first (1, 3 heads width);
        if `bias`, the bias (n, 1 or heads, q, t), of which example i takes number i modulo n;
        if `dropout`, seeds (b,) uint32.

    Attributes:
      heads: attention heads, side by side in the last axis.
      dropout: share of the weights that is zeroed; 0 for none.
      groups: runs of neighbouring examples (made by `vmap`), each of which has gradients of offset and bias of its own.
      cut: how the mesh around the call cuts the batch.
      implementation: "reference", "tpu", "cuda" or "triton"; None takes the one for the platform that the program is compiled for.
    """

    heads: int
    packed: bool
    offset: bool
    bias: bool
    dropout: float = 0.0
    groups: int = 1
    cut: Cut = ONE_DEVICE
    implementation: str | None = None

    @property
    def arrays(self) -> int:
        """How many operands q, k and v are."""
        return 1 if self.packed else 3

    @property
    def shared(self) -> tuple[int, ...]:
        """Numbers of the operands whose first axis is not the batch's: offset and bias."""
        return tuple(range(self.arrays, self.arrays + self.offset + self.bias))

    def named(self, operands) -> dict[str, Any]:
        """{"offset", "bias", "seed": operand or None}."""
        rest = iter(operands[self.arrays :])
        return {name: next(rest) if there else None for name, there in (("offset", self.offset), ("bias", self.bias), ("seed", self.dropout))}

    def tokens(self, operands) -> tuple[int, int]:
        """(queries, keys) of an example."""
        return (operands[0].shape[1],) * 2 if self.packed else (operands[0].shape[1], operands[1].shape[1])

    def parts(self, operands):
        """q, k, v, each (b, tokens, heads width)."""
        if not self.packed:
            return tuple(operands[:3])
        qkv = operands[0] + operands[1] if self.offset else operands[0]
        return tuple(jnp.split(qkv, 3, axis=-1))


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

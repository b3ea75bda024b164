"""What a kernel's benchmark is: calls with the shapes that models really use, declared by each op in its `bench.py`."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of an op.

    Attributes:
      name: where it occurs, "ViT-S/16, 197 tokens".
      call: (*arrays, implementation) -> an array or a tree of arrays; `implementation` is "reference", or None for the op's own choice.
      arguments: (batch, dtype) -> ShapeDtypeStructs of `arrays`. Batch and dtype are the benchmark's: float32 on CPU, bfloat16 on accelerators.
      flops: batch -> operations of one forward call, two a multiply-add; None: those of convolutions and matrix products in the reference.
        To be given where the reference computes more than the op needs.
      gradients: also compare forward and backward together, by all floating-point arguments.
    """

    name: str
    call: Callable
    arguments: Callable[[int, jnp.dtype], tuple[jax.ShapeDtypeStruct, ...]]
    flops: Callable[[int], float] | None = None
    gradients: bool = True


def spec(*shape: int, dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
    """The type of one argument."""
    return jax.ShapeDtypeStruct(shape, dtype)

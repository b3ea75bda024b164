"""Running a deep stack of equal blocks: one after the other, or one traced block scanned over stacked parameters."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxvision.nn.regularize import drop_path_rates


def make_blocks(block: type[nn.Module], depth: int, *, remat: bool, scan: bool, **fields) -> nn.Module | list[nn.Module]:
    """The blocks of a stack, for an attribute `blocks` set in `setup`: a list, or one module when they are scanned over.

    `block` is called as block(x, rate, train); `remat` recomputes it in the backward pass.
    """
    if remat:
        block = nn.remat(block, static_argnums=(3,), prevent_cse=not scan)
    return block(**fields) if scan else [block(**fields) for _ in range(depth)]


def run_blocks(
    blocks: nn.Module | Sequence[nn.Module], x: Float[Array, "b t d"], *, depth: int, drop_path: float, train: bool, keep: Sequence[int] = ()
) -> tuple[Float[Array, "b t d"], list[Float[Array, "b t d"]]]:
    """The output of the last block, and those of the blocks numbered `keep`; drop-path rates rise linearly to `drop_path`."""
    rates = drop_path_rates(drop_path, depth) if drop_path else (None,) * depth
    if isinstance(blocks, nn.Module):
        def body(block, x, rate):
            x = block(x, rate, train)
            return x, (x if keep else None)

        scanned = nn.scan(body, variable_axes={"params": 0, "taps": 0}, split_rngs={"params": True, "dropout": True}, length=depth)
        x, kept = scanned(blocks, x, jnp.asarray(rates) if drop_path else None)
        return x, [kept[i] for i in keep]
    kept = {}
    for i, (block, rate) in enumerate(zip(blocks, rates)):
        x = kept[i] = block(x, rate, train)
    return x, [kept[i] for i in keep]


def quarters(depth: int) -> tuple[int, ...]:
    """Numbers of the blocks that end each quarter of a stack, fewer when there are fewer than four blocks: 12 -> 2, 5, 8, 11."""
    return tuple(sorted({max(-(-depth * quarter // 4), 1) - 1 for quarter in (1, 2, 3, 4)}))

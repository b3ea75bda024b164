"""The two forms of a deep stack: one subtree a block (`blocks_0`, `blocks_1`, …), or one subtree `blocks` whose leaves have a leading layer axis.

The second is what a module with `scan=True` has; every file of weights has the first.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def stack_blocks(tree: dict[str, Any], name: str = "blocks") -> dict[str, Any]:
    """`tree` (params, or their moments) with `<name>_0`, `<name>_1`, … stacked into one `<name>`."""
    blocks = {int(match[1]): tree[key] for key in tree if (match := re.fullmatch(rf"{name}_(\d+)", key))}
    rest = {key: value for key, value in tree.items() if not re.fullmatch(rf"{name}_\d+", key)}
    return {**rest, name: jax.tree.map(_stack, *(blocks[i] for i in range(len(blocks))))} if blocks else rest


def unstack_blocks(tree: dict[str, Any], name: str = "blocks") -> dict[str, Any]:
    """The inverse of `stack_blocks`."""
    if name not in tree:
        return dict(tree)
    depth = jax.tree.leaves(tree[name])[0].shape[0]
    blocks = {f"{name}_{i}": jax.tree.map(lambda leaf: leaf[i], tree[name]) for i in range(depth)}
    return {**{key: value for key, value in tree.items() if key != name}, **blocks}


def _stack(*leaves):
    library = np if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp
    return library.stack(leaves)

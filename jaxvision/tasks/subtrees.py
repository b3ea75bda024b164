"""Branches of a tree of parameters, named by prefixes of '/'-joined paths: what a player moves, what a file gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxvision.errors import ConfigError


def owns(subtree: Sequence[str], name: str) -> bool:
    return not subtree or any(name == prefix or name.startswith(prefix.rstrip("/") + "/") for prefix in subtree)


def select(tree: Any, subtree: Sequence[str], prefix: str = "") -> Any:
    """The branches of a nested dict whose names begin with one of `subtree`."""
    if not subtree:
        return tree
    selected = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if owns(subtree, name):
            selected[key] = value
        elif isinstance(value, Mapping) and any(wanted.startswith(name + "/") for wanted in subtree):
            selected[key] = select(value, subtree, name + "/")
    return selected


def overlay(tree: Any, partial: Any) -> Any:
    """`tree` with the leaves of `partial` in their places. Raises ConfigError for a leaf that has no place or another shape."""
    if not isinstance(partial, Mapping):
        if jnp.shape(partial) != jnp.shape(tree):
            raise ConfigError(f"a given parameter has shape {jnp.shape(partial)}, the model's has {jnp.shape(tree)}")
        return jnp.asarray(partial, tree.dtype)
    for key in partial:
        if key not in tree:
            raise ConfigError(f"a given parameter {key!r} has no place in the model, which has {', '.join(tree)}")
    return {key: overlay(value, partial[key]) if key in partial else value for key, value in tree.items()}

"""Names of leaves: the one spelling of a leaf's place that rules, masks and tables match against."""

from typing import Any

import jax


def path_name(path: tuple) -> str:
    """'/'-joined names of a jax key path: "blocks_0/attn/qkv/kernel"."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def named_leaves(tree: Any) -> dict[str, Any]:
    """{'/'-joined path: leaf} of a tree, in its own order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def map_named(function, tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` whose function also gets the leaf's name: function(name, leaf, *leaves of rest)."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(path_name(path), *leaves), tree, *rest)

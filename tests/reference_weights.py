"""Golden tests without stored weights: `fill` gives every array of a reference the same values here and in the process that ran the reference.

A golden file keeps only the input and the outputs. The generator fills the published model's own arrays by their own names and layout; `filled`
lists those names without that code, by running our checkpoint rules backwards over our shapes, fills them, and loads them forwards.
"""

import zlib

import jax
import numpy as np

from jaxvision.models import registry, rules
from jaxvision.trees import named_leaves


def fill(name: str, shape: tuple[int, ...], last_axis_is_output: bool = False) -> np.ndarray:
    """The values of the reference's array `name`; `last_axis_is_output` for JAX layouts ((…, out)), else torch's ((out, …))."""
    shape = tuple(shape)
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) >= 2:
        fan = np.prod(shape[:-1] if last_axis_is_output else shape[1:])
        return (z / np.sqrt(fan)).astype(np.float32)
    if len(shape) == 1:
        if name.endswith("var"):
            return (1 + 0.1 * np.abs(z)).astype(np.float32)
        if name.endswith(("weight", "scale", "gamma")):
            return (1 + 0.1 * z).astype(np.float32)
        return (0.1 * z).astype(np.float32)
    return np.float32(1 + 0.1 * z)


def filled(model, table, layout: str = "torch", channels: int = 3):
    """Our variables of `model`, carrying what `fill` gives to the reference's arrays; `table` is the model file's CHECKPOINT[layout]."""
    shapes = registry.shapes_of(model, channels)
    out = {}
    for collection, tree in shapes.items():
        leaves = named_leaves(tree)
        resolved = rules.entries({path: leaf.shape for path, leaf in leaves.items()}, table, layout)
        values = {}
        for path, leaf in leaves.items():
            if path not in resolved:
                raise AssertionError(f"{path} is in no checkpoint: give it a value in the test")
            entry = resolved[path]
            foreign = entry.save(np.zeros(leaf.shape, np.float32))
            arrays = [fill(name, array.shape, layout == "npz") for name, array in zip(entry.names, foreign, strict=True)]
            values[path] = entry.load(arrays, leaf.shape)
            assert values[path].shape == leaf.shape, (path, values[path].shape, leaf.shape)
        out[collection] = jax.tree_util.tree_unflatten(jax.tree.structure(tree), [values[path] for path in leaves])
    return out


def relative_error(ours, theirs) -> float:
    """max |a - b| / max |b|."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())

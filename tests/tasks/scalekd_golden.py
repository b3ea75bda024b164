"""What the published modules gave for weights of `tests/reference_weights.fill`, and the same weights in our layout."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.trees import named_leaves
from tests.reference_weights import fill

GOLDEN = np.load(pathlib.Path(__file__).resolve().parents[1] / "golden" / "scalekd.npz")
NAMES = {
    "pos_attention/q": "pos_attention.q", "pos_attention/k": "pos_attention.k", "pos_attention/v": "pos_attention.v",
    "pos_attention/proj": "pos_attention.proj", "proj_student_0": "proj_student.0", "proj_student_1": "proj_student.1", "proj_pos_0": "proj_pos.0",
    "ffn/fc1": "ffn.layers.0.0", "ffn/fc2": "ffn.layers.1", "norm": "norm",
}  # fmt: skip
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def filled(module, called, prefix: str):
    """Variables of a projector as the reference had them under `prefix`."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *(jnp.zeros(array.shape) for array in called)))
    values = {}
    for collection, tree in shapes.items():
        for name, leaf in named_leaves(tree).items():
            if name == "pos_embed":
                value = fill(f"{prefix}.pos_embed", tuple(leaf.shape[i] for i in (0, 3, 1, 2))).transpose(0, 2, 3, 1)
            elif name == "query":
                value = fill(f"{prefix}.query.weight", leaf.shape)
            else:
                path, _, last = name.rpartition("/")
                key = f"{prefix}.{NAMES[path]}.{LEAVES[last]}"
                shape = leaf.shape
                if last == "kernel":
                    conv = len(shape) == 4
                    value = fill(key, (shape[3], shape[2], *shape[:2]) if conv else shape[::-1])
                    value = value.transpose(2, 3, 1, 0) if conv else value.T
                else:
                    value = fill(key, shape)
            assert value.shape == leaf.shape, (name, value.shape, leaf.shape)
            values[collection, name] = value
    return {
        collection: jax.tree_util.tree_unflatten(jax.tree.structure(tree), [values[collection, name] for name in named_leaves(tree)])
        for collection, tree in shapes.items()
    }

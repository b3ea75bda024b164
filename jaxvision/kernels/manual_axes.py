"""Values inside `shard_map`: the mesh axes along which they differ."""

import jax


def varying(value) -> frozenset[str]:
    """The mesh axes of an enclosing `shard_map` along which a value differs; JAX 0.10.2 moved them from `vma` into `manual_axis_type`."""
    kind = jax.typeof(value)
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying


def alike(*values):
    """Values that vary over the same mesh axes, as an op's maps require: so the gradient of what a `shard_map` shares is summed over them."""
    axes = frozenset().union(*map(varying, values))
    missing = [tuple(sorted(axes - varying(v))) for v in values]
    return [jax.lax.pcast(v, absent, to="varying") if absent else v for v, absent in zip(values, missing)]

"""Device meshes and where every leaf of the training state lies on them.

Axes: "data" and "fsdp" cut the batch (fsdp also the parameters), "tensor" cuts widths. All axes are `AxisType.Auto`: XLA places the collectives.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ConfigError
from jaxvision.trees import map_named

BATCH_AXES = ("data", "fsdp")
# Leaves below this many elements are kept whole on every device: gathering them would cost more than it saves.
SMALLEST_SHARDED = 2**14
# Column-parallel then row-parallel, so that one all-reduce a branch is enough (Megatron-LM, arXiv 1909.08053).
TENSOR_RULES = (
    (r"(qkv|fc1)/kernel$", (None, "tensor")),
    (r"(qkv|fc1)/bias$", ("tensor",)),
    (r"(proj|fc2)/kernel$", ("tensor", None)),
)


def make_mesh(mesh_config: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `mesh.{data,fsdp,tensor}`; one of them may be -1 for "all that are left". Raises ConfigError when they do not fit the devices."""
    devices = list(jax.devices() if devices is None else devices)
    sizes = {axis: int(mesh_config[axis]) for axis in ("data", "fsdp", "tensor")}
    given = math.prod(size for size in sizes.values() if size != -1)
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or len(devices) % given or (not free and given > len(devices)):
        raise ConfigError(
            f"mesh {sizes} does not fit {len(devices)} devices: the product must divide their number, and at most one axis may be -1 (the rest)"
        )
    if free:
        sizes[free[0]] = len(devices) // given
    count = math.prod(sizes.values())
    if count < len(devices) and jax.process_count() > 1:
        raise ConfigError(f"mesh {sizes} uses {count} of {len(devices)} devices: with several processes it must use all")
    if len(devices) > count:
        devices = devices[:count]
    shape = tuple(sizes.values())
    if devices[0].platform == "tpu":
        return jax.make_mesh(shape, tuple(sizes), axis_types=(AxisType.Auto,) * 3, devices=devices)
    return Mesh(np.asarray(devices).reshape(shape), tuple(sizes), axis_types=(AxisType.Auto,) * 3)


def batch_shards(mesh: Mesh) -> int:
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch(batch_size: int, mesh: Mesh, accumulate: int = 1, name: str = "batch_size") -> None:
    """Raises ConfigError unless every device gets the same number of examples of every micro-batch."""
    shards = batch_shards(mesh) * accumulate
    if batch_size % shards:
        lower = batch_size // shards * shards
        near = " or ".join(str(n) for n in (lower, lower + shards) if n > 0)
        parts = f"mesh.data x mesh.fsdp = {batch_shards(mesh)}" + (f" times optim.accumulate = {accumulate}" if accumulate > 1 else "")
        raise ConfigError(f"{name}={batch_size} is not divisible by {parts}; {near} would be")


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh, rules: Sequence[tuple[str, Sequence | None]]) -> P:
    axes: list[Any] = [None] * len(shape)
    for pattern, wanted in rules:
        if wanted is None and re.search(pattern, name):
            return P()
        # A stacked leaf (scan over blocks) has a leading layer axis: rules speak of the last axes.
        if wanted is not None and re.search(pattern, name) and len(wanted) <= len(shape):
            axes[len(shape) - len(wanted) :] = list(wanted)
            break
    axes = [axis if axis is None or shape[i] % mesh.shape[axis] == 0 else None for i, axis in enumerate(axes)]
    fsdp = mesh.shape["fsdp"]
    if fsdp > 1 and "fsdp" not in axes and math.prod(shape) >= SMALLEST_SHARDED:
        free = [i for i, axis in enumerate(axes) if axis is None and shape[i] % fsdp == 0]
        if free:
            axes[max(free, key=lambda i: shape[i])] = "fsdp"
    return P(*axes)


def state_shardings(shapes: Any, mesh: Mesh, rules: Sequence[tuple[str, Sequence | None]] = ()) -> Any:
    """A NamedSharding for each leaf of a state's shapes.

    `rules` are (regular expression on the '/'-joined name, axes of the last dimensions), tried before the tensor-parallel defaults; what is
    left goes to fsdp by its largest divisible axis. None instead of axes keeps a leaf whole on every device: (r"^frozen/teacher/", None), or
    (r"^(params|opt_state|extra)/", None) where the teacher alone is cut. Optimizer slots and averages have their parameter's shape and name in
    theirs, so they follow it.
    """
    rules = (*rules, *(TENSOR_RULES if mesh.shape["tensor"] > 1 else ()))
    for pattern, axes in rules:
        for axis in axes or ():
            if axis is not None and axis not in mesh.shape:
                raise ConfigError(f"mesh.rules: axis {axis!r} for {pattern!r} is none of {', '.join(mesh.shape)}")
    return map_named(lambda name, leaf: NamedSharding(mesh, _spec(name, leaf.shape, mesh, rules)), shapes)

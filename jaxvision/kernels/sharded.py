"""Kernels that the compiler cannot cut along a mesh, run on each shard of the batch by itself."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

# Mesh axes that cut the batch.
BATCH_AXES = ("data", "fsdp")


class Cut(NamedTuple):
    """The mesh around a call and its axes that cut the batch; no mesh where one device, or a `shard_map` around over all axes, has all there is."""

    mesh: AbstractMesh | None = None
    axes: tuple[str, ...] = ()

    @property
    def free(self) -> set[str]:
        """The axes that no enclosing `shard_map` has cut; a kernel has to be inside one for every axis, also for those of one device."""
        return {axis for axis, kind in zip(self.mesh.axis_names, self.mesh.axis_types) if kind != AxisType.Manual}

    @property
    def shards(self) -> int:
        return math.prod(self.mesh.shape[axis] for axis in self.axes)

    def fits(self, batch: int) -> bool:
        """Whether the batch can be cut, and nothing else is: the kernels know no other axes."""
        if self.mesh is None:
            return True
        others = (self.mesh.shape[axis] for axis in self.free if axis not in self.axes)
        return isinstance(batch, int) and batch % self.shards == 0 and all(n == 1 for n in others)

    def local(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one shard, for a batch that `fits`."""
        return tuple(shape) if self.mesh is None or not isinstance(shape[0], int) else (shape[0] // self.shards, *shape[1:])

    def over(self, run: Callable, split: Sequence[bool], summed: bool = False) -> Callable:
        """`run` on each shard; `split`: for each argument, whether its first axis is the batch's. `summed`: the result is a sum over the batch."""
        if self.mesh is None:
            return run
        part = lambda *arrays: jax.lax.psum(run(*arrays), self.axes) if summed else run(*arrays)
        specs = tuple(P(self.axes) if cut else P() for cut in split)
        return self.mapped(part, specs, P() if summed else P(self.axes))

    def mapped(self, run: Callable, in_specs, out_specs) -> Callable:
        return jax.shard_map(run, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, axis_names=self.free, check_vma=False)


def context_cut() -> Cut:
    """How the mesh around this call (`jax.set_mesh`) cuts the batch. Axes of an enclosing `shard_map` are cut already."""
    mesh = jax.sharding.get_abstract_mesh()
    free = Cut(mesh).free
    wide = {axis for axis in free if mesh.shape[axis] > 1}
    inside = free and len(free) < len(mesh.axis_names)
    return Cut(mesh, tuple(axis for axis in BATCH_AXES if axis in wide)) if wide or inside else Cut()

"""Slices of TPUs that need not be there, to compile for."""

import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from jaxvision.train.preflight.topology import open_topology


def slice_mesh(chips: str) -> Mesh:
    """All chips of a slice ("v4:2x2x1") along the axis "data"."""
    open_topology("v5e:1x1")  # loads the compiler, which knows chips that preflight has no data sheet of
    return Mesh(np.asarray(topologies.get_topology_desc(chips, "tpu").devices).reshape(-1), ("data",), axis_types=(AxisType.Auto,))

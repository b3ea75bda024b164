"""OTOv2's zero-invariant groups (Chen et al. 2023, arXiv 2303.06862): the parameters that have to vanish together for a unit to be cut.

The groups are those of compress/graph.py: of each unit all parameters that write it (output channels of convolutions and dense layers, their biases,
norms), and none that read it. Each group is penalized and projected as a whole by optim/dhspg.py; what is exactly zero at the end is cut here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvision.compress.cut import dead
from jaxvision.compress.graph import Graph
from jaxvision.optim.dhspg import Partition
from jaxvision.trees import named_leaves


def partition(graph: Graph, params: Any) -> Partition:
    """The groups of a network as the optimizer takes them, numbered through the components in their order. `params`: arrays or shapes."""
    leaves = named_leaves(params)
    axes: dict[str, tuple[int, np.ndarray]] = {}
    start = 0
    for component in graph.components:
        for place in component.written:
            name = place.leaf.removeprefix("params/")
            axis, groups = axes.setdefault(name, (place.axis, np.full(leaves[name].shape[place.axis], -1)))
            if axis != place.axis:
                raise ValueError(f"{name} would belong to groups along the axes {axis} and {place.axis}")
            groups[place.index] = start + np.arange(component.units)[:, None]
        start += component.units
    return Partition(axes, tuple(component.units for component in graph.components))


def alive(variables: Any, graph: Graph) -> dict[str, np.ndarray]:
    """{component: which units to keep}: those that are not dead, and where all are, the first."""
    keep = {component.name: ~dead(variables, component) for component in graph.components}
    for kept in keep.values():
        kept[0] |= not kept.any()
    return keep


def lowest(norms: Mapping[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    """{component: which units to keep} when this share of all units, those of the lowest norm, goes; each component keeps its largest."""
    ranked = np.sort(np.concatenate(list(norms.values())))
    threshold = ranked[int(share * len(ranked))]
    keep = {name: values >= threshold for name, values in norms.items()}
    for name, values in norms.items():
        keep[name][np.argmax(values)] = True
    return keep


def group_norms(variables: Any, graph: Graph) -> dict[str, np.ndarray]:
    """{component: (units,) Euclidean norms of the groups, divided by the root of their sizes}."""
    leaves, norms = named_leaves(variables), {}
    for component in graph.components:
        squares, count = np.zeros(component.units), 0
        for place in component.written:
            leaf = np.moveaxis(np.asarray(leaves[place.leaf], np.float64), place.axis, 0)
            rows = np.square(leaf.reshape(leaf.shape[0], -1)).sum(1)
            squares += rows[place.index].sum(1)
            count += place.index.shape[1] * (leaf.size // leaf.shape[0])
        norms[component.name] = np.sqrt(squares / count)
    return norms

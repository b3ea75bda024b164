"""Cutting units out of a network's variables, and growing them: the same function with fewer or more channels.

A cut leaves entries out; where the units that go are dead (their zero-invariant group is zero), the smaller network computes what the larger did.
Growing is the inverse (Net2WiderNet, Chen et al. 2016, arXiv 1511.05641): new units are copies of old ones, and what layers read of a unit is divided
by how often it is there, which keeps the function whatever the activations.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvision.compress.graph import Component, Graph, Place
from jaxvision.errors import ModelError
from jaxvision.trees import map_named, named_leaves

Entries = Mapping[str, Mapping[int, np.ndarray]]


def shapes_after(graph: Graph, shapes: Any, units: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """{leaf: shape} where components have other numbers of units; components that are not named stay."""
    after = {name: list(leaf.shape) for name, leaf in named_leaves(shapes).items()}
    for component in graph.components:
        for place in component.places:
            after[place.leaf][place.axis] += (units.get(component.name, component.units) - component.units) * place.index.shape[1]
    return {name: tuple(shape) for name, shape in after.items()}


def kept_entries(graph: Graph, shapes: Any, keep: Mapping[str, np.ndarray]) -> dict[str, dict[int, np.ndarray]]:
    """{leaf: {axis: entries that stay}}, in order, of every axis that a cut touches.

    keep: {component: (units,) bool}; components that are not named stay whole. Raises ModelError where a component would lose all its units.
    """
    masks: dict[str, dict[int, np.ndarray]] = {}
    leaves = named_leaves(shapes)
    for name, kept in keep.items():
        component, kept = graph[name], np.asarray(kept, bool)
        if kept.shape != (component.units,) or not kept.any():
            raise ModelError(f"of the {component.units} units of {name} at least one has to stay; got a mask {kept.shape} with {kept.sum()} set")
        for place in component.places if not kept.all() else ():
            mask = masks.setdefault(place.leaf, {}).setdefault(place.axis, np.ones(leaves[place.leaf].shape[place.axis], bool))
            mask[place.index[~kept]] = False
    return {leaf: {axis: np.flatnonzero(mask) for axis, mask in axes.items()} for leaf, axes in masks.items()}


def take(variables: Any, entries: Entries) -> Any:
    """The variables with these entries of these axes alone, as numpy arrays."""

    def pick(name, leaf):
        leaf = np.asarray(leaf)
        for axis, index in entries.get(name, {}).items():
            leaf = np.take(leaf, np.asarray(index), axis=int(axis))
        return leaf

    return map_named(pick, variables)


def cut(variables: Any, graph: Graph, keep: Mapping[str, np.ndarray]) -> Any:
    """The variables of the smaller network; `keep` as in `kept_entries`."""
    return take(variables, kept_entries(graph, variables, keep))


def grow(variables: Any, graph: Graph, units: Mapping[str, int], seed: int = 0, noise: float = 0.0) -> Any:
    """The variables of a network with more units a component, computing the same function.

    Args:
      units: {component: new number}, at least the old one.
      noise: what the written parameters of copies are disturbed by, as a share of their own deviation, so that training tells them apart.

    Raises ModelError for fewer units than there are, or where copies have no place of their own.
    """
    random = np.random.RandomState(seed)
    leaves = {name: np.array(leaf) for name, leaf in named_leaves(variables).items()}
    # All axes are laid out by their old entries first: several components may lie in one.
    layouts: dict[tuple[str, int], list[tuple[Place, np.ndarray]]] = {}
    for name, count in units.items():
        component = graph[name]
        if count < component.units:
            raise ModelError(f"{name} has {component.units} units and grows to at least as many, not to {count}; use cut")
        source = np.concatenate([np.arange(component.units), random.randint(0, component.units, count - component.units)])
        for place in component.places:
            layouts.setdefault((place.leaf, place.axis), []).append((place, source))
    for (leaf, axis), parts in layouts.items():
        size = leaves[leaf].shape[axis]
        order, factor, copied = [[i] for i in range(size)], np.ones(size), []
        for place, source in parts:
            sections = _sections(place)
            counts = np.bincount(source)
            if place.reads:
                factor[place.index] /= counts[:, None] if place.index.ndim == 2 else counts
            for section in sections:  # (units, run): the places of one run of each unit
                order[section[-1, -1]] = [*order[section[-1, -1]], *section[source[len(section) :]].ravel()]
        index = np.concatenate([np.asarray(entry, int) for entry in order])
        fresh = np.concatenate([np.arange(len(entry)) > 0 for entry in order])
        copied = np.take(leaves[leaf], index, axis)
        shape = [-1 if i == axis else 1 for i in range(copied.ndim)]
        copied = copied * factor[index].reshape(shape).astype(copied.dtype)
        if noise and leaf.startswith("params/") and not parts[0][0].reads:
            disturb = noise * leaves[leaf].std() * random.standard_normal(copied.shape)
            copied = copied + (disturb * fresh.reshape(shape)).astype(copied.dtype)
        leaves[leaf] = copied
    return map_named(lambda name, _: leaves[name], variables)


def _sections(place: Place) -> list[np.ndarray]:
    """A place's entries as sections (units, run), each lying in one piece in unit order: where further units go is then at its end."""
    index = np.sort(place.index, axis=1)
    breaks = np.flatnonzero(np.diff(index[0]) > 1) + 1 if len(index) > 1 else np.arange(1, index.shape[1])
    sections = np.split(index, breaks, axis=1)
    for section in sections:
        flat = section.ravel()
        if (np.diff(flat) != 1).any():
            raise ModelError(f"units of {place.leaf} do not lie side by side, so there is no place for more of them")
    return sections


def dead(variables: Any, component: Component) -> np.ndarray:
    """(units,) bool: which units' zero-invariant groups are exactly zero."""
    leaves = named_leaves(variables)
    result = np.ones(component.units, bool)
    for place in component.written:
        leaf = np.moveaxis(np.asarray(leaves[place.leaf]), place.axis, 0)
        zero = ~leaf.reshape(leaf.shape[0], -1).any(1)
        result &= zero[place.index].all(1)
    return result


def zeroed(variables: Any, component: Component, units: np.ndarray) -> Any:
    """The variables with the zero-invariant groups of these units (bool) set to zero."""
    places = {place.leaf: place for place in component.written}

    def clear(name, leaf):
        if name not in places:
            return leaf
        leaf, place = np.array(leaf), places[name]
        np.moveaxis(leaf, place.axis, 0)[place.index[np.asarray(units, bool)].ravel()] = 0
        return leaf

    return map_named(clear, variables)

"""A network of other widths as a linen module: which layers have which sizes, found from shapes, kept as a table, built by `resized`.

The table {path of a layer: {name: value}} is what layers are answered that ask for their sizes (nn/resizing.py). It is a field of the resized module,
so that it can be initialized, trained, saved in timm's layout and exported like any other, and is plain values for configs and architecture.json.
"""

import functools
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from jaxvision.compress.cut import shapes_after
from jaxvision.compress.graph import Graph, trace
from jaxvision.errors import ModelError
from jaxvision.models.registry import shapes_of
from jaxvision.nn.resizing import recorded
from jaxvision.nn.resizing import resized as within
from jaxvision.trees import named_leaves

# As a field of a module and a value of a config: ((path, ((name, value), …)), …), sorted.
Layers = tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]


@functools.cache
def _resized_class(cls: type[nn.Module]) -> type[nn.Module]:
    class Resized(cls):
        architecture: Layers = ()

        @nn.nowrap
        def apply(self, *args, **keywords):
            with within(as_table(self.architecture)):
                return super().apply(*args, **keywords)

        @nn.nowrap
        def init_with_output(self, *args, **keywords):
            with within(as_table(self.architecture)):
                return super().init_with_output(*args, **keywords)

    # The tables of checkpoints and sizes are looked up in the module of the class.
    Resized.__module__, Resized.__name__, Resized.__qualname__ = cls.__module__, cls.__name__, cls.__qualname__
    return Resized


def resized(model: nn.Module, layers: Layers) -> nn.Module:
    """`model` with these layers of other sizes: a module of a sub-class of its class. No layers: the model as it is."""
    if not layers:
        return model
    cls = type(model) if hasattr(model, "architecture") else _resized_class(type(model))
    names = [name for name in model.__dataclass_fields__ if name not in ("parent", "name", "architecture")]
    return cls(**{name: getattr(model, name) for name in names}, architecture=as_layers(layers))


def as_table(layers: Layers) -> dict[str, dict[str, Any]]:
    return {path: dict(values) for path, values in layers}


def as_layers(table: Any) -> Layers:
    """The sorted tuples of a table, or of what JSON made of them."""
    items = table.items() if isinstance(table, Mapping) else table
    rows = ((path, values.items() if isinstance(values, Mapping) else values) for path, values in items)
    return tuple(sorted((path, tuple(sorted((name, value) for name, value in values))) for path, values in rows))


def _sizes(
    record: Mapping[str, Mapping[str, Any]], before: Layers, old: Mapping[str, tuple[int, ...]], new: Mapping[str, tuple[int, ...]]
) -> Layers:
    """The table of a network whose leaves have the shapes `new`, from what the layers of the old one, whose table is `before`, asked for."""
    table: dict[str, dict[str, Any]] = as_table(before)
    for path, values in record.items():
        here = table.get(path, {}) | {name: value for name, value in values.items() if isinstance(value, bool)}
        kernel = f"params/{path}/kernel"
        if "features" in values and kernel in new and (features := new[kernel][-1]) != values["features"]:
            here["features"] = features
        if values.get("groups", 1) > 1 and (groups := new[kernel][-1] * values["groups"] // old[kernel][-1]) != values["groups"]:
            here["groups"] = groups
        if "heads" in values and new[(qkv := f"params/{path}/qkv/kernel")] != old[qkv]:
            heads = new[qkv][-1] * values["heads"] // old[qkv][-1]
            if heads != values["heads"]:
                here["heads"] = heads
        if here:
            table[path] = here
    return as_layers(table)


def _asked(model: nn.Module, channels: int) -> tuple[dict[str, dict[str, Any]], Any]:
    with recorded() as record:
        shapes = shapes_of(model, channels)
    return record, shapes


def _held(model: nn.Module, layers: Layers, new: Mapping[str, tuple[int, ...]], channels: int) -> Layers:
    """`layers`, and the widths that the model would make from another's, which was cut: EfficientNet's squeezed ones are a quarter of the input's."""
    record, _ = _asked(resized(model, layers), channels)
    table = as_table(layers)
    for path, values in record.items():
        if "features" in values and (kernel := new.get(f"params/{path}/kernel")) is not None and kernel[-1] != values["features"]:
            table[path] = table.get(path, {}) | {"features": kernel[-1]}
    return as_layers(table)


def _misfits(model: nn.Module, layers: Layers, wanted: Mapping[str, tuple[int, ...]], channels: int) -> list[str]:
    got = {name: leaf.shape for name, leaf in named_leaves(shapes_of(resized(model, layers), channels)).items()}
    return [name for name in wanted if got.get(name) != wanted[name]] + [name for name in got if name not in wanted]


def describe(model: nn.Module, graph: Graph, units: Mapping[str, int], channels: int = 3) -> Layers:
    """The layers of `model` with these numbers of units a component, checked by building it. Raises ModelError where the model fixes a width."""
    record, shapes = _asked(model, channels)
    old = {name: leaf.shape for name, leaf in named_leaves(shapes).items()}
    new = shapes_after(graph, shapes, units)
    layers = _held(model, _sizes(record, getattr(model, "architecture", ()), old, new), new, channels)
    if bad := _misfits(model, layers, new, channels):
        raise ModelError(f"{type(model).__name__} fixes the width of {bad[0]} itself, so it cannot be cut there; leave its component out")
    return layers


def prunable(model: nn.Module, channels: int = 3) -> Graph:
    """The graph of `model`, of components whose widths its layers take from outside. What a model fixes itself is found by trying, and left out."""
    graph = trace(model, channels)
    record, shapes = _asked(model, channels)
    old = {name: leaf.shape for name, leaf in named_leaves(shapes).items()}
    components = tuple(component for component in graph.components if component.units > 1)
    while components:
        graph = Graph(components, graph.positions)
        new = shapes_after(graph, shapes, {component.name: component.units - 1 for component in components})
        layers = _held(model, _sizes(record, getattr(model, "architecture", ()), old, new), new, channels)
        bad = set(_misfits(model, layers, new, channels))
        fixed = {component.name for component in components if bad & {place.leaf for place in component.places}}
        if bad and not fixed:
            raise ModelError(f"{type(model).__name__} has other layers when it is narrower ({sorted(bad)[0]}): it cannot be cut")
        if not fixed:
            return graph
        components = tuple(component for component in components if component.name not in fixed)
    return Graph((), graph.positions)

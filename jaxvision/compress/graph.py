"""Which channels of a network belong together, found in its traced program (the dependency graph of OTOv2, arXiv 2303.06862, and of PreCrop).

The program that `model.apply` traces to is walked once with labels in place of numbers: every entry of every axis of every parameter begins with a
label of its own, and each primitive says which labels it ties. A sum ties the channels of its terms, a convolution those of its input to its
kernel's, a concatenation lays labels side by side, a reshape carries them along, attention ties q, k and v of a head. What no rule is written for
pins its channels, so that a network with something unknown in it is cut less and never wrongly. Classes of labels that are not pinned are the units
that can be cut: an entry of an axis of each of some parameters.

Beside labels the walk carries what a unit's channel holds once its parameters are zero: a number, or unknown. `relu(0 * scale + 0)` is 0, `exp(0)`
is 1. Where a layer reads a channel that would not hold 0, the channel is pinned: removing it would change the output. So every unit is a
zero-invariant group of the paper, whatever the activation. We differ in that channels are tied one by one instead of layer by layer, which needs
no kinds of nodes (stem, joint, accessory) and no special case for concatenation, flattening, or weights used twice.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxvision.compress.labels import PINNED, Block, Labels, Value, pinned_blocks
from jaxvision.compress.rules import CALLS, ELEMENTWISE, RULES
from jaxvision.models.registry import shapes_of
from jaxvision.trees import named_leaves


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a component lies in one axis of one leaf.

    Attributes:
      leaf: '/'-joined name, collection included. axis: from 0.
      index: (units, entries): the entries of the axis that belong to each unit.
      reads: the axis is summed over, as a layer's input channels are; it does not have to be zero for the unit to be dead.
    """

    leaf: str
    axis: int
    index: np.ndarray
    reads: bool


@dataclasses.dataclass(frozen=True)
class Component:
    """Units (channels, heads, groups of channels) that lie in the same axes of the same leaves. `name`: of the first layer that writes them."""

    name: str
    units: int
    places: tuple[Place, ...]

    @property
    def written(self) -> tuple[Place, ...]:
        """The parameters that are zero where a unit is dead: its zero-invariant group."""
        return tuple(place for place in self.places if not place.reads and place.leaf.startswith("params/"))


@dataclasses.dataclass(frozen=True)
class Graph:
    """What a network's program says.

    Attributes:
      components: in the order of the parameters.
      positions: {kernel's leaf: output positions (rows x columns, tokens) of one image}, of every kernel that multiplies what depends on the input.
    """

    components: tuple[Component, ...]
    positions: Mapping[str, int]

    def __getitem__(self, name: str) -> Component:
        return next(component for component in self.components if component.name == name)

    @property
    def units(self) -> int:
        return sum(component.units for component in self.components)


def trace(model: nn.Module, channels: int = 3) -> Graph:
    """The graph of `model` in inference at its own image size; nothing is computed."""
    shapes = shapes_of(model, channels)
    variables = {name: tree for name, tree in shapes.items() if name in ("params", "batch_stats")}
    image = jax.ShapeDtypeStruct((1, *model.image_size, channels), jnp.float32)
    return graph_of(lambda variables, image: model.apply(variables, image, train=False), variables, image)


def graph_of(function: Callable, variables: Any, *inputs: Any) -> Graph:
    """The graph of `function(variables, *inputs)`; shapes are enough. Units may lie in the leaves below "params" and "batch_stats"."""
    # The batch axis carries nothing, so one example says all.
    program = jax.make_jaxpr(function)(variables, *inputs)
    walk = _Walk(named_leaves(variables))
    given = [*walk.leaves, *(walk.pinned(np.shape(leaf), moving=True) for leaf in jax.tree.leaves(inputs))]
    for value in walk.run(program.jaxpr, [walk.constant(c) for c in program.consts], given):
        walk.pin(value)
    return walk.graph()


class _Walk:
    def __init__(self, leaves: Mapping[str, Any]):
        self.labels, self.names = Labels(), list(leaves)
        self.leaves, self.owner = [], [(-1, -1)]
        self.reads: set[tuple[int, int]] = set()
        self.writes: set[tuple[int, int]] = set()
        self.positions: dict[str, int] = {}
        self.known: dict[Any, float | None] = {}
        for number, (name, leaf) in enumerate(leaves.items()):
            blocks = []
            for axis, size in enumerate(leaf.shape):
                if size > 1:
                    blocks.append(Block((axis,), self.labels.fresh((size,)), 0.0 if name.startswith("params/") else None))
                    self.owner += [(number, axis)] * size
            self.leaves.append(Value(tuple(leaf.shape), blocks))

    # --- values ---

    def pinned(self, shape, moving: bool = False) -> Value:
        """A value none of whose axes can be cut."""
        return Value(tuple(shape), pinned_blocks(shape, range(len(shape))), moving)

    def constant(self, array: Any) -> Value:
        array = np.asarray(array) if not jax.dtypes.issubdtype(getattr(array, "dtype", np.float32), jax.dtypes.prng_key) else np.zeros(())
        if array.size and (array == array.ravel()[0]).all():
            return Value(array.shape, [], constant=float(array.ravel()[0]))
        return self.pinned(array.shape)

    def pin(self, value: Value, axes=None) -> None:
        for block in value.blocks:
            if axes is None or set(block.axes) & set(axes):
                self.labels.pin(block.labels)

    def joined(self, block: Block, axes: tuple[int, ...]) -> Block:
        """The block along `axes` of its own alone: labels along the others are tied."""
        kept = [block.axes.index(axis) for axis in axes]
        others = [i for i in range(len(block.axes)) if i not in kept]
        moved = np.transpose(block.labels, kept + others).reshape(*(block.labels.shape[i] for i in kept), -1)
        self.labels.unite(moved, moved[..., :1])
        return Block(axes, moved[..., 0], block.dead)

    # --- the walk ---

    def run(self, jaxpr, consts: list[Value], given: list[Value]) -> list[Value]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *given]))
        read = lambda v: self.constant(v.val) if hasattr(v, "val") else values[v]
        for equation in jaxpr.eqns:
            operands = [read(v) for v in equation.invars]
            outs = [tuple(v.aval.shape) for v in equation.outvars]
            name = equation.primitive.name
            inner = next((equation.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in equation.params), None)
            if inner is not None and name in CALLS:
                closed = hasattr(inner, "consts")
                results = self.run(inner.jaxpr if closed else inner, [self.constant(c) for c in inner.consts] if closed else [], operands)
            elif name in ELEMENTWISE:
                results = [self.elementwise(equation, operands, outs[0])]
            elif name in RULES:
                results = RULES[name](self, equation.params, operands, outs)
            else:
                results = self.unknown(operands, outs)
            moving = any(operand.moving for operand in operands)
            for result in results:
                result.moving = result.moving or moving
            values.update(zip(equation.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def unknown(self, operands: list[Value], outs: list[tuple[int, ...]]) -> list[Value]:
        """What a primitive without a rule makes: nothing of it can be cut."""
        for operand in operands:
            self.pin(operand)
        return [self.pinned(shape) for shape in outs]

    def elementwise(self, equation, operands: list[Value], shape) -> Value:
        full = [operand for operand in operands if len(operand.shape) == len(shape)]
        if any(operand.shape and len(operand.shape) != len(shape) for operand in operands):
            return self.unknown(operands, [shape])[0]
        if all(operand.constant is not None for operand in operands):
            return Value(shape, [], constant=self.evaluate(equation, [operand.constant for operand in operands]))
        blocks = []
        for axes in _together([block.axes for operand in full for block in operand.blocks]):
            parts = [[block for block in operand.blocks if set(block.axes) <= set(axes)] for operand in full]
            whole = next((part[0] for part in parts if len(part) == 1 and part[0].axes == axes), None)
            if whole is None or any(len(part) > 1 for part in parts):
                for block in (block for part in parts for block in part):
                    self.labels.pin(block.labels)
                blocks += pinned_blocks(shape, axes)
                continue
            of_operand = dict(zip(map(id, full), parts))
            for part in parts:
                if part:
                    other = np.transpose(part[0].labels, np.argsort(part[0].axes))
                    other = other.reshape([shape[axis] if axis in part[0].axes else 1 for axis in axes])
                    self.labels.unite(whole.labels, other)
            dead = [part[0].dead if (part := of_operand.get(id(operand))) else operand.constant for operand in operands]
            blocks.append(Block(axes, whole.labels, self.evaluate(equation, dead)))
        if any(operand.moving for operand in operands):
            self.mark(self.writes, *(operand for operand in operands if not operand.moving))
        return Value(shape, blocks)

    def evaluate(self, equation, numbers: list[float | None]) -> float | None:
        """What the primitive makes of these numbers; None where it depends on one that is unknown."""
        name = equation.primitive.name
        if (name == "mul" and 0.0 in numbers) or (name == "div" and numbers[0] == 0.0):
            return 0.0  # of finite numbers
        if name == "select_n" and None not in numbers[1:] and len(set(numbers[1:])) == 1:
            return numbers[1]
        if None in numbers:
            return None
        key = (name, tuple(numbers), str(equation.params), tuple(str(v.aval.dtype) for v in equation.invars))
        if key not in self.known:
            with jax.ensure_compile_time_eval():
                arrays = [jnp.asarray(number, v.aval.dtype) for number, v in zip(numbers, equation.invars)]
                self.known[key] = float(equation.primitive.bind(*arrays, **equation.params))
        return self.known[key]

    def mark(self, kind: set, *values: Value, axes=None) -> None:
        """Notes that these axes of parameters are read (summed over) or written (a result's own)."""
        for value in values:
            for block in value.blocks:
                if axes is None or set(block.axes) & set(axes):
                    kind.update(self.owner[label] if label < len(self.owner) else (-1, -1) for label in np.unique(block.labels))

    def contract(self, a: Value, a_axis: int, b: Value, b_axis: int) -> None:
        """Ties an axis of two values that is multiplied and summed over."""
        blocks = [value.block_of(axis) for value, axis in ((a, a_axis), (b, b_axis))]
        ties = [self.joined(block, (axis,)) if block is not None and len(block.axes) > 1 else block for block, axis in zip(blocks, (a_axis, b_axis))]
        if None in ties:
            for block in filter(None, ties):
                self.labels.pin(block.labels)
            return
        for value, axis in ((a, a_axis), (b, b_axis)):
            if not value.moving:
                self.mark(self.reads, value, axes=(axis,))
        self.labels.unite(ties[0].labels, ties[1].labels)
        if not any(value.moving and block.dead == 0.0 for value, block in zip((a, b), ties)):
            self.labels.pin(ties[0].labels)

    def free(self, value: Value, axes: dict[int, int]) -> list[Block]:
        """The value's blocks under new numbers of axes; axes that are left out are gone, and what they were tied to along is joined."""
        blocks = []
        for block in value.blocks:
            kept = tuple(axis for axis in block.axes if axis in axes)
            if kept:
                block = block if kept == block.axes else self.joined(block, kept)
                blocks.append(block.renumbered(axes))
        if not value.moving:
            self.mark(self.writes, value, axes=tuple(axes))
        return blocks

    # --- the result ---

    def graph(self) -> Graph:
        found: dict[int, dict[tuple[int, int], list[int]]] = {}
        for number, value in enumerate(self.leaves):
            for block in value.blocks:
                for i, root in enumerate(self.labels.roots(block.labels)):
                    if root != PINNED:
                        found.setdefault(int(root), {}).setdefault((number, block.axes[0]), []).append(i)
        groups: dict[tuple, list[dict]] = {}
        for unit in found.values():
            groups.setdefault(tuple((key, len(entries)) for key, entries in sorted(unit.items())), []).append(unit)
        components = []
        for shape, units in groups.items():
            keys = [key for key, _ in shape]
            reads = {key: key in self.reads and key not in self.writes for key in keys}
            written = [number for number, axis in keys if not reads[number, axis] and self.names[number].startswith("params/")]
            if not written or not any(reads.values()):
                continue  # parameters that nothing reads, or that read what is not theirs to cut
            places = tuple(Place(self.names[n], axis, np.asarray([u[n, axis] for u in units]), reads[n, axis]) for n, axis in keys)
            first = next((number for number in written if len(self.leaves[number].shape) > 1), written[0])
            name = self.names[first].removeprefix("params/").rpartition("/")[0]
            twice = sum(component.name.split("#")[0] == name for component in components)
            components.append(Component(f"{name}#{twice + 1}" if twice else name, len(units), places))
        return Graph(tuple(components), dict(self.positions))


def _together(sets: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Axes that blocks connect, as sorted tuples."""
    groups: list[set[int]] = []
    for axes in sets:
        touching = [group for group in groups if group & set(axes)]
        groups = [group for group in groups if not group & set(axes)] + [set(axes).union(*touching)]
    return [tuple(sorted(group)) for group in groups]

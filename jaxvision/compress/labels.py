"""Names of channels: which entries of which axes stand or fall together, kept as classes of a union-find, and values that carry such names."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

PINNED = 0  # the class of all that cannot be cut


class Labels:
    """A union-find over integers. Class 0 holds what is pinned."""

    def __init__(self):
        self.parent = [PINNED]

    def fresh(self, shape: Sequence[int]) -> np.ndarray:
        """New labels, each a class of its own."""
        first, count = len(self.parent), int(np.prod(shape, dtype=int))
        self.parent.extend(range(first, first + count))
        return np.arange(first, first + count).reshape(shape)

    def root(self, label: int) -> int:
        parent = self.parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def unite(self, a: np.ndarray, b: np.ndarray) -> None:
        """Entry by entry, with broadcasting. The smaller label is a class's name, so class 0 stays class 0."""
        for one, other in {(int(x), int(y)) for x, y in zip(*(v.ravel() for v in np.broadcast_arrays(a, b))) if x != y}:
            one, other = self.root(one), self.root(other)
            self.parent[max(one, other)] = min(one, other)

    def pin(self, labels: np.ndarray) -> None:
        self.unite(labels, np.int64(PINNED))

    def roots(self, labels: np.ndarray) -> np.ndarray:
        return np.asarray([self.root(int(label)) for label in labels.ravel()], int).reshape(labels.shape)


@dataclasses.dataclass
class Block:
    """Labels along one axis, or along several that one axis was split into.

    Attributes:
      axes: of the value, increasing. labels: an array with these axes.
      dead: what the value is where a unit's parameters are zero; None where that is unknown.
    """

    axes: tuple[int, ...]
    labels: np.ndarray
    dead: float | None = None

    @property
    def is_pinned(self) -> bool:
        return not self.labels.any()

    def renumbered(self, axes: Mapping[int, int]) -> "Block":
        """The same block where axis i is called axes[i]."""
        new = [axes[axis] for axis in self.axes]
        order = sorted(range(len(new)), key=new.__getitem__)
        return Block(tuple(new[i] for i in order), np.transpose(self.labels, order), self.dead)


@dataclasses.dataclass
class Value:
    """An array of a traced program.

    Attributes:
      blocks: labels of its axes; along an axis without one it is uniform.
      moving: whether it depends on the input.
      constant: its one number where it is the same everywhere and known.
    """

    shape: tuple[int, ...]
    blocks: list[Block]
    moving: bool = False
    constant: float | None = None

    def block_of(self, axis: int) -> Block | None:
        return next((block for block in self.blocks if axis in block.axes), None)


def pinned_blocks(shape: Sequence[int], axes: Sequence[int]) -> list[Block]:
    """Blocks that say that these axes cannot be cut."""
    return [Block((axis,), np.full(shape[axis], PINNED)) for axis in axes if shape[axis] > 1]

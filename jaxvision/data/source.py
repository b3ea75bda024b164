"""What a data source is: examples by number, not yet decoded, with names, classes and a cheap identity.

A source is random access: `record(i)` may be called in any order, from any thread and in any process, and gives the same answer each time. Sources
whose examples fit into memory also offer them as whole arrays (`columns`), from which a batch is one gather per column.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxvision.errors import ConfigError, DataError


class Unreadable(DataError):
    """One record that cannot be read or decoded. The policy `corrupt` decides whether it ends the run or is skipped and counted."""


@runtime_checkable
class Source(Protocol):
    """Examples by number.

    Attributes:
      classes: names of the classes by label; () when unlabelled.
      columns: name -> array with the example axis first, for sources in memory; None otherwise.
      fingerprint: a cheap identity (names, sizes, count), by which a resume on other data can be reported.
    """

    classes: tuple[str, ...]
    columns: Mapping[str, np.ndarray] | None
    fingerprint: str

    def __len__(self) -> int: ...

    def record(self, i: int) -> dict[str, Any]:
        """{"image": encoded bytes, or a decoded (H, W) or (H, W, C) array, "label": int, …}. Raises Unreadable."""
        ...

    def name_of(self, i: int) -> str:
        """A file name, or "digits[12]": for errors and for rows of predictions."""
        ...


class ArraySource:
    """A source in memory.

    Args:
      name: used in names of examples ("digits[12]").
      columns: arrays with the example axis first; `image` (N, H, W, C) or (N, H, W), which becomes (N, H, W, 1).
      classes: names by label.

    Raises:
      DataError: columns of different lengths, none, or labels that have no class.
    """

    def __init__(self, name: str, columns: Mapping[str, np.ndarray], classes: Sequence[str] = ()):
        columns = {key: np.ascontiguousarray(value) for key, value in columns.items()}
        if "image" in columns and columns["image"].ndim == 3:
            columns["image"] = columns["image"][..., None]
        lengths = {key: len(value) for key, value in columns.items()}
        if len(set(lengths.values())) != 1 or not min(lengths.values()):
            raise DataError(f"{name}: columns must have one length, and not be empty; they have {lengths}")
        self.name, self.columns, self.classes = name, columns, tuple(classes)
        label = columns.get("label")
        if label is not None and self.classes and label.ndim == 1 and not (label.min() >= 0 and label.max() < len(self.classes)):
            raise DataError(f"{name}: labels reach from {label.min()} to {label.max()}, but there are {len(self.classes)} classes")
        self._length = next(iter(lengths.values()))
        sums = [f"{key}{value.shape}{value.dtype}{zlib.crc32(value.data):08x}" for key, value in sorted(columns.items())]
        self.fingerprint = f"{name}:{self._length}:{zlib.crc32(' '.join((*sums, *self.classes)).encode()):08x}"

    def __len__(self) -> int:
        return self._length

    def record(self, i: int) -> dict[str, Any]:
        return {key: value[i] for key, value in self.columns.items()}

    def name_of(self, i: int) -> str:
        return f"{self.name}[{i}]"


def stratified_split(label: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the examples to train with and of `count` to test with: disjoint, sorted, every class in proportion; by seed alone.

    Each class gives the whole part of its share; what is missing to `count` comes from the classes with the largest remainders, so a class is off
    its exact share by less than one example.
    """
    label = np.asarray(label)
    if not 0 < count < len(label):
        raise ConfigError(f"data.test_share leaves {len(label) - count} of {len(label)} examples to train and {count} to test; both need at least 1")
    _, inverse, sizes = np.unique(label, return_inverse=True, return_counts=True)
    exact = sizes * (count / len(label))
    take = np.floor(exact).astype(int)
    take[np.argsort(take - exact, kind="stable")[: count - take.sum()]] += 1
    # random_raw is one of the few numpy streams that are promised never to change, so a split is the same under every release.
    lots = np.random.PCG64(np.random.SeedSequence([seed, 2])).random_raw(len(label))
    order = np.lexsort((lots, inverse))
    first = np.cumsum(sizes) - sizes
    rank = np.empty(len(label), int)
    rank[order] = np.arange(len(label)) - np.repeat(first, sizes)
    test = rank < take[inverse]
    return np.flatnonzero(~test), np.flatnonzero(test)

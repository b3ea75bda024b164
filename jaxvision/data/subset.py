"""A part of a source, as a source."""

from typing import Any

import numpy as np

from jaxvision.data import order
from jaxvision.data.source import ArraySource, Source
from jaxvision.errors import ConfigError


class Subset:
    """The examples `numbers` of a source that is not in memory."""

    columns = None

    def __init__(self, source: Source, numbers: np.ndarray):
        self.source, self.numbers, self.classes = source, np.asarray(numbers), source.classes
        self.fingerprint = f"{source.fingerprint}[{len(numbers)}]"

    def __len__(self) -> int:
        return len(self.numbers)

    def record(self, i: int) -> dict[str, Any]:
        return self.source.record(int(self.numbers[i]))

    def name_of(self, i: int) -> str:
        return self.source.name_of(int(self.numbers[i]))


def limited(source: Source, count: int, seed: int = 0) -> Source:
    """`count` examples drawn without replacement by a seed (the first ones would often be of one class), in the source's order.

    Raises ConfigError when the source has fewer.
    """
    if not 0 < count <= len(source):
        raise ConfigError(f"data.limit={count}: the source has {len(source)} examples; take 1 to {len(source)}, or None for all")
    numbers = np.sort(order.permutation(len(source), seed, 0)[:count])
    if source.columns is None:
        return Subset(source, numbers)
    return ArraySource(getattr(source, "name", "subset"), {key: value[numbers] for key, value in source.columns.items()}, source.classes)

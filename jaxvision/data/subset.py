"""A part of a source, as a source."""

from typing import Any

import numpy as np

from jaxvision.data import order
from jaxvision.data.source import ArraySource, Source, stratified_split
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


def limited(source: Source, count: int | float, seed: int = 0) -> Source:
    """`count` examples drawn without replacement by a seed (the first ones would often be of one class), in the source's order.

    A count below 1 is a share of them ("1 % of the labels"); of a source in memory each class gives its share of that.

    Raises ConfigError when the source has fewer.
    """
    if isinstance(count, float) and 0 < count < 1:
        label, share = (source.columns or {}).get("label"), max(1, round(count * len(source)))
        if label is not None and label.ndim == 1:
            numbers = stratified_split(label, share, seed)[1]
            return ArraySource(getattr(source, "name", "subset"), {key: value[numbers] for key, value in source.columns.items()}, source.classes)
        count = share
    if not (isinstance(count, int) and 0 < count <= len(source)):
        raise ConfigError(f"data.limit={count}: the source has {len(source)} examples; take 1 to {len(source)}, a share below 1, or None for all")
    numbers = np.sort(order.permutation(len(source), seed, 0)[:count])
    if source.columns is None:
        return Subset(source, numbers)
    return ArraySource(getattr(source, "name", "subset"), {key: value[numbers] for key, value in source.columns.items()}, source.classes)

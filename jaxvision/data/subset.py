"""A part of a source, as a source."""

import re
from typing import Any

import numpy as np

from jaxvision.data import order
from jaxvision.data.source import ArraySource, Source, stratified_split
from jaxvision.errors import ConfigError, nearest


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


def groups_of(source: Source, by: str) -> list[Any]:
    """What group each example is of, such as the video of a frame.

    `by`: a column of a source in memory or a field of its records (each is read once), where it is a plain word; else a regular expression of which
    the last match in an example's name, or its group, names the group ("video\\d+").

    Raises ConfigError where there is no such field, or no match.
    """
    if by.isidentifier():
        if by not in (source.columns or source.record(0)):
            raise ConfigError(f"data.limit_by={by!r}: the examples have no such field; {nearest(by, source.columns or source.record(0))}")
        return source.columns[by].tolist() if source.columns else [np.asarray(source.record(i)[by]).item() for i in range(len(source))]
    found = []
    for i in range(len(source)):
        matches = re.findall(by, source.name_of(i))
        if not matches:
            raise ConfigError(f"data.limit_by={by!r} finds nothing in the name {source.name_of(i)!r}")
        found.append(matches[-1])
    return found


def limited(source: Source, count: int | float, seed: int = 0, by: str = "") -> Source:
    """`count` examples drawn without replacement by a seed (the first ones would often be of one class), in the source's order.

    A count below 1 is a share of them ("1 % of the labels"); of a source in memory each class gives its share of that.

    `by`: groups are counted and drawn instead, with all of their examples, see `groups_of`: frames of a tenth of the videos are another problem
    than a tenth of the frames of all videos.

    Raises ConfigError when the source has fewer.
    """
    groups = groups_of(source, by) if by else range(len(source))
    names = list(dict.fromkeys(groups)) if by else groups
    if isinstance(count, float) and 0 < count < 1:
        label, count = (source.columns or {}).get("label"), max(1, round(count * len(names)))
        if not by and label is not None and label.ndim == 1:
            return _part(source, stratified_split(label, count, seed)[1])
    if not (isinstance(count, int) and 0 < count <= len(names)):
        found = f"{len(names)} groups by {by!r}" if by else f"{len(names)} examples"
        raise ConfigError(f"data.limit={count}: the source has {found}; take 1 to {len(names)}, a share below 1, or None for all")
    chosen = np.sort(order.permutation(len(names), seed, 0)[:count])
    if by:
        taken = {names[number] for number in chosen}
        chosen = np.flatnonzero([group in taken for group in groups])
    return _part(source, chosen)


def _part(source: Source, numbers: np.ndarray) -> Source:
    if source.columns is None:
        return Subset(source, numbers)
    return ArraySource(getattr(source, "name", "subset"), {key: value[numbers] for key, value in source.columns.items()}, source.classes)

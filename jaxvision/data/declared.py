"""Data that are not there: what is known of published data sets, or declared in the config, is enough to compile a run for its shapes.

A run cannot be trained on such a source; `--mode=preflight` takes it where the real one cannot be opened.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxvision.data.clips import CLIPS
from jaxvision.errors import ConfigError, nearest
from jaxvision.tasks.text.vocabulary import vocabulary


@dataclasses.dataclass(frozen=True)
class Facts:
    """classes: their number; sizes: {split as tfds names it: examples}; columns: what a record has beside its image."""

    classes: int
    sizes: Mapping[str, int]
    columns: tuple[str, ...] = ("label",)


# By tfds's names. Sizes as their publishers state them.
FACTS = {
    "imagenet2012": Facts(1000, {"train": 1_281_167, "validation": 50_000}),
    "imagenet2012_real": Facts(1000, {"validation": 50_000}),
    "imagenet_v2": Facts(1000, {"test": 10_000}),
    "cifar10": Facts(10, {"train": 50_000, "test": 10_000}),
    "cifar100": Facts(100, {"train": 50_000, "test": 10_000}),
    "mnist": Facts(10, {"train": 60_000, "test": 10_000}),
    "fashion_mnist": Facts(10, {"train": 60_000, "test": 10_000}),
    "oxford_flowers102": Facts(102, {"train": 1_020, "validation": 1_020, "test": 6_149}),
    "oxford_iiit_pet": Facts(37, {"train": 3_680, "test": 3_669}),
    "food101": Facts(101, {"train": 75_750, "validation": 25_250}),
    "diabetic_retinopathy_detection": Facts(5, {"train": 35_126, "validation": 10_906, "test": 42_670}),
}
# What a record holds under each name, of a picture of (height, width).
COLUMNS = {
    "label": lambda size: np.int32(0),
    "mask": lambda size: np.zeros(size, np.uint8),
    "target": lambda size: np.zeros((*size, 3), np.uint8),
    "boxes": lambda size: np.array([[0, 0, *size]], np.float32),
    "box_label": lambda size: np.zeros(1, np.int32),
}
# What a config declares: the number of classes (0: unlabelled), the examples of both splits, names of COLUMNS.
KEYS = ("data.classes", "data.train_size", "data.test_size")


class DeclaredSource:
    """As many blank examples as were declared, of the size that a run asks for."""

    columns = None

    def __init__(
        self, name: str, length: int, classes: Sequence[str], shape: tuple[int, ...], columns: tuple[str, ...], text_length: int | None = None
    ):
        for column in columns:
            if column not in COLUMNS:
                raise ConfigError(f"config key 'data.columns' has {column!r}; {nearest(column, COLUMNS)}")
        self.classes = tuple(classes)
        self.fingerprint = f"declared:{name}:{length}:{len(self.classes)}"
        self._name, self._length, self._shape, self._columns, self._text_length = name, length, shape, columns, text_length

    def __len__(self) -> int:
        return self._length

    def record(self, i: int) -> dict[str, Any]:
        if self._text_length is not None:
            return {"clip": np.zeros(self._shape, np.uint8), "text": np.zeros(self._text_length, np.int32)}
        blank = {"volume": np.zeros(self._shape, np.float32)} if len(self._shape) == 4 else {"image": np.zeros(self._shape, np.uint8)}
        return {**blank, **{name: COLUMNS[name](self._shape[:-1]) for name in self._columns}}

    def name_of(self, i: int) -> str:
        return f"{self._name}[{i}]"


def declared_source(data: Mapping[str, Any], split: str, shape: tuple[int, ...]) -> DeclaredSource:
    """A blank stand-in for the source that config.data names; the config's own figures go before those that are known of the data set.

    Args:
      split: "train" or "test".
      shape: of a picture, (height, width, channels), of a volume, (depth, height, width, channels), or of a clip, (frames, height, width, channels).

    Raises ConfigError, naming the keys to give, where neither the config nor FACTS says how many classes or examples there are.
    """
    name = (data.get("name", None) or "").split(":")[0]
    known = FACTS.get(name)
    wanted = data.get(split, None) or split
    length = data.get(f"{split}_size", None)
    if length is None and known is not None:
        length = split_size(wanted, known.sizes)
    clips = data.get("source", None) in CLIPS
    classes = len(vocabulary(data["vocabulary"])) if clips else data.get("classes", None)
    if classes is None and known is not None:
        classes = known.classes
    if length is None or classes is None:
        what = f"nothing is known of {name!r} without its data" if name else f"data.source {data.get('source', None)!r} says nothing of its size"
        raise ConfigError(
            f"{what}; declare --config.data.classes=N --config.data.train_size=N --config.data.test_size=N, or take a name of {', '.join(FACTS)}"
        )
    if clips:
        return DeclaredSource(f"clips/{wanted}", length, vocabulary(data["vocabulary"]), shape, (), data["text_length"])
    columns = data.get("columns", None)
    if columns is None:
        columns = known.columns if known is not None else ("label",) if classes else ()
    return DeclaredSource(f"{name or data.get('source', None)}/{wanted}", length, tuple(map(str, range(classes))), shape, tuple(columns))


def split_size(split: str, sizes: Mapping[str, int]) -> int | None:
    """Examples of "train", "train[:99%]", "train[10%:]", "train[:5000]" or a sum of such; None for a split that is not known."""
    total = 0
    for part in split.split("+"):
        found = re.fullmatch(r"\s*(\w+)(?:\[(-?\d*%?):(-?\d*%?)\])?\s*", part)
        if not found or found.group(1) not in sizes:
            return None
        size = sizes[found.group(1)]
        first, last = (_place(text, size, default) for text, default in ((found.group(2), 0), (found.group(3), size)))
        total += max(0, last - first)
    return total


def _place(text: str | None, size: int, default: int) -> int:
    if not text:
        return default
    # tfds rounds a percentage to the closest example.
    value = round(int(text[:-1]) * size / 100) if text.endswith("%") else int(text)
    return min(size, value if value >= 0 else size + value)

"""Folders of pairs, damaged and clean: two folders beside each other whose pictures go by the same names, endings apart.

    data/train/input/1.png  data/train/target/1.png  data/test/…      a split that is given (test/, val/, valid/ or validation/)
    data/input/1.png        data/target/1.png                         split by seed, `data.test_share` of the pairs
    data/our485/low/1.png   data/our485/high/1.png   data/eval15/…    any other names: data.train="our485", data.test="eval15"

Which two folders are a pair: those of PAIRS that are there, or `data.name="night,day"`, damaged first. A batch has the damaged picture as `image` and
the clean one as `target`, cut and resized alike.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxvision.data.folder import TESTS, FileSource, pictures_below
from jaxvision.data.source import stratified_split
from jaxvision.errors import ConfigError, DataError, nearest

# (damaged, clean), as published data sets name their folders.
PAIRS = (
    ("input", "target"),
    ("input", "groundtruth"),
    ("low", "high"),
    ("blur", "sharp"),
    ("noisy", "clean"),
    ("hazy", "clear"),
    ("hazy", "GT"),
    ("rain", "norain"),
)


class PairedSource:
    """Examples `image` and `target`, both encoded: number i of the one belongs to number i of the other."""

    columns = None
    classes = ()

    def __init__(self, image: FileSource, target: FileSource):
        self.image, self.target = image, target
        self.fingerprint = f"pairs:{image.fingerprint}:{target.fingerprint}"

    def __len__(self) -> int:
        return len(self.image)

    def name_of(self, i: int) -> str:
        return self.image.name_of(i)

    def record(self, i: int) -> dict[str, Any]:
        return {"image": self.image.record(i)["image"], "target": self.target.record(i)["image"]}


def _folders(place: pathlib.Path, known: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """The first of the `known` pairs of folders that `place` has; None where there is none."""
    return next((pair for pair in known if all((place / folder).is_dir() for folder in pair)), None)


def holds_pairs(path: str | os.PathLike, name: str | None = None) -> bool:
    """Whether a folder has two folders of pairs in it; `name` as of `open_paired`."""
    return _folders(pathlib.Path(path), (tuple(name.split(",")),) if name else PAIRS) is not None


def _by_stem(folder: pathlib.Path) -> dict[str, str]:
    """{name without its ending: name} of the pictures of a folder and its sub-folders. Raises DataError for two that differ in the ending alone."""
    stems: dict[str, str] = {}
    for name in pictures_below(folder):
        stem = os.path.splitext(name)[0]
        if stem in stems:
            raise DataError(f"{folder} holds {stems[stem]} and {name}: pairs go by names without endings, so which of them is meant is open")
        stems[stem] = name
    return stems


def _matched(place: pathlib.Path, pair: tuple[str, str]) -> tuple[list[str], list[str]]:
    """Names of the damaged pictures and of the clean ones, in one order. Raises DataError that names what lacks a partner."""
    damaged, clean = (_by_stem(place / folder) for folder in pair)
    for own, other, (here, there) in ((damaged, clean, pair), (clean, damaged, pair[::-1])):
        if alone := [own[stem] for stem in own if stem not in other]:
            more = f", nor have {len(alone) - 1} more" if alone[1:] else ""
            raise DataError(f"{place / here / alone[0]} has no partner of that name in {place / there}{more}; every picture needs one")
    if not damaged:
        raise DataError(f"{place / pair[0]} and {place / pair[1]} hold no pictures")
    stems = sorted(damaged)
    return [damaged[stem] for stem in stems], [clean[stem] for stem in stems]


def open_paired(path: str | None, split: str, test_share: float, seed: int, name: str | None = None) -> PairedSource:
    """One split of a folder of pairs.

    Args:
      path: the folder that has the splits, or the two folders themselves.
      split: a sub-folder ("test", "val", "valid" and "validation" stand for each other), or "train", "test" or "all" of a split by seed.
      test_share, seed: of that split.
      name: "damaged,clean", the names of the two folders; None: a pair of PAIRS.

    Raises:
      DataError: absent or empty folders, a picture without a partner.
      ConfigError: `name` that is not two names, an unknown split, or a share that leaves nothing.
    """
    if not path:
        raise ConfigError("data.source 'paired' needs data.path, a folder with two folders of pictures of the same names, such as input/ and target/")
    if name and name.count(",") != 1:
        raise ConfigError(f"data.name={name!r} of data.source 'paired' takes two folders, the damaged pictures' first: 'input,target'")
    root, known = pathlib.Path(path), (tuple(name.split(",")),) if name else PAIRS
    if not root.is_dir():
        raise DataError(f"data.path {path!r} is not a folder")
    for place in (root / other for other in ((split, *TESTS) if split in TESTS else (split,))):
        if pair := _folders(place, known):
            images, targets = _matched(place, pair)
            return PairedSource(FileSource(place / pair[0], images), FileSource(place / pair[1], targets))
    if not (pair := _folders(root, known)):
        looked = ", ".join(f"{damaged} and {clean}" for damaged, clean in known)
        raise DataError(f"neither {root} nor {root / split} has two folders of pairs, {looked}; data.name='damaged,clean' names others")
    parts = ("train", "test", "all")
    if split not in parts:
        raise ConfigError(f"{root} has no split {split!r}; {nearest(split, parts)}")
    images, targets = _matched(root, pair)
    chosen = range(len(images))
    if split != "all":
        chosen = stratified_split(np.zeros(len(images)), round(test_share * len(images)), seed)[split == "test"]
    return PairedSource(*(FileSource(root / folder, [names[i] for i in chosen]) for folder, names in zip(pair, (images, targets))))

"""Folders of pictures: one sub-folder a class, split given by sub-folders or made by seed; and loose files to predict.

    data/train/cat/1.jpg, data/test/cat/2.jpg      a split that is given (test/, val/, valid/ or validation/)
    data/cat/1.jpg, data/dog/2.jpg                 split by seed, stratified: `data.test_share` of each class
    data/1.jpg, data/2.jpg                         no classes, no labels

Names are kept as one block of bytes with offsets, so a million files take some tens of megabytes and travel to worker processes as two arrays.
"""

import os
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxvision.data.source import Unreadable, stratified_split
from jaxvision.errors import ConfigError, DataError, nearest

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TESTS = ("test", "val", "valid", "validation")
_LITTER = ("thumbs.db", "desktop.ini")  # left by file managers, as are names with a leading dot
TEST_SHARE = 0.2


class FileSource:
    """Files with or without labels.

    Args:
      root: what the names are relative to.
      names: of the files.
      label: (N,) int32, or None.
      classes: names by label.
    """

    columns = None

    def __init__(self, root: str | os.PathLike, names: Sequence[str], label: np.ndarray | None = None, classes: Sequence[str] = ()):
        encoded = [os.fsencode(name) for name in names]
        self._root, self.classes = os.fspath(root), tuple(classes)
        self._label = None if label is None else np.asarray(label, np.int32)
        self._names = b"".join(encoded)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        # By names and number: sizes would cost a system call a file, minutes on a network.
        self.fingerprint = f"files:{len(encoded)}:{zlib.crc32(self._names):08x}:{zlib.crc32(' '.join(self.classes).encode()):08x}"

    def __len__(self) -> int:
        return len(self._ends)

    def name_of(self, i: int) -> str:
        return os.path.join(self._root, os.fsdecode(self._names[self._ends[i - 1] if i else 0 : self._ends[i]]))

    def record(self, i: int) -> dict[str, Any]:
        name = self.name_of(i)
        try:
            with open(name, "rb") as file:
                record = {"image": file.read()}
        except OSError as error:
            raise Unreadable(f"{name} cannot be read: {error.strerror}") from error
        if self._label is not None:
            record["label"] = self._label[i]
        return record


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if e.name[0] != "." and e.name.lower() not in _LITTER), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read as a folder: {error.strerror}") from error


def _is_picture(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _pictures(folder: pathlib.Path, below: str, strict: bool) -> Iterator[str]:
    """Names of all pictures in a folder and its sub-folders, relative and with `below` before them; another file is an error where `strict`."""
    for entry in _entries(folder):
        name = f"{below}{entry.name}"
        if entry.is_dir():
            yield from _pictures(folder / entry.name, f"{name}/", strict)
        elif _is_picture(entry.name):
            yield name
        elif strict:
            raise DataError(f"{entry.path} is not a picture (by its name: {', '.join(EXTENSIONS)}); class folders may hold nothing else")


def pictures_below(folder: pathlib.Path) -> list[str]:
    """Names of all pictures in a folder and its sub-folders, relative to it, sorted within each. Raises DataError when it cannot be read."""
    return list(_pictures(folder, "", strict=False))


def _scan(folder: pathlib.Path, classes: tuple[str, ...] | None = None) -> tuple[list[str], np.ndarray | None, tuple[str, ...]]:
    """(names, labels, classes) of one folder; `classes` as in training, where given."""
    entries = _entries(folder)
    folders = [entry.name for entry in entries if entry.is_dir()]
    loose = [entry.name for entry in entries if not entry.is_dir() and _is_picture(entry.name)]
    if not folders and not loose:
        raise DataError(f"{folder} holds no pictures; expected one sub-folder a class with {', '.join(EXTENSIONS[:4])}, … files")
    if loose and folders:
        raise DataError(f"{folder} holds pictures ({loose[0]}) beside folders ({folders[0]}); every picture must lie in the folder of its class")
    if loose:
        return loose, None, ()
    if classes is None:
        classes = tuple(folders)
        if len(classes) == 1:
            raise DataError(f"{folder} holds a single class folder, {folders[0]!r}; expected 2 or more, or none at all for pictures without labels")
        empty = [name for name in folders if not any(_pictures(folder / name, "", strict=False))]
        if empty:
            raise DataError(f"class folder {folder / empty[0]} holds no pictures" + (f", nor do {len(empty) - 1} more" if empty[1:] else ""))
    if unknown := [name for name in folders if name not in classes]:
        raise DataError(f"class folder {folder / unknown[0]} is not among the {len(classes)} classes of training; {nearest(unknown[0], classes)}")
    names, label = [], []
    for name in folders:
        found = list(_pictures(folder / name, f"{name}/", strict=True))
        names += found
        label += [classes.index(name)] * len(found)
    if not names:
        raise DataError(f"{folder} holds no pictures in its {len(folders)} class folders")
    return names, np.array(label, np.int32), classes


def _has_folders(folder: pathlib.Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() for entry in _entries(folder))


def open_folder(path: str | None, split: str, test_share: float, seed: int) -> FileSource:
    """One split of a folder of pictures: image encoded, label int32 where there are classes.

    Args:
      path: the folder.
      split: a sub-folder (with "test", "val", "valid" and "validation" standing for each other), or "train", "test" or "all" of a split by seed.
      test_share: share of each class to test with, where the folder has no split.
      seed: of that split.

    Raises:
      DataError: an absent, empty or unreadable folder, a single class, an empty class, a class that training lacks, a file that is no picture.
      ConfigError: an unknown split, or a share that leaves nothing to train or to test with.
    """
    if not path:
        raise ConfigError("data.source 'folder' needs data.path, a folder with one sub-folder a class")
    root = pathlib.Path(path)
    if not root.is_dir():
        raise DataError(f"data.path {path!r} is not a folder")
    if _has_folders(root / "train"):  # a folder `train` with pictures in it is a class (vehicles), not a split
        _, _, classes = _scan(root / "train")
        wanted = (split, *TESTS) if split in TESTS else (split,)
        there = [name for name in wanted if (root / name).is_dir()]
        if not there:
            splits = [entry.name for entry in _entries(root) if entry.is_dir()]
            raise DataError(f"{root} has train/ but no {split}/ folder; {nearest(split, splits)}")
        names, label, classes = _scan(root / there[0], classes)
        return FileSource(root / there[0], names, label, classes)
    names, label, classes = _scan(root)
    parts = ("train", "test", "all")
    if split not in parts:
        raise ConfigError(f"{root} has no split {split!r}; {nearest(split, parts)}")
    if split == "all":
        return FileSource(root, names, label, classes)
    chosen = stratified_split(np.zeros(len(names)) if label is None else label, round(test_share * len(names)), seed)[split == "test"]
    return FileSource(root, [names[i] for i in chosen], None if label is None else label[chosen], classes)


def files_source(paths: str | os.PathLike | Iterable[str | os.PathLike], classes: Sequence[str] = ()) -> FileSource:
    """Pictures without labels: files as named, folders searched through and through, each sorted. For prediction.

    Raises:
      DataError: a path that does not exist, or no picture among them.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    names: list[str] = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            found = sorted(pictures_below(path))
            if not found:
                raise DataError(f"{path} holds no pictures ({', '.join(EXTENSIONS)})")
            names += [str(path / name) for name in found]
        elif path.exists():
            names.append(str(path))
        else:
            raise DataError(f"{path} does not exist")
    if not names:
        raise DataError("no pictures were named")
    return FileSource("", names, None, classes)

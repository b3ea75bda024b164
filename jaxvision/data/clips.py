"""Clips with texts: folders in the layouts in which lip reading's data sets come, and how a clip becomes an array of one size.

    data.name "lrw"    ABOUT/train/ABOUT_00001     a folder a word, in it train, val and test; the folder's name is the text
              "grid"   train/s1/…/bbaf2n           clips by speaker; the words of align/s1/…/bbaf2n.align, wherever it lies below data.path, without
                                                   silence ("sil", "sp")
              "lrs"    train/0Fi83BHQsMA/00002     beside 00002.txt, whose first line is "Text:  …" (LRS2, LRS3)
              "list"   train.csv, test.csv         lines "path,text" (LRW-1000, written so)

A clip is a video, an animated picture, a .npy, or a folder of pictures. Where "grid" and "lrs" have no train/ and test/, clips are split by seed.
"""

import csv
import dataclasses
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxvision.data import order
from jaxvision.data.decode import FILTERS
from jaxvision.data.frames import is_clip, read_clip
from jaxvision.data.source import Source, Unreadable
from jaxvision.errors import ConfigError, DataError, nearest
from jaxvision.tasks.text.vocabulary import encode, vocabulary

# Sources whose examples are clips.
CLIPS = ("clips", "lips")
CROPS = ("resize", "none")
SILENCE = ("SIL", "SP")
TRAIN, TEST = ("train", "trainval", "pretrain"), ("test", "val", "validation", "valid")


@dataclasses.dataclass(frozen=True)
class Clip:
    """How a record with a `clip` (T, H, W, C) becomes arrays: frames resized, black ones behind the end.

    Attributes:
      image_size: (frames, height, width).
      crop: "resize" (frames are squeezed), or "none" (their size must fit).
      interpolation: as of pictures.
      channels: 1 or 3; None keeps the clip's own.
    """

    image_size: tuple[int, int, int]
    crop: str = "resize"
    interpolation: str = "bilinear"
    channels: int | None = 3

    def __post_init__(self):
        if len(self.image_size) != 3 or min(self.image_size) < 1:
            raise ConfigError(f"image_size is {self.image_size}; clips need (frames, height, width)")
        if self.crop not in CROPS:
            raise ConfigError(f"data.crop {self.crop!r} does not act on clips; {nearest(self.crop, CROPS)}")
        if self.interpolation not in FILTERS:
            raise ConfigError(f"data.interpolation {self.interpolation!r} is unknown; {nearest(self.interpolation, FILTERS)}")


def fit_clip(record: Mapping[str, Any], clip: Clip, name: str, randoms: np.ndarray | None = None) -> dict[str, Any]:
    """The record with `clip` of clip.image_size, uint8, and `length`, its number of frames.

    Raises Unreadable for more frames than image_size has, DataError for another size where crop is "none".
    """
    frames, (most, height, width) = record["clip"], clip.image_size
    if len(frames) > most:
        raise Unreadable(f"{name} has {len(frames)} frames, image_size takes {most}")
    if frames.shape[1:3] != (height, width) and clip.crop == "none":
        size = "x".join(map(str, frames.shape[1:3]))
        raise DataError(f"{name} is {size}, but image_size is {height}x{width}; data.crop='resize' would resize it")
    made = np.stack([_frame(frame, clip) for frame in frames])
    behind = np.zeros((most - len(made), *made.shape[1:]), np.uint8)
    return {**record, "clip": np.concatenate([made, behind]), "length": np.int32(len(made))}


def _frame(frame: UInt8[np.ndarray, "h w c"], clip: Clip) -> UInt8[np.ndarray, "h w c"]:
    channels = clip.channels or frame.shape[-1]
    if frame.shape[:2] == clip.image_size[1:] and frame.shape[-1] == channels:
        return frame
    picture = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).convert({1: "L", 3: "RGB"}[channels])
    pixels = np.asarray(picture.resize(clip.image_size[:0:-1], FILTERS[clip.interpolation]))
    return pixels[..., None] if channels == 1 else pixels


def check_clips(source: Source, clip: Clip) -> None:
    """Raises DataError where clips in memory have another size than is asked for."""
    size = source.columns["clip"].shape[1:4] if "clip" in source.columns else None
    if size != clip.image_size:
        there = "are no clips" if size is None else f"are {size}"
        raise DataError(f"the examples {source.name_of(0)}, … {there}, image_size is {clip.image_size}; set image_size={size or '(height, width)'}")


class ClipSource:
    """Clips on disk, with or without texts.

    Records: `clip` (T, H, W, C) uint8 as the file has it, and `text` (L,) int32.

    Args:
      paths: of the clips. texts: of each, or None.
      classes: the vocabulary. length: L.
    """

    columns = None

    def __init__(self, paths: Sequence[pathlib.Path], texts: Sequence[str] | None, classes: Sequence[str] = (), length: int = 0):
        self.paths, self.texts, self.classes = tuple(paths), texts, tuple(classes)
        self._rows = None if texts is None else [encode(text, classes, length, str(path)) for path, text in zip(paths, texts, strict=True)]
        named = " ".join(f"{path.name}:{text}" for path, text in zip(paths, texts or paths))
        self.fingerprint = f"clips:{len(self.paths)}:{zlib.crc32(named.encode()):08x}:{len(self.classes)}:{length}"

    def __len__(self) -> int:
        return len(self.paths)

    def name_of(self, i: int) -> str:
        return str(self.paths[i])

    def record(self, i: int) -> dict[str, Any]:
        record: dict[str, Any] = {"clip": read_clip(self.paths[i])}
        if self._rows is not None:
            record["text"] = self._rows[i]
        return record


def clips_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Every clip in a folder and its sub-folders, sorted."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            if is_clip(path):
                yield path
            elif path.is_dir():
                yield from clips_below(path)


Labelled = list[tuple[pathlib.Path, str]]


def _lrw(root: pathlib.Path, split: str) -> Labelled:
    words = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    there = [(word, next((name for name in _spellings(split) if (word / name).is_dir()), None)) for word in words]
    folders = [(word / name, word.name) for word, name in there if name is not None]
    if not folders:
        raise DataError(f"{root} has no <WORD>/{split}/ folders, as LRW comes")
    return [(clip, word) for folder, word in folders for clip in clips_below(folder)]


def _speaker(path: pathlib.Path) -> str:
    return next((part for part in reversed(path.parts) if re.fullmatch(r"s\d+", part)), "")


def _grid(root: pathlib.Path, folder: pathlib.Path) -> Labelled:
    aligned = {(_speaker(path), path.stem): path for path in root.rglob("*.align")}
    if not aligned:
        raise DataError(f"{root} holds no .align files, from which GRID's texts are read")
    found = []
    for clip in clips_below(folder):
        key = (_speaker(clip), clip.stem)
        if key not in aligned:
            raise DataError(f"{clip} has no {key[1]}.align of speaker {key[0] or '(none in its path, such as s1)'} below {root}")
        found.append((clip, aligned_text(aligned[key])))
    return found


def aligned_text(path: pathlib.Path) -> str:
    """The words of a .align file, lines "start end word", without silence. Raises DataError."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    if any(len(line) != 3 for line in lines):
        raise DataError(f"{path} is no alignment: each line should be 'start end word'")
    return " ".join(word for _, _, word in lines if word.upper() not in SILENCE)


def _lrs(root: pathlib.Path, folder: pathlib.Path) -> Labelled:
    found = []
    for clip in clips_below(folder):
        beside = clip.parent / f"{clip.stem}.txt"
        if not beside.is_file():
            raise DataError(f"{clip} has no {beside.name} beside it, as LRS comes")
        label, colon, text = beside.read_text().splitlines()[0].partition(":") if beside.stat().st_size else ("", "", "")
        if label.strip() != "Text" or not colon:
            raise DataError(f"{beside} should begin with 'Text:  …'")
        found.append((clip, " ".join(text.split())))
    return found


def _list(root: pathlib.Path, split: str) -> Labelled:
    path = next((root / f"{name}.csv" for name in _spellings(split) if (root / f"{name}.csv").is_file()), None)
    if path is None:
        raise DataError(f"{root} has no {split}.csv with lines 'path,text'")
    with open(path, newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not is_clip(root / row[0]):
            raise DataError(f"{path}, line {number}: expected 'path,text' with the path of a clip below {root}, found {','.join(row)!r}")
    return [(root / clip, text) for clip, text in rows]


def _spellings(split: str) -> tuple[str, ...]:
    return next((names for names in (TRAIN, TEST) if split == names[0]), (split,))


def _sides(read, root: pathlib.Path, split: str, share: float, seed: int) -> Labelled:
    """The clips of a split that is a folder; without such folders, of a split by seed."""
    if any((root / name).is_dir() for name in TRAIN):
        folders = [root / name for name in _spellings(split) if (root / name).is_dir()]
        if not folders:
            there = [path.name for path in sorted(root.iterdir()) if path.is_dir()]
            raise DataError(f"{root} has no {split}/ folder; {nearest(split, there)}")
        return [item for folder in folders[: None if split == "train" else 1] for item in read(root, folder)]
    found = read(root, root)
    if split == "all":
        return found
    if split not in ("train", "test"):
        raise ConfigError(f"{root} has no split {split!r}; {nearest(split, ('all', 'train', 'test'))}")
    count = round(share * len(found))
    if found and not 0 < count < len(found):
        raise ConfigError(f"data.test_share={share} leaves {count} of {len(found)} clips to test with; both sides need at least 1")
    tested = set(order.permutation(len(found), seed, 0)[:count].tolist()) if found else set()
    return [item for number, item in enumerate(found) if (number in tested) == (split == "test")]


LAYOUTS = {
    "lrw": lambda root, split, share, seed: _lrw(root, split),
    "grid": lambda root, split, share, seed: _sides(_grid, root, split, share, seed),
    "lrs": lambda root, split, share, seed: _sides(_lrs, root, split, share, seed),
    "list": lambda root, split, share, seed: _list(root, split),
}


def open_clips(data: Mapping[str, Any], split: str, share: float, seed: int) -> ClipSource:
    """One split of a folder of clips with texts, by data.name, data.vocabulary and data.text_length.

    Raises ConfigError: an unknown layout, vocabulary or split; DataError: an absent or empty folder, a clip without a text, a text that does not fit.
    """
    name, symbols = data.get("name", None), vocabulary(data.get("vocabulary", "letters"))
    if name not in LAYOUTS:
        raise ConfigError(f"data.name {name!r} is no layout of clips; {nearest(str(name), LAYOUTS)}")
    if not data.get("path", None):
        raise ConfigError("data.source 'clips' needs data.path, the folder of the data set")
    root = pathlib.Path(data["path"]).expanduser()
    if not root.is_dir():
        raise DataError(f"data.path {data['path']!r} is not a folder")
    found = LAYOUTS[name](root, split, share, seed)
    if not found:
        raise DataError(f"{root} holds no clips of split {split!r}: videos, .gif, .npy or folders of pictures")
    paths, texts = zip(*found)
    return ClipSource(paths, texts, symbols, data.get("text_length", 15))


def clips_source(path: pathlib.Path, classes: Sequence[str]) -> ClipSource:
    """Clips without texts for prediction: one clip, or all of a folder. Raises DataError where there are none."""
    paths = [path] if is_clip(path) else list(clips_below(path)) if path.is_dir() else []
    if not paths:
        raise DataError(f"{path} holds no clips: videos, .gif, .npy (frames, height, width, channels) or folders of pictures")
    return ClipSource(paths, None, classes)

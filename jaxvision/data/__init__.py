"""Where examples come from: sources by name, host decode, and the streams of batches that training and evaluation iterate over.

    source = open_source(config.data, "train", seed=config.seed)
    stream = TrainStream(source, batch_size=256, image=Decode((224, 224)), seed=config.seed, position=0)
    batch = next(stream)            # {"image": uint8 (B, H, W, C), "label": int32 (B,), "index": int32 (B,), "valid": bool (B,)}

Sources: `digits`, `photos`, `shapes`, `fundus` and `phantoms` need nothing; `idx`, `folder`, `paired`, `fundus_folder`, `volumes`, `arrayrecord`,
`coco` and `voc` read `data.path`; `tfds` reads `data.name` from `data.path`. `phantoms` and `volumes` are 3-D: `volume` (B, D, H, W, C) for `image`,
cut by `Patch`. `coco`, `voc`, `shapes` and some of `tfds` have boxes.
`lips`, which needs nothing, and `clips`, below `data.path`, are clips with texts: `clip` (B, T, H, W, C), `length` (B,), `text` (B, L), by `Clip`.
Importing this package loads neither grain nor tensorflow_datasets nor scikit-learn; a source loads what it needs when it is opened.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from jaxvision.data.clips import CLIPS, Clip
from jaxvision.data.decode import Decode
from jaxvision.data.folder import TEST_SHARE, files_source
from jaxvision.data.patches import Patch
from jaxvision.data.source import ArraySource, Source, Unreadable
from jaxvision.data.stream import EvalStream, TrainStream
from jaxvision.errors import ConfigError, nearest

__all__ = [
    "CLIPS", "SOURCES", "ArraySource", "Clip", "Decode", "EvalStream", "Patch", "Source", "TrainStream", "Unreadable", "files_source", "open_source",
]  # fmt: skip


def _of(module: str, function: str) -> Callable[..., Source]:
    return lambda *args, **kwargs: getattr(importlib.import_module(f"jaxvision.data.{module}"), function)(*args, **kwargs)


def _shapes(data: Mapping[str, Any], split: str, seed: int) -> Source:
    count = data.get("count", 2048)
    return _of("shapes", "open_shapes")(
        split, count if split == "train" else max(1, count // 4), tuple(data.get("size", (64, 64))), data.get("max_boxes", None) or 4, seed,
        data.get("name", None) or "",
    )  # fmt: skip


def _phantoms(data: Mapping[str, Any], split: str, seed: int) -> Source:
    count = data.get("count", 2048)
    own = count if split == "train" else max(1, count // 4)
    return _of("phantoms", "open_phantoms")(split, own, tuple(data.get("size", ())), data.get("name", None) or "organs", seed)


def _lips(data: Mapping[str, Any], split: str, seed: int) -> Source:
    count, get = data.get("count", 2048), data.get
    own = count if split == "train" else max(1, count // 4)
    settings = get("name", None) or "words", get("difficulty", 0.5), get("text_length", 15)
    return _of("lips", "open_lips")(split, own, tuple(get("size", ())), *settings, seed)


def _share(data: Mapping[str, Any]) -> float:
    share = data.get("test_share", None)
    return TEST_SHARE if share is None else float(share)


# name -> opener(config.data, the source's own name of the split, seed)
SOURCES: dict[str, Callable[[Mapping[str, Any], str, int], Source]] = {
    "digits": lambda data, split, seed: _of("digits", "open_digits")(split),
    "shapes": _shapes,
    "folder": lambda data, split, seed: _of("folder", "open_folder")(data.get("path", None), split, _share(data), seed),
    "paired": lambda data, split, seed: _of("paired", "open_paired")(
        data.get("path", None), split, _share(data), seed, data.get("name", None) or None
    ),
    "arrayrecord": lambda data, split, seed: _of("arrayrecord", "open_arrayrecord")(data.get("path", None), split),
    "tfds": lambda data, split, seed: _of("tfds", "open_tfds")(data.get("name", None), data.get("path", None), split),
    "fundus": lambda data, split, seed: _of("fundus", "open_fundus")(split, data.get("count", 2048), tuple(data.get("size", (64, 64))), seed),
    "fundus_folder": lambda data, split, seed: _of("fundus", "open_fundus_folder")(
        data.get("path", None), split, _share(data), seed, data.get("name", None) or "field_of_view"
    ),
    "photos": lambda data, split, seed: _of("photos", "open_photos")(split, tuple(data.get("size", (64, 64)))),
    "phantoms": _phantoms,
    "lips": _lips,
    "clips": lambda data, split, seed: _of("clips", "open_clips")(data, split, _share(data), seed),
    "volumes": lambda data, split, seed: _of("volumes", "open_volumes")(data, split, _share(data), seed),
    "idx": lambda data, split, seed: _of("idx", "open_idx")(data.get("path", None), split),
    "coco": lambda data, split, seed: _of("coco", "open_coco")(data.get("path", None), split, data.get("name", None) or ""),
    "voc": lambda data, split, seed: _of("voc", "open_voc")(data.get("path", None), split),
    "sequences": lambda data, split, seed: _of("sequences", "open_sequences")(data.get("path", None), split),
}


def open_source(data: Mapping[str, Any], split: str, *, seed: int) -> Source:
    """The source that `config.data` names.

    Args:
      data: `source` is a key of `SOURCES`; `path`, `name`, `test_share` and others as the source needs them.
      split: "train" or "test" are looked up in `data` (`data.train`, `data.test`: what the source itself calls them, "validation" for instance);
        any other name is taken as the source's own.
      seed: of the split where the source comes without one, and of procedural pictures.

    Raises:
      ConfigError: an unknown source or split.
      DataError: the data are absent or unreadable; says how to get them where it can.
    """
    name = data.get("source", None)
    if name not in SOURCES:
        raise ConfigError(f"data.source {name!r} is unknown; {nearest(name, SOURCES)}")
    return SOURCES[name](data, data.get(split, None) or split if split in ("train", "test") else split, seed)

"""ArrayRecord files of tf.train.Example messages, the layout that tfds writes; read and written without TensorFlow.

    data.path/train-00000-of-00008.array_record, …, data.path/classes.txt (a class a line)

Known features: `image` or `image/encoded` (an encoded picture), `label` or `image/class/label` (int64, or floats for soft labels), `mask` (an encoded
picture), `boxes` (4 N floats, y0 x0 y1 x1 in pixels) and `box_label` (N). Other numbers pass through; other bytes (file names) do not reach a batch.
"""

import io
import os
import pathlib
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxvision.data.source import Unreadable
from jaxvision.errors import ConfigError, DataError, nearest

_ALIASES = {"image/encoded": "image", "image/class/label": "label", "image/object/class/label": "box_label"}
_NAME = re.compile(r"\.array_?record(-\d+-of-\d+)?$")
_ENCODED = ("image", "mask")


def parse_example(data: bytes) -> dict[str, Any]:
    """A serialized tf.train.Example as a record. Raises ValueError when it is none."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        features = tf_example_pb2.Example.FromString(data).features.feature
    except DecodeError as error:
        raise ValueError(f"it is not a tf.train.Example ({error})") from error
    record: dict[str, Any] = {}
    for key, feature in features.items():
        name, kind = _ALIASES.get(key, key), feature.WhichOneof("kind")
        if kind == "bytes_list":
            if name in _ENCODED and len(feature.bytes_list.value) == 1:
                record[name] = feature.bytes_list.value[0]
        elif kind is not None:
            values = np.array(getattr(feature, kind).value, np.int32 if kind == "int64_list" else np.float32)
            values = values.astype(bool) if name == "box_ignore" else values
            record[name] = values.reshape(-1, 4) if name == "boxes" else values[0] if len(values) == 1 and not name.startswith("box_") else values
    if "image" not in record:
        raise ValueError(f"it has no feature 'image' or 'image/encoded'; it has {', '.join(sorted(features)) or 'none'}")
    return record


def _serialize(record: Mapping[str, Any]) -> bytes:
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    for key, value in record.items():
        feature = example.features.feature[key]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif key in _ENCODED:
            file, array = io.BytesIO(), np.asarray(value)
            array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
            if array.dtype != np.uint8 and (array.min() < 0 or array.max() > 255):
                raise DataError(f"{key} holds values from {array.min()} to {array.max()}; only 0..255 can be written as PNG")
            Image.fromarray(array.astype(np.uint8)).save(file, "PNG")
            feature.bytes_list.value.append(file.getvalue())
        elif np.issubdtype((array := np.asarray(value)).dtype, np.floating):
            feature.float_list.value.extend(array.ravel().tolist())
        else:
            feature.int64_list.value.extend(array.ravel().astype(int).tolist())
    return example.SerializeToString()


def write_arrayrecord(path: str | os.PathLike, records: Iterable[Mapping[str, Any]], classes: Sequence[str] = ()) -> int:
    """Writes records into one file, and `classes.txt` beside it; returns their number.

    `image` and `mask` are encoded bytes, or arrays, which are stored as PNG. Invalid boxes are not written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    path = pathlib.Path(path)
    if not _NAME.search(path.name):
        raise DataError(f"{path} must end in .array_record or .array_record-00000-of-00001")
    writer = ArrayRecordWriter(str(path), "group_size:1")  # one record a group: random access without reading neighbours
    count = 0
    for record in records:
        record = dict(record)
        valid = record.pop("box_valid", None)
        if valid is not None:
            record |= {key: np.asarray(value)[np.asarray(valid, bool)] for key, value in record.items() if key == "boxes" or key.startswith("box_")}
        writer.write(_serialize(record))
        count += 1
    writer.close()
    if classes:
        (path.parent / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    return count


class ArrayRecordSource:
    """Examples of ArrayRecord files, in the order of the files' names."""

    columns = None

    def __init__(self, files: Sequence[pathlib.Path], classes: Sequence[str] = ()):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.classes, self._name = tuple(classes), str(files[0]) if len(files) == 1 else f"{files[0].parent}"
        try:
            self._records = ArrayRecordDataSource([str(file) for file in files])
            count = len(self._records)
        except (RuntimeError, ValueError, OSError) as error:
            raise DataError(f"{self._name} cannot be read as ArrayRecord: {error}") from error
        if not count:
            raise DataError(f"{self._name} holds no records")
        self._count = count
        sizes = " ".join(f"{file.name} {file.stat().st_size}" for file in files)
        self.fingerprint = f"arrayrecord:{count}:{zlib.crc32(sizes.encode()):08x}"

    def __len__(self) -> int:
        return self._count

    def name_of(self, i: int) -> str:
        return f"{self._name}[{i}]"

    def record(self, i: int) -> dict[str, Any]:
        try:
            return parse_example(self._records[int(i)])
        except (RuntimeError, ValueError, OSError) as error:
            raise Unreadable(f"{self.name_of(i)} cannot be read: {error}") from error


def open_arrayrecord(path: str | None, split: str) -> ArrayRecordSource:
    """One split of a folder of ArrayRecord files (those with the split as a word of their name), or one file whatever the split.

    Raises:
      DataError: no such folder, no such files, or damaged files.
    """
    if not path:
        raise ConfigError("data.source 'arrayrecord' needs data.path, a file or a folder of *.array_record files")
    root = pathlib.Path(path)
    if root.is_file():
        files, folder = [root], root.parent
    elif root.is_dir():
        folder = root
        there = sorted(file for file in root.iterdir() if _NAME.search(file.name))
        files = [file for file in there if split in re.split(r"[-_.]", _NAME.sub("", file.name))]
        if not there:
            raise DataError(f"{root} holds no *.array_record files")
        if not files:
            raise DataError(f"{root} holds no ArrayRecord files of split {split!r}; {nearest(split, (file.name for file in there))}")
    else:
        raise DataError(f"data.path {path!r} is neither a file nor a folder")
    listed = folder / "classes.txt"
    return ArrayRecordSource(files, tuple(listed.read_text(encoding="utf-8").split("\n")[:-1]) if listed.is_file() else ())

"""Folders of idx files, the format of MNIST and its relatives (Fashion-, Kuzushiji-, EMNIST): plain or gzipped, whole in memory.

An idx file is two zero bytes, a byte for the type, a byte for the number of axes, the axes as big-endian 32-bit numbers, then the values.
(Format: Y. LeCun, C. Cortes, "The MNIST database of handwritten digits".)
"""

import gzip
import math
import pathlib
import zlib

import numpy as np

from jaxvision.data.source import ArraySource
from jaxvision.errors import ConfigError, DataError, nearest

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_SPLITS = {"train": ("train",), "test": ("t10k", "test"), "val": ("val", "valid")}
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_NAMES = {"fashion": _FASHION, "kmnist": _KUZUSHIJI, "kuzushiji": _KUZUSHIJI}
_FASHION_PATH = pathlib.Path("/usr/share/datasets/fashion-mnist")


def read_idx(path: str | pathlib.Path) -> np.ndarray:
    """The array of one idx file (gzipped when it ends in .gz), in the machine's byte order.

    Raises:
      DataError: not an idx file, damaged compression, or fewer or more values than the header says.
    """
    path = pathlib.Path(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _TYPES:
        raise DataError(f"{path} is not an idx file: it begins with {data[:4].hex(' ') or 'nothing'}, not 00 00, type, axes")
    begin = 4 + 4 * data[3]
    shape = tuple(int(side) for side in np.frombuffer(data[4:begin][: 4 * ((min(len(data), begin) - 4) // 4)], ">u4"))
    dtype = np.dtype(_TYPES[data[2]])
    if len(shape) != data[3] or len(data) - begin != math.prod(shape) * dtype.itemsize:
        raise DataError(f"{path} is damaged: its header says {shape} of {dtype.itemsize} bytes, but {max(0, len(data) - begin)} bytes follow")
    return np.frombuffer(data, dtype, offset=begin).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _find(folder: pathlib.Path, split: str, kind: str) -> pathlib.Path | None:
    names = sorted(path for path in folder.iterdir() if kind in path.name and "idx" in path.name)
    for prefix in _SPLITS.get(split, (split,)):
        for path in names:
            # EMNIST: emnist-letters-train-images-idx3-ubyte.gz
            if path.name.startswith(prefix) or f"-{prefix}-" in path.name:
                return path
    return None


def open_idx(path: str | None, split: str) -> ArraySource:
    """One split of a folder of idx files: image (N, H, W, 1) uint8, label (N,) int32.

    The files are found by name: `train-images-idx3-ubyte(.gz)`, `train-labels-…`, and `t10k-…` or `test-…` for the test split. Without a path:
    Fashion-MNIST where its Debian package puts it.

    Raises:
      DataError: the folder, the split or one of its files is absent or damaged; says how to get Fashion-MNIST.
    """
    folder = pathlib.Path(path) if path else _FASHION_PATH
    if not folder.is_dir():
        hint = f"Fashion-MNIST comes with `apt-get install dataset-fashion-mnist` (Debian, Ubuntu), which puts it into {_FASHION_PATH}"
        raise DataError(f"data.path {str(folder)!r} is not a folder of idx files; {hint}")
    images, labels = _find(folder, split, "images"), _find(folder, split, "labels")
    if images is None:
        there = sorted(path.name for path in folder.iterdir() if "idx" in path.name)
        if not there:
            raise DataError(f"{folder} holds no idx files; expected names like train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz")
        if split not in _SPLITS:
            raise ConfigError(f"{folder} has no split {split!r}; {nearest(split, _SPLITS)}")
        raise DataError(f"{folder} holds no images of split {split!r}; it holds {', '.join(there[:8])}")
    if labels is None:
        raise DataError(f"{folder} holds {images.name} but no labels of split {split!r}")
    image, label = read_idx(images), read_idx(labels)
    if image.ndim not in (3, 4) or label.ndim != 1 or len(image) != len(label):
        raise DataError(f"{images} has shape {image.shape} and {labels.name} {label.shape}; expected (N, H, W) and (N,)")
    if image.dtype != np.uint8:
        raise DataError(f"{images} holds {image.dtype}; pictures must be unsigned bytes")
    low, high = (int(label.min()), int(label.max())) if len(label) else (0, 0)
    if low < 0:
        raise DataError(f"{labels} holds the label {low}; labels must be 0 or more")
    names = next((names for key, names in _NAMES.items() if key in str(folder).lower()), ())
    classes = names if high < len(names) else tuple(str(number) for number in range(high + 1))
    return ArraySource(f"{folder.name}/{split}", {"image": image, "label": label.astype(np.int32)}, classes)

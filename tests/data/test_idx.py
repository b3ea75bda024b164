import gzip
import struct

import numpy as np
import pytest

from jaxvision.data.idx import open_idx, read_idx
from jaxvision.errors import DataError

TYPES = {"uint8": 0x08, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D}


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(">BBBB", 0, 0, TYPES[str(array.dtype)], array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_idx_file_is_read_as_it_was_written(tmp_path, dtype, ending):
    array = (np.arange(2 * 3 * 4).reshape(2, 3, 4) * 5).astype(dtype)
    path = tmp_path / f"a-idx3-ubyte{ending}"
    path.write_bytes(gzip.compress(idx(array)) if ending else idx(array))
    read = read_idx(path)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype


GOOD = idx(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG1234", "not an idx file"),
        (GOOD[:3] + b"\x03" + GOOD[4:], "damaged"),
        (GOOD[:-1], r"header says \(3, 4\) of 1 bytes, but 11 bytes follow"),
        (GOOD + b"1", "13 bytes follow"),
        (GOOD[:6], "damaged"),
        (b"\0\0\x0a\x01" + GOOD[4:], "not an idx file"),
    ],
)
def test_a_damaged_header_or_length_is_one_line(tmp_path, content, says):
    path = tmp_path / "x-idx2-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_damaged_compression_is_one_line(tmp_path):
    path = tmp_path / "x-idx2-ubyte.gz"
    for content in (GOOD, gzip.compress(GOOD)[:-9], gzip.compress(GOOD)[:12] + b"damage" + gzip.compress(GOOD)[18:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_idx(path)


def write_folder(folder, labels=(0, 1, 2, 1), prefixes=("train", "t10k")):
    folder.mkdir()
    for prefix in prefixes:
        image = np.random.RandomState(len(prefix)).randint(0, 256, (len(labels), 5, 6)).astype(np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(image)))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.array(labels, np.uint8)))


def test_a_folder_gives_its_splits(tmp_path):
    write_folder(tmp_path / "letters")
    train, test = (open_idx(str(tmp_path / "letters"), split) for split in ("train", "test"))
    assert train.columns["image"].shape == (4, 5, 6, 1) and train.columns["label"].tolist() == [0, 1, 2, 1]
    assert train.classes == ("0", "1", "2") and train.name_of(2) == "letters/train[2]"
    assert train.fingerprint != test.fingerprint


def test_fashion_mnist_has_its_class_names(tmp_path):
    write_folder(tmp_path / "fashion-mnist", labels=(9, 0, 3))
    assert open_idx(str(tmp_path / "fashion-mnist"), "test").classes[9] == "Ankle boot"


def test_what_is_absent_is_said(tmp_path):
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        open_idx(str(tmp_path / "nowhere"), "train")
    with pytest.raises(DataError, match="holds no idx files"):
        open_idx(str(tmp_path), "train")
    write_folder(tmp_path / "a", prefixes=("train",))
    with pytest.raises(DataError, match="holds no images of split 'test'"):
        open_idx(str(tmp_path / "a"), "test")
    (tmp_path / "a" / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match=r"shape \(4, 5, 6\)"):
        open_idx(str(tmp_path / "a"), "train")
    (tmp_path / "a" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="but no labels"):
        open_idx(str(tmp_path / "a"), "train")

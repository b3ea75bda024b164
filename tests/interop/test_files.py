import collections
import os
import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxvision.errors import CheckpointError
from jaxvision.interop import read_arrays

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"


def write_torch(path, pickled: bytes, storages=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in enumerate(storages):
            archive.writestr(f"archive/data/{key}", data)


def test_a_file_that_torch_wrote_is_read_without_torch():
    arrays, layout = read_arrays(GOLDEN / "torch_zip.pth")
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert layout == "torch" and set(arrays) == {"weight", "transposed", "tail", "half", "brain", "count"}
    np.testing.assert_array_equal(arrays["weight"], base[:3, :2])
    np.testing.assert_array_equal(arrays["transposed"], base.T)
    np.testing.assert_array_equal(arrays["tail"], base[1:, 3:])
    assert arrays["half"].dtype == np.float16 and arrays["brain"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(arrays["half"].astype(np.float32), base[0])
    np.testing.assert_array_equal(arrays["brain"].astype(np.float32), base[1])
    assert arrays["count"].shape == () and arrays["count"] == 7


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_names_a_function_is_refused_and_does_not_run(tmp_path):
    write_torch(tmp_path / "bad.pth", pickle.dumps({"weight": 1, "x": Harmful(tmp_path / "ran")}, protocol=2))
    with pytest.raises(CheckpointError, match=r"names (posix|nt)\.mkdir"):
        read_arrays(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


def tensor_pickle(size, stride, offset=0):
    """The opcodes of {"w": _rebuild_tensor_v2(storage 0, offset, size, stride, False, OrderedDict())}, written by hand."""
    ints = lambda values: b"(" + b"".join(b"M" + int(v).to_bytes(2, "little") for v in values) + b"t"
    text = lambda value: b"X" + len(value).to_bytes(4, "little") + value.encode()
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"M\x06\x00" + b"tQ"
    arguments = b"(" + storage + b"M" + offset.to_bytes(2, "little") + ints(size) + ints(stride) + b"\x89" + b"ccollections\nOrderedDict\n)R" + b"t"
    return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path):
    path, data = tmp_path / "w.pth", np.arange(6, dtype=np.float32).tobytes()
    write_torch(path, tensor_pickle((2, 3), (3, 1)), [data])
    np.testing.assert_array_equal(read_arrays(path)[0]["w"], np.arange(6, dtype=np.float32).reshape(2, 3))
    for size, stride, offset in (((2, 3), (4, 1), 0), ((2, 3), (3, 1), 1), ((7,), (1,), 0)):
        write_torch(path, tensor_pickle(size, stride, offset), [data])
        with pytest.raises(CheckpointError, match="outside its storage"):
            read_arrays(path)


def test_files_of_another_kind_are_one_clear_line(tmp_path):
    cases = {
        "legacy.pth": (pickle.dumps({"w": 1}, protocol=2), "could run code"),
        "text.pth": (b"<html>not found</html>", "is damaged"),
        "cut.safetensors": (safetensors.numpy.save({"w": np.zeros(100, np.float32)})[:200], "not readable as safetensors"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=words) as error:
            read_arrays(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="is not a file"):
        read_arrays(tmp_path / "absent.npz")
    np.savez(tmp_path / "objects.npz", w=np.array([{}], dtype=object))
    with pytest.raises(CheckpointError, match=r"not readable as \.npz"):
        read_arrays(tmp_path / "objects.npz")


def test_sections_and_wrappers_are_looked_through(tmp_path):
    path, data = tmp_path / "w.pth", np.arange(6, dtype=np.float32).tobytes()
    inner = tensor_pickle((6,), (1,))[2:-1]
    text = lambda value: b"X" + len(value).to_bytes(4, "little") + value.encode()
    write_torch(path, b"\x80\x02}(" + text("epoch") + b"K\x03" + text("teacher") + inner + text("state_dict") + inner + b"u.", [data])
    assert set(read_arrays(path)[0]) == {"w"} == set(read_arrays(path, section="teacher")[0])
    with pytest.raises(CheckpointError, match="did you mean 'teacher'"):
        read_arrays(path, section="teachers")
    averaged = tensor_pickle((2, 3), (3, 1))[2:-1]
    write_torch(path, b"\x80\x02}(" + text("params") + inner + text("params_ema") + averaged + b"u.", [data])
    assert read_arrays(path)[0]["w"].shape == (2, 3)
    safetensors.numpy.save_file({"module.a.w": np.zeros(2), "module.b": np.ones(3)}, tmp_path / "w.safetensors")
    assert set(read_arrays(tmp_path / "w.safetensors")[0]) == {"a.w", "b"}


def test_npz_keeps_the_parameters_alone_and_knows_bfloat16(tmp_path):
    raw = np.arange(4).astype(ml_dtypes.bfloat16)
    arrays = collections.OrderedDict({"params/a/kernel": raw.view("V2"), "opt/mu/a/kernel": np.zeros(4), "step": np.zeros(())})
    np.savez(tmp_path / "w.npz", **arrays)
    read, layout = read_arrays(tmp_path / "w.npz")
    assert layout == "npz" and set(read) == {"a/kernel"}
    np.testing.assert_array_equal(read["a/kernel"].astype(np.float32), np.arange(4))

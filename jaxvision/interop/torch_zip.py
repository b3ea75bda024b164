"""PyTorch's zip files (torch.save since 1.6) read without PyTorch and without running anything that they name.

A pickle is a program that calls whatever it names. This reader knows a fixed table of names: the functions that assemble a tensor, which are
written here, and a few harmless classes that training code leaves beside the weights, which become inert. Any other name ends the reading before
it is looked up.
"""

import collections
import pathlib
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from jaxvision.errors import CheckpointError

STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?", "UntypedStorage": "u1",
    "ComplexFloatStorage": "<c8", "ComplexDoubleStorage": "<c16",
}  # fmt: skip


class Inert:
    """Stands for an object that is not weights (an argument parser's result, a numpy scalar): takes anything and does nothing."""

    def __init__(self, *arguments, **keywords):
        pass

    def __setstate__(self, state):
        pass

    def __hash__(self):
        return id(self)


def _rebuild_tensor(storage, offset, size, stride, *_):
    """The tensor as a copy. The bounds are checked, so a wrong size or stride cannot reach memory outside the storage."""
    values = [offset, *size, *stride]
    if len(size) != len(stride) or not all(isinstance(value, int) and value >= 0 for value in values):
        raise ValueError("a tensor with impossible sizes")
    empty = 0 in size
    if not empty and offset + sum((n - 1) * step for n, step in zip(size, stride)) >= storage.size:
        raise ValueError("a tensor that reaches outside its storage")
    if empty:
        return np.zeros(size, storage.dtype)
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False).copy()


def _rebuild_parameter(tensor, *_):
    return tensor


def _rebuild_from_type(function, kind, arguments, state):
    if function not in (_rebuild_tensor, _rebuild_parameter):
        raise ValueError("a tensor built in an unknown way")
    return function(*arguments)


_INERT = (
    "argparse.Namespace", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "numpy.dtype", "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar", "_codecs.encode", "pathlib.PosixPath", "pathlib.PurePosixPath", "torch.float32", "torch.float16",
    "torch.bfloat16", "torch.float64", "torch.int64",
)  # fmt: skip
KNOWN: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "collections.OrderedDict": collections.OrderedDict,
    "torch.Size": tuple,
    **dict.fromkeys(_INERT, Inert),
    # Plain strings and not numpy's dtypes: a pickle can give an object it got a new state, and a string has none.
    **{f"torch.{name}": name for name in STORAGES},
    "torch.storage.UntypedStorage": "UntypedStorage",
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str, file):
        super().__init__(file, encoding="utf-8")
        self.archive, self.folder, self.storages = archive, folder, {}

    def find_class(self, module: str, name: str):
        full = f"{module}.{name}"
        if full not in KNOWN:
            raise CheckpointError(f"{self.archive.filename} names {full}, which is neither a tensor nor known to be harmless; save the weights alone")
        return KNOWN[full]

    def persistent_load(self, identifier):
        kind, storage, key, *_ = identifier
        if kind != "storage" or storage not in STORAGES:
            raise ValueError(f"an unknown kind of storage {kind!r}")
        if key not in self.storages:
            self.storages[key] = np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), STORAGES[storage])
        return self.storages[key]


def read_torch_zip(path: pathlib.Path) -> Any:
    """What torch.save wrote: containers as they are, tensors as numpy arrays (bfloat16 by ml_dtypes).

    Raises CheckpointError when the file is damaged, big-endian, or names anything outside KNOWN.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            folder = pickled.removesuffix("data.pkl")
            if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
                raise CheckpointError(f"{path} was written on a big-endian machine; save it again as safetensors")
            with archive.open(pickled) as file:
                return _Unpickler(archive, folder, file).load()
    except CheckpointError:
        raise
    except Exception as error:  # A hostile or damaged pickle can fail in any way; all of them mean the same to the user.
        raise CheckpointError(f"{path} is not readable as a PyTorch file: {type(error).__name__}: {error}") from None

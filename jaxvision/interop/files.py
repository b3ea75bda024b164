"""Reading files of arrays: safetensors, PyTorch's zip files, and `.npz`. The kind is told by the content, not by the name.

None of them can run code: PyTorch's pickles are read by torch_zip.py, `.npz` without pickles, and safetensors holds nothing else.
"""

import json
import pathlib
import zipfile
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from jaxvision.errors import CheckpointError, nearest
from jaxvision.interop.torch_zip import read_torch_zip
from jaxvision.interop.wrapped import unnested

# Where training code puts the weights among other things, in the order in which they are looked for.
SECTIONS = ("state_dict", "model", "model_state_dict", "module", "net", "params_ema", "params", "weights")
# Prefixes that wrappers put before every name of a state dict.
WRAPPERS = ("module.", "_orig_mod.", "model.")
# Where JAX trainers put the parameters beside the optimizer's state or a second tower.
NPZ_ROOTS = ("params/img/", "params/", "opt/target/", "target/")


def read_arrays(path: str | pathlib.Path, section: str | None = None) -> tuple[dict[str, np.ndarray], str]:
    """({name: array}, layout) of a file; layout is "torch" or "npz", the keys of a model file's CHECKPOINT.

    Args:
      section: which of several state dicts in a PyTorch file ("teacher", "model_ema"); by default the first of SECTIONS that is there.

    Raises:
      CheckpointError: no such file, damaged, of another kind, or with objects in it that are not arrays.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; weights are read from .safetensors, .pth or .npz")
    with open(path, "rb") as file:
        start = file.read(9)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("data.pkl") for name in names):
            return _state_dict(read_torch_zip(path), path, section), "torch"
        if all(name.endswith(".npy") for name in names):
            return _read_npz(path), "npz"
    elif start[8:9] == b"{":
        return _unwrapped(_read_safetensors(path)), "torch"
    elif start[:1] == b"\x80":
        raise CheckpointError(f"{path} is a pickle (PyTorch before 1.6, or something else), which could run code; save it again as safetensors")
    raise CheckpointError(f"{path} is none of safetensors, a PyTorch zip file and .npz, or is damaged")


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not readable as safetensors: {error}") from None


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is not readable as .npz: {error}") from None
    # numpy has no bfloat16 and writes it as two raw bytes.
    arrays = {name: array.view(ml_dtypes.bfloat16) if array.dtype.str == "|V2" else array for name, array in arrays.items()}
    for root in NPZ_ROOTS:
        if any(name.startswith(root) for name in arrays):
            return {name.removeprefix(root): array for name, array in arrays.items() if name.startswith(root)}
    return arrays


def _state_dict(content, path: pathlib.Path, section: str | None) -> dict[str, np.ndarray]:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    content = unnested(content, section)
    if listed := _shadow(content, section):
        return listed
    if section is not None and not isinstance(content.get(section), Mapping):
        raise CheckpointError(f"{path} has no section {section!r}; {nearest(section, [k for k in content if isinstance(content[k], Mapping)])}")
    if section is None and not any(isinstance(value, np.ndarray) for value in content.values()):
        found = [name for name in SECTIONS if isinstance(content.get(name), Mapping)]
        if not found:
            raise CheckpointError(f"{path} holds no state dict; its keys are {', '.join(map(str, list(content)[:8])) or 'none'}")
        section = found[0]
    arrays = {str(name): value for name, value in (content[section] if section else content).items() if isinstance(value, np.ndarray)}
    if not arrays:
        raise CheckpointError(f"{path} holds no arrays" + (f" in {section!r}" if section else ""))
    return _unwrapped(arrays)


def _shadow(content: Mapping, section: str | None) -> dict[str, np.ndarray]:
    """Averaged weights that were saved as a list in the order of the parameters, as "shadow_params.0", …; {} where there are none."""
    averages = content.get(section or "ema", content)
    listed = averages.get("shadow_params") if isinstance(averages, Mapping) else None
    if not isinstance(listed, list) or not all(isinstance(value, np.ndarray) for value in listed):
        return {}
    return {f"shadow_params.{number}": value for number, value in enumerate(listed)}


def _unwrapped(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for wrapper in WRAPPERS:
        if arrays and all(name.startswith(wrapper) for name in arrays):
            arrays = {name.removeprefix(wrapper): array for name, array in arrays.items()}
    return arrays

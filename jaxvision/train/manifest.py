"""What a checkpoint holds, and whether it still does: files against their checksums, leaves against the ones that are wanted.

Orbax restores a flipped bit without a word, so a manifest with the size and the CRC-32 of every file is written last; a folder without one is not
a checkpoint. CRC-32 finds every single flipped bit and reads about 4 GB/s, five times BLAKE2b; the manifest carries one of itself.
"""

import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvision.errors import CheckpointError

NAME = "manifest.json"
FORMAT = 1
SHOWN = 10


def checksum(path: pathlib.Path, *, sync: bool = False) -> tuple[int, str]:
    """(size in bytes, CRC-32 in hexadecimal) of a file; `sync` also waits until the disk has it."""
    size, crc = 0, 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            size, crc = size + len(block), zlib.crc32(block, crc)
        if sync:
            os.fsync(file.fileno())
    return size, f"{crc:08x}"


def sync_folder(folder: pathlib.Path) -> None:
    """Waits until the disk has the entries of a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _own_checksum(document: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "checksum"}
    return f"{zlib.crc32(json.dumps(rest, sort_keys=True).encode()):08x}"


def write(folder: pathlib.Path, about: Mapping[str, Any]) -> None:
    """Lists every file below `folder` with its size and checksum, beside `about` (JSON), and waits until the disk has all of it."""
    files, folders = {}, {folder}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            folders.add(path)
        else:
            files[path.relative_to(folder).as_posix()] = checksum(path, sync=True)
    document = {"format": FORMAT, **about, "files": files}
    document["checksum"] = _own_checksum(document)
    with open(folder / NAME, "w") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for path in folders:
        sync_folder(path)


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of a checkpoint's folder. Raises CheckpointError where it is absent or is not what was written."""
    try:
        document = json.loads((folder / NAME).read_bytes())
        if not isinstance(document, dict) or document.get("checksum") != _own_checksum(document):
            raise CheckpointError(f"{NAME} is not what was written (its own checksum differs)")
    except FileNotFoundError:
        raise CheckpointError(f"{NAME} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{NAME} cannot be read ({error})") from None
    if document.get("format") != FORMAT:
        raise CheckpointError(f"{NAME} has format {document.get('format')}, this version reads format {FORMAT}")
    return document


def damage(folder: pathlib.Path) -> str | None:
    """The first thing wrong with the files of a checkpoint ("arrays/d/1f has 100 bytes, should have 220"), or None; unlisted files are ignored."""
    try:
        listed = read(folder)["files"]
    except CheckpointError as error:
        return str(error)
    for name, (size, crc) in listed.items():
        try:
            found_size, found_crc = checksum(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if found_size != size:
            return f"{name} has {found_size} bytes, should have {size}"
        if found_crc != crc:
            return f"{name} has checksum {found_crc}, should have {crc}"
    return None


Leaf = tuple[tuple[int, ...], str]


def leaf(value: Any) -> Leaf:
    """(shape, name of the dtype) of an array, a ShapeDtypeStruct or a Python number."""
    if not hasattr(value, "dtype"):
        value = np.asarray(value)
    return tuple(value.shape), str(value.dtype)


def mismatches(wanted: Mapping[str, Leaf], given: Mapping[str, Leaf]) -> str | None:
    """One line that names every leaf that is missing, left over or different, the first ten of each with shapes; None when all fit."""
    changed = [name for name in wanted if name in given and given[name] != wanted[name]]
    differing = [f"{name} is {_show(given[name], wanted[name])}, wanted {_show(wanted[name], given[name])}" for name in changed]
    missing = [f"{name} {_show(wanted[name])}" for name in wanted if name not in given]
    left_over = [f"{name} {_show(given[name])}" for name in given if name not in wanted]
    groups = (("differing", differing), ("missing", missing), ("left over", left_over))
    return "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in groups if names) or None


def _show(leaf: Leaf, other: Leaf | None = None) -> str:
    shape = "(" + ", ".join(map(str, leaf[0])) + ")"
    return shape if other is None or leaf[1] == other[1] else f"{shape} {leaf[1]}"


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

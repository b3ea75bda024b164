"""Medical volumes with masks, prepared once and read patch by patch; data/cases.py says which files they are.

A folder may hold its cases in train/ and test/ (or training/ and testing/); else cases are split by seed, a patient's all on one side.

A prepared case (turned, resampled, normalized) is kept under `data.cache`, by the names, sizes and times of its files and the settings, as plain
arrays that are mapped into memory, so that a patch costs the pages that it touches.
"""

import hashlib
import os
import pathlib
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxvision.data import order
from jaxvision.data.cases import Case, class_names, find_cases, unlabelled
from jaxvision.data.patches import places_of
from jaxvision.data.scans import Scan, prepare, read_scan, resample, resampled_size
from jaxvision.data.segmentations import read_labels
from jaxvision.data.source import Unreadable
from jaxvision.errors import ConfigError, DataError, nearest

_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "validation")
_FORMAT = 1  # of kept cases


class VolumeSource:
    """Cases of medical volumes.

    Records: `volume` (D, H, W, C) float32 as `scans.prepare` makes it, `spacing` (3,) in mm, and with masks `mask` (D, H, W) and `places`.

    Args:
      cases: of the source. classes: names of 1, 2, ….
      spacing: (D, H, W) in mm that all are resampled to; None: each its own.
      intensity: see `scans.prepare`.
      cache: folder for prepared cases; "" prepares a case each time that it is read.
    """

    columns = None

    def __init__(self, cases: Sequence[Case], classes: Sequence[str], spacing: Sequence[float] | None, intensity: Any, cache: str):
        self.cases, self.classes = tuple(cases), tuple(classes)
        self.spacing = None if spacing is None else tuple(map(float, spacing))
        if self.spacing is not None and (len(self.spacing) != 3 or min(self.spacing) <= 0):
            raise ConfigError(f"data.spacing is {spacing}; give millimetres along depth, height and width, or None")
        self.intensity = intensity
        self.cache = pathlib.Path(cache).expanduser() if cache else None
        names = " ".join(case.name for case in self.cases)
        self.fingerprint = f"volumes:{len(self.cases)}:{zlib.crc32(names.encode()):08x}:{self.spacing}:{intensity}"

    def __len__(self) -> int:
        return len(self.cases)

    def name_of(self, i: int) -> str:
        return str(self.cases[i].images[0])

    def scan(self, i: int) -> Scan:
        """The case as its files have it. Raises Unreadable."""
        return read_scan(self.cases[i].images)

    def prepared(self, scan: Scan) -> np.ndarray:
        return prepare(scan.volume, scan.spacing, self.spacing, self.intensity)

    def record(self, i: int) -> dict[str, Any]:
        if self.cache is None:
            return self._made(i)
        folder = self.cache / self._key(i)
        if not folder.is_dir():
            self._keep(folder, self._made(i))
        record = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("volume", "mask") if (folder / f"{name}.npy").is_file()}
        with np.load(folder / "rest.npz") as rest:
            record["spacing"] = rest["spacing"]
            if "mask" in record:
                record["places"] = {int(name): rest[name] for name in rest.files if name.isdecimal()}
        return record

    def _made(self, i: int) -> dict[str, Any]:
        case, scan = self.cases[i], self.scan(i)
        volume = self.prepared(scan)
        spacing = [old * n / new for old, n, new in zip(scan.spacing, scan.volume.shape, volume.shape)]
        record: dict[str, Any] = {"volume": volume, "spacing": np.array(spacing, np.float32)}
        if case.mask is not None:
            mask = read_labels(case.mask, scan, self.classes)
            if mask.max(initial=0) > len(self.classes):
                raise Unreadable(f"{case.mask} has class {mask.max()}, but there are {len(self.classes)}: {', '.join(self.classes)}")
            record["mask"] = resample(mask, resampled_size(mask.shape, scan.spacing, self.spacing), 0)
            record["places"] = places_of(record["mask"])
        return record

    def _key(self, i: int) -> str:
        files = [file for path in (*self.cases[i].images, *filter(None, [self.cases[i].mask])) for file in _files(path)]
        stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
        return hashlib.sha256(repr((_FORMAT, self.spacing, self.intensity, self.classes, stats)).encode()).hexdigest()[:24]

    def _keep(self, folder: pathlib.Path, record: Mapping[str, Any]) -> None:
        unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
        unfinished.mkdir(parents=True, exist_ok=True)
        for name in ("volume", "mask"):
            if name in record:
                np.save(unfinished / f"{name}.npy", record[name])
        places = {str(number): voxels for number, voxels in record.get("places", {}).items()}
        np.savez(unfinished / "rest.npz", spacing=record["spacing"], **places)
        try:
            unfinished.replace(folder)
        except OSError:  # another process was first
            shutil.rmtree(unfinished, ignore_errors=True)


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else [path]


def open_volumes(data: Mapping[str, Any], split: str, share: float, seed: int) -> VolumeSource:
    """One split of a folder of volumes: "train", "test", "all", or the name of a sub-folder.

    Raises DataError: an absent or empty folder; ConfigError: an unknown split, a share that leaves a side without patients.
    """
    if not data.get("path", None):
        raise ConfigError("data.source 'volumes' needs data.path, a folder of NIfTI files or DICOM series")
    root = pathlib.Path(data["path"]).expanduser()
    if not root.is_dir():
        raise DataError(f"data.path {data['path']!r} is not a folder")
    spellings = {**dict.fromkeys(_TRAIN, _TRAIN), **dict.fromkeys(_TEST, _TEST)}
    folders = {name: root / name for names in (_TRAIN, _TEST) for name in names if (root / name).is_dir()}
    if any(name in folders for name in _TRAIN):
        wanted = next((folders[name] for name in spellings.get(split, (split,)) if name in folders), None)
        if wanted is None:
            raise DataError(f"{root} has no {split}/ folder; {nearest(split, folders)}")
        every = [case for folder in dict.fromkeys(folders.values()) for case in find_cases(folder)]
        cases = find_cases(wanted)
    else:
        every = find_cases(root)
        cases = _side(every, split, share, seed, root)
    settings = (data.get("spacing", None), data.get("intensity", "none"), data.get("cache", ""))
    return VolumeSource(cases, class_names(root, every), *settings)


def _side(cases: list[Case], split: str, share: float, seed: int, root: pathlib.Path) -> list[Case]:
    if split == "all":
        return cases
    if split not in ("train", "test"):
        raise ConfigError(f"{root} has no split {split!r}; there are: all, test, train")
    patients = sorted({case.patient for case in cases})
    count = round(share * len(patients))
    if not 0 < count < len(patients):
        raise ConfigError(f"data.test_share={share} leaves {count} of {len(patients)} patients to test with; both sides need at least 1")
    tested = {patients[i] for i in order.permutation(len(patients), seed, 0)[:count]}
    return [case for case in cases if (case.patient in tested) == (split == "test")]


def volumes_source(path: str | os.PathLike, classes: Sequence[str], data: Mapping[str, Any]) -> VolumeSource:
    """Volumes without masks for prediction: a NIfTI file, a folder of DICOM slices, or a folder of such, searched through and through.

    Raises DataError where there are none.
    """
    root = pathlib.Path(path)
    cases = find_cases(root) if root.is_dir() and (root / "imagesTr").is_dir() else unlabelled(root)
    if not cases:
        raise DataError(f"{path} holds no volumes: no .nii, .nii.gz and no folder of DICOM slices")
    # Several files of one case, as nnU-Net names channels, are one scan.
    grouped: dict[str, list[pathlib.Path]] = {}
    for case in cases:
        grouped.setdefault(str(case.images[0].parent / re.sub(r"_\d{4}$", "", case.name)), []).extend(case.images)
    joined = [Case(pathlib.Path(name).name, tuple(images), None, name) for name, images in grouped.items()]
    return VolumeSource(joined, classes, data.get("spacing", None), data.get("intensity", "none"), "")


def sample_volumes() -> dict[str, pathlib.Path]:
    """Volumes that come with nibabel and pydicom, for trying out without a download: {name: NIfTI file or folder of DICOM slices}."""
    import nibabel.testing
    import pydicom.data

    nifti, series = pathlib.Path(nibabel.testing.data_path), pathlib.Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests"
    found = {
        "anatomical": nifti / "anatomical.nii",  # a head, 33 x 41 x 25
        "functional": nifti / "functional.nii",  # a head over time, 17 x 21 x 3, 20 channels
        "ct": series / "98892001" / "CT5N",  # five slices
    }
    return {name: path for name, path in found.items() if path.exists()}

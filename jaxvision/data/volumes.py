"""Folders of medical volumes with masks, in the layouts in which the public data sets come, prepared once and read patch by patch.

    imagesTr/ labelsTr/ dataset.json            nnU-Net (case_0000.nii.gz, case_0001.nii.gz: channels) and Medical Segmentation Decathlon
    images/ labels/  or  img/ label/            the same case under the same name or number (img0001, label0001: Synapse)
    patient001/patient001_frame01.nii.gz        beside patient001_frame01_gt.nii.gz (ACDC)
    any of these in train/ and test/            (or training/ and testing/); else cases are split by seed, a patient's all on one side
    volumes or folders of DICOM slices          without masks

A prepared case (turned, resampled, normalized) is kept under `data.cache`, by the names, sizes and times of its files and the settings, as plain
arrays that are mapped into memory, so that a patch costs the pages that it touches.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxvision.data import order
from jaxvision.data.patches import places_of
from jaxvision.data.scans import Scan, is_nifti, is_series, prepare, read_mask, read_scan, resample, resampled_size
from jaxvision.data.source import Unreadable
from jaxvision.errors import ConfigError, DataError, nearest

_PAIRS = (("imagesTr", "labelsTr"), ("images", "labels"), ("img", "label"), ("image", "mask"), ("volumes", "masks"))
_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "validation")
_FORMAT = 1  # of kept cases


class Case(NamedTuple):
    """One scan: its files (a channel each), its mask's file or None, and whose it is: cases of one patient stay on one side of a split."""

    name: str
    images: tuple[pathlib.Path, ...]
    mask: pathlib.Path | None
    patient: str


def stem(path: pathlib.Path) -> str:
    """The name without .nii, .nii.gz."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _scans(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in sorted(folder.iterdir()) if is_nifti(path) or is_series(path)]


def _digits(name: str) -> str:
    return re.sub(r"^[A-Za-z_-]+", "", name)


def find_cases(folder: pathlib.Path) -> list[Case]:
    """The cases of one folder, see above. Raises DataError: none, or masks without a scan."""
    for images, labels in _PAIRS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            return _paired(_scans(folder / images), _scans(folder / labels), folder / labels)
    truths = sorted(path for path in folder.rglob("*_gt.nii*") if is_nifti(path))
    if truths:
        scans = [path.with_name(path.name.replace("_gt.nii", ".nii")) for path in truths]
        return [Case(stem(scan), (scan,), truth, truth.parent.name) for scan, truth in zip(scans, truths)]
    found = unlabelled(folder)
    if not found:
        known = ", ".join(f"{images}/ with {labels}/" for images, labels in _PAIRS)
        raise DataError(f"{folder} holds no volumes; expected {known}, *_gt.nii.gz beside their scans, or NIfTI files and folders of DICOM slices")
    return found


def unlabelled(folder: pathlib.Path) -> list[Case]:
    """Every NIfTI file and DICOM series below a folder, or the one that it is."""
    if is_series(folder) or (folder.is_file() and is_nifti(folder)):
        return [Case(stem(folder), (folder,), None, stem(folder))]
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        found += unlabelled(path) if path.is_dir() or is_nifti(path) else []
    return found


def _paired(scans: list[pathlib.Path], masks: list[pathlib.Path], folder: pathlib.Path) -> list[Case]:
    by_name: dict[str, list[pathlib.Path]] = {}
    for scan in scans:
        by_name.setdefault(stem(scan), []).append(scan)
    channels: dict[str, list[pathlib.Path]] = {}
    for scan in scans:
        if match := re.fullmatch(r"(.+)_(\d{4})", stem(scan)):
            channels.setdefault(match[1], []).append(scan)
    by_digits = {_digits(name): files for name, files in by_name.items() if _digits(name)}
    cases = []
    for mask in masks:
        name = stem(mask)
        images = by_name.get(name) or channels.get(name) or by_digits.get(_digits(name))
        if images is None:
            raise DataError(f"{mask} has no scan: none is called {name}, {name}_0000 or has its number")
        cases.append(Case(name, tuple(images), mask, name))
    if not cases:
        raise DataError(f"{folder} holds no masks")
    return cases


def class_names(root: pathlib.Path, cases: Sequence[Case]) -> tuple[str, ...]:
    """Names of the classes 1, 2, …, without background: those of dataset.json, else the numbers up to the largest in the masks.

    Raises DataError for a dataset.json whose labels are not 0, 1, 2, ….
    """
    described = root / "dataset.json"
    if described.is_file():
        try:
            labels = json.loads(described.read_text())["labels"]
            # nnU-Net's second version has {name: number}, its first and the Decathlon {number: name}.
            numbered = {int(k): v for k, v in labels.items()} if all(str(k).isdecimal() for k in labels) else {int(v): k for k, v in labels.items()}
            names = tuple(str(numbered[number]) for number in range(1, len(numbered)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{described}: 'labels' must number the classes 0, 1, 2, …, 0 being background ({error})") from error
        return names
    masks = [case.mask for case in cases if case.mask is not None]
    if not masks:
        return ()
    largest = max(int(read_mask(mask, read_scan(case.images)).max()) for case, mask in ((case, case.mask) for case in cases) if mask is not None)
    return tuple(map(str, range(1, largest + 1)))


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
            mask = read_mask(case.mask, scan)
            if mask.max(initial=0) > len(self.classes):
                raise Unreadable(f"{case.mask} has class {mask.max()}, but there are {len(self.classes)}: {', '.join(self.classes)}")
            record["mask"] = resample(mask, resampled_size(mask.shape, scan.spacing, self.spacing), 0)
            record["places"] = places_of(record["mask"])
        return record

    def _key(self, i: int) -> str:
        files = [file for path in (*self.cases[i].images, *filter(None, [self.cases[i].mask])) for file in _files(path)]
        stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
        return hashlib.sha256(repr((_FORMAT, self.spacing, self.intensity, len(self.classes), stats)).encode()).hexdigest()[:24]

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

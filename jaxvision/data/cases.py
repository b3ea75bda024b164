"""Which files of a folder are the cases of a medical data set, in the layouts in which the public ones come.

    imagesTr/ labelsTr/ dataset.json            nnU-Net (case_0000.nii.gz, case_0001.nii.gz: channels) and Medical Segmentation Decathlon
    images/ labels/  or  img/ label/            the same case under the same name or number (img0001, label0001: Synapse)
    patient001/patient001_frame01.nii.gz        beside patient001_frame01_gt.nii.gz (ACDC)
    folders of DICOM slices, and of objects     that refer to them: Segmentation objects, wherever they lie (the Cancer Imaging Archive)
    volumes or folders of DICOM slices          without masks

A scan is a NIfTI file or a folder of DICOM slices, a mask NIfTI or a DICOM Segmentation object, a file or a folder with nothing else.
"""

import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxvision.data.scans import is_nifti, is_series, read_mask, read_scan
from jaxvision.data.segmentations import header_of, is_segmentation, segments_of
from jaxvision.errors import DataError

_PAIRS = (("imagesTr", "labelsTr"), ("images", "labels"), ("img", "label"), ("image", "mask"), ("volumes", "masks"))


class Case(NamedTuple):
    """One scan: its files (a channel each), its mask's file or None, and whose it is: cases of one patient stay on one side of a split."""

    name: str
    images: tuple[pathlib.Path, ...]
    mask: pathlib.Path | None
    patient: str


def stem(path: pathlib.Path) -> str:
    """The name without .nii, .nii.gz, .dcm."""
    return re.sub(r"\.(nii(\.gz)?|dcm)$", "", path.name, flags=re.IGNORECASE)


def _scans(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in sorted(folder.iterdir()) if is_nifti(path) or is_series(path)]


def _masks(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in sorted(folder.iterdir()) if is_nifti(path) or is_series(path) or (path.is_file() and is_segmentation(path))]


def _digits(name: str) -> str:
    return re.sub(r"^[A-Za-z_-]+", "", name)


def find_cases(folder: pathlib.Path) -> list[Case]:
    """The cases of one folder, see above. Raises DataError: none, or masks without a scan."""
    for images, labels in _PAIRS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            return _paired(_scans(folder / images), _masks(folder / labels), folder / labels)
    truths = sorted(path for path in folder.rglob("*_gt.nii*") if is_nifti(path))
    if truths:
        scans = [path.with_name(path.name.replace("_gt.nii", ".nii")) for path in truths]
        return [Case(stem(scan), (scan,), truth, truth.parent.name) for scan, truth in zip(scans, truths)]
    if found := _referring(folder):
        return found
    found = unlabelled(folder)
    if not found:
        known = ", ".join(f"{images}/ with {labels}/" for images, labels in _PAIRS)
        raise DataError(f"{folder} holds no volumes; expected {known}, *_gt.nii.gz beside their scans, or NIfTI files and folders of DICOM slices")
    return found


def _series_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from (path,) if is_series(path) else _series_below(path)


def _referring(folder: pathlib.Path) -> list[Case]:
    """Cases whose masks are Segmentation objects that name their series. Raises DataError where that is not there."""
    headers = {path: header_of(path) for path in _series_below(folder)}
    masks = {path: header for path, header in headers.items() if is_segmentation(path)}
    images = {header.SeriesInstanceUID: path for path, header in headers.items() if path not in masks and "SeriesInstanceUID" in header}
    cases = []
    for path, header in masks.items():
        wanted = [reference.SeriesInstanceUID for reference in header.get("ReferencedSeriesSequence", [])]
        found = next((images[series] for series in wanted if series in images), None)
        if found is None:
            raise DataError(f"{path} is a segmentation of series {', '.join(wanted) or 'it does not name'}, which is not among those in {folder}")
        patient = str(header.get("PatientID", "") or found.name)
        cases.append(Case(f"{patient}_{stem(found)}", (found,), path, patient))
    return cases


def unlabelled(folder: pathlib.Path) -> list[Case]:
    """Every NIfTI file and DICOM series below a folder, or the one that it is; DICOM masks are left out."""
    if (is_series(folder) and not is_segmentation(folder)) or (folder.is_file() and is_nifti(folder)):
        return [Case(stem(folder), (folder,), None, stem(folder))]
    if not folder.is_dir() or is_series(folder):
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
    """Names of the classes 1, 2, …, without background: those of dataset.json, else the labels of the segments in DICOM masks, in the order of their
    numbers, or the numbers up to the largest in NIfTI masks.

    Raises DataError for a dataset.json whose labels are not 0, 1, 2, …, and for masks of both kinds without one.
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
    objects = [mask for mask in masks if is_segmentation(mask)]
    if objects:
        if len(objects) < len(masks):
            raise DataError(f"{root} has masks in NIfTI and in DICOM: {described.name} has to say which number is which class")
        numbered = {(number, label) for mask in objects for number, label in segments_of(mask).items()}
        return tuple({label.lower(): label for _, label in sorted(numbered)}.values())
    largest = max(int(read_mask(mask, read_scan(case.images)).max()) for case, mask in ((case, case.mask) for case in cases) if mask is not None)
    return tuple(map(str, range(1, largest + 1)))

"""Masks in DICOM Segmentation objects, on the grid of the series that they were drawn on.

One file holds frames; each is of one segment (or, as a label map, of all), and says by itself where in the patient it lies, so frames may be few,
in any order, mirrored, and smaller than the slices. They are put where their positions say, and segments become classes by their labels.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from jaxvision.data.scans import Scan, dicom, from_file, package, read_mask
from jaxvision.data.source import Unreadable

# Segmentation Storage and Label Map Segmentation Storage.
CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
# How far a frame's pixels may lie from the centres of the scan's voxels, in voxels.
TOLERANCE = 0.05
# DICOM counts to the left and the back.
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def header_of(path: pathlib.Path) -> Any | None:
    """The data set of a DICOM file, or of a folder's first one, without its pixels; None where it is none."""
    if path.is_dir():
        path = next((entry for entry in sorted(path.iterdir()) if entry.is_file() and not entry.name.startswith(".")), path)
    pydicom = package("pydicom")
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (OSError, pydicom.errors.InvalidDicomError):
        return None


def is_segmentation(path: pathlib.Path) -> bool:
    """Whether a file, or the first of a folder, is a DICOM Segmentation object."""
    if path.is_file() and path.suffix.lower() != ".dcm":
        return False
    header = header_of(path)
    return header is not None and header.get("SOPClassUID", "") in CLASSES


def segments_of(path: pathlib.Path) -> dict[int, str]:
    """{number: label} of the segments of an object, background left out. Raises Unreadable."""
    header = header_of(path)
    if header is None or "SegmentSequence" not in header:
        raise Unreadable(f"{path} is no DICOM Segmentation object: it has no segments")
    return {int(segment.SegmentNumber): str(segment.SegmentLabel) for segment in header.SegmentSequence if int(segment.SegmentNumber)}


def read_labels(path: pathlib.Path, scan: Scan, classes: Sequence[str]) -> Integer[np.ndarray, "d h w"]:
    """A mask on the grid of a scan, NIfTI or DICOM; of the latter the segments' labels are looked up among `classes`. Raises Unreadable."""
    return read_segmentation(path, scan, classes) if is_segmentation(path) else read_mask(path, scan)


def read_segmentation(path: pathlib.Path, scan: Scan, classes: Sequence[str]) -> Integer[np.ndarray, "d h w"]:
    """The mask of a Segmentation object (a file, or a folder that holds one) on the grid of a scan: 1 for the first of `classes`, ….

    Of fractional segments what is at least half is taken.

    Raises Unreadable: a damaged object, a segment that is no class, segments that overlap, frames on another grid than the scan's or outside it.
    """
    files = [entry for entry in sorted(path.iterdir()) if entry.is_file() and not entry.name.startswith(".")] if path.is_dir() else [path]
    if len(files) != 1:
        raise Unreadable(f"{path} holds {len(files)} files; a DICOM segmentation is one")
    names, segments = [name.lower() for name in classes], segments_of(files[0])
    table = np.full(max(segments, default=0) + 1, -1)  # class of each segment
    for number, label in segments.items():
        if label.lower() not in names:
            raise Unreadable(f"{path} has a segment {label!r}, which is none of the {len(classes)} classes: {', '.join(classes)}")
        table[number] = names.index(label.lower()) + 1
    with dicom(path, "segmentation") as pydicom:
        found = pydicom.dcmread(files[0])
        frames = found.pixel_array.reshape(int(found.get("NumberOfFrames", 1)), int(found.Rows), int(found.Columns))
        shared, own = found.SharedFunctionalGroupsSequence[0], list(found.PerFrameFunctionalGroupsSequence)
        if len(own) != len(frames):
            raise ValueError(f"{len(frames)} frames, {len(own)} descriptions")
        least = int(found.MaximumFractionalValue) / 2 if found.SegmentationType == "FRACTIONAL" else 0.5
        is_map = found.SegmentationType == "LABELMAP"
        placed = [(_affine(shared, each), None if is_map else _number(shared, each)) for each in own]
    mask, to_voxels = np.zeros(scan.shape, np.uint8 if len(classes) < 256 else np.uint16), np.linalg.inv(scan.affine)
    for frame, (affine, number) in zip(frames, placed):
        where = np.argwhere(frame if is_map else frame >= least)
        if not len(where):
            continue
        kinds = frame[tuple(where.T)].astype(int) if is_map else np.full(len(where), number)
        value = np.append(table, -1)[np.minimum(kinds, len(table))]
        if (value < 0).any():
            raise Unreadable(f"{path} has pixels of segment {kinds[value < 0][0]}, which it does not describe")
        at = tuple(_voxels(to_voxels @ affine, where, scan, path).T)
        before = mask[at]
        if ((before != 0) & (before != value)).any():
            raise Unreadable(f"{path}: segments overlap; a voxel has one class")
        mask[at] = value
    return from_file(mask, scan)


def _group(shared: Any, own: Any, name: str) -> Any:
    """A frame's functional group, its own before the one that all share."""
    for groups in (own, shared):
        if name in groups:
            return groups[name].value[0]
    raise KeyError(f"no {name}")


def _number(shared: Any, own: Any) -> int:
    return int(_group(shared, own, "SegmentIdentificationSequence").ReferencedSegmentNumber)


def _affine(shared: Any, own: Any) -> np.ndarray:
    """(4, 3): from (row, column, 1) of a frame to millimetres to the right, front and top."""
    along_row, along_column = np.array(_group(shared, own, "PlaneOrientationSequence").ImageOrientationPatient, float).reshape(2, 3)
    down, across = map(float, _group(shared, own, "PixelMeasuresSequence").PixelSpacing)
    corner = np.array(_group(shared, own, "PlanePositionSequence").ImagePositionPatient, float)
    return TO_RAS @ np.concatenate([np.stack([along_column * down, along_row * across, corner], axis=1), [[0, 0, 1]]])


def _voxels(affine: np.ndarray, where: np.ndarray, scan: Scan, path: pathlib.Path) -> Integer[np.ndarray, "n 3"]:
    """The scan's voxels at the pixels `where` (row, column) of a frame with `affine` from pixels to voxels."""
    places = (np.concatenate([where, np.ones((len(where), 1))], axis=1) @ affine.T)[:, :3]
    voxels = np.round(places).astype(int)
    if np.abs(places - voxels).max() > TOLERANCE:
        raise Unreadable(f"{path} lies on another grid than its scan: a pixel is {np.abs(places - voxels).max():.2g} voxels off the nearest voxel")
    if voxels.min() < 0 or (voxels >= scan.shape).any():
        raise Unreadable(f"{path} lies elsewhere than its scan: it marks voxels outside of its {' x '.join(map(str, scan.shape))}")
    return voxels

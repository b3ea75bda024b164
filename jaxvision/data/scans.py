"""Medical scans as arrays: NIfTI files and DICOM series, turned to one orientation, resampled to one spacing, and masks brought back.

A volume is (D, H, W, C): D grows towards the head, H towards the front, W to the patient's right ("RAS", read from the back), whatever the file's
own order. What a file is (its affine, its order of axes, its grid) is kept beside, so that a mask can be written that lies on the original.

nibabel and pydicom read the files: pip install 'jaxvision[medical]'.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Integer

from jaxvision.data.source import Unreadable
from jaxvision.errors import ConfigError, DataError

NIFTI = (".nii", ".nii.gz")
_RAS = np.array([[0, 1], [1, 1], [2, 1]])
INTENSITIES = ("none", "zscore", "foreground_zscore", "clip")


@dataclasses.dataclass(frozen=True)
class Scan:
    """One scan.

    Attributes:
      volume: (D, H, W, C) float32 in the file's units, Hounsfield's for CT.
      spacing: millimetres from voxel to voxel along D, H, W.
      affine: (4, 4), from the file's voxel (i, j, k) to millimetres to the right, front and top.
      shape: of the file, (i, j, k).
    """

    volume: Float32[np.ndarray, "d h w c"]
    spacing: tuple[float, float, float]
    affine: Float[np.ndarray, "4 4"]
    shape: tuple[int, int, int]


def package(name: str) -> Any:
    """A module of a package that only medical volumes need. Raises ConfigError, which says how to install it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        top = name.split(".")[0]
        raise ConfigError(f"reading medical volumes needs the package {top}: pip install 'jaxvision[medical]'") from None


@contextlib.contextmanager
def dicom(path: pathlib.Path, kind: str) -> Iterator[Any]:
    """pydicom, for reading `kind` from `path`: whatever damaged data make it or the code around it raise becomes one line. Raises Unreadable."""
    pydicom = package("pydicom")
    try:
        yield pydicom
    # Attributes that a data set lacks, empty sequences, lengths that disagree, codecs that are missing.
    except (OSError, ValueError, AttributeError, LookupError, RuntimeError, pydicom.errors.InvalidDicomError) as error:
        raise Unreadable(f"{path} cannot be read as a DICOM {kind}: {' '.join(str(error).split())}") from error


def is_nifti(path: pathlib.Path) -> bool:
    return path.name.lower().endswith(NIFTI) and not path.name.startswith(".")


def is_series(path: pathlib.Path) -> bool:
    """Whether a folder holds slices of a DICOM series, by its first file."""
    if not path.is_dir():
        return False
    first = next((entry for entry in sorted(path.iterdir()) if entry.is_file() and not entry.name.startswith(".")), None)
    if first is None:
        return False
    with first.open("rb") as file:
        return first.suffix.lower() == ".dcm" or file.read(132)[128:] == b"DICM"


def read_scan(paths: pathlib.Path | Sequence[pathlib.Path]) -> Scan:
    """A scan from a NIfTI file (its fourth axis are channels), a folder with one DICOM series, or several files of one grid, a channel each.

    Raises Unreadable: damaged files, a series with missing slices, channels on different grids.
    """
    paths = [paths] if isinstance(paths, pathlib.Path) else list(paths)
    read = [_read(path) for path in paths]
    for path, (data, affine) in zip(paths, read):
        if data.shape[:3] != read[0][0].shape[:3] or not np.allclose(affine, read[0][1], atol=1e-3):
            raise Unreadable(f"{path} lies on another grid than {paths[0]}: channels of one scan share theirs")
    data, affine = np.concatenate([data for data, _ in read], axis=-1), read[0][1]
    orientations = package("nibabel.orientations")
    turned = orientations.apply_orientation(data, _orientation(affine, paths[0]))
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    axes = _orientation(affine, paths[0])[:, 0].astype(int)
    along = [float(sizes[np.flatnonzero(axes == axis)[0]]) for axis in (2, 1, 0)]
    return Scan(np.ascontiguousarray(turned.transpose(2, 1, 0, 3), np.float32), tuple(along), affine, data.shape[:3])


def read_mask(path: pathlib.Path, scan: Scan) -> Integer[np.ndarray, "d h w"]:
    """A NIfTI mask on the grid of a scan. Raises Unreadable where it lies on another one, or holds other than whole numbers from 0."""
    data, affine = _read(path)
    if data.shape != (*scan.shape, 1):
        raise Unreadable(f"{path} has {data.shape[:3]} voxels, its scan {scan.shape}")
    if not np.allclose(affine, scan.affine, atol=1e-2):
        raise Unreadable(f"{path} lies elsewhere than its scan: their affines differ by up to {np.abs(affine - scan.affine).max():.3g} mm")
    mask = np.round(data[..., 0])
    if mask.min() < 0 or mask.max() > 65535 or np.abs(mask - data[..., 0]).max() > 1e-3:
        raise Unreadable(f"{path} is no mask: its voxels are not all whole numbers from 0")
    return from_file(mask.astype(np.uint8 if mask.max() < 256 else np.uint16), scan)


def _orientation(affine: np.ndarray, path: Any) -> np.ndarray:
    found = package("nibabel.orientations").io_orientation(affine)
    if np.isnan(found).any():
        raise Unreadable(f"{path}: its affine gives one of the axes no direction")
    return found


def _read(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(voxels (i, j, k, C) float32, affine)."""
    if path.is_dir():
        return _read_series(path)
    nibabel = package("nibabel")
    try:
        image = nibabel.load(path)
        data = np.asarray(image.dataobj, np.float32)
    except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise Unreadable(f"{path} cannot be read: {error}") from error
    if data.ndim not in (3, 4):
        raise Unreadable(f"{path} has {data.ndim} axes; a volume has three, or four with channels last")
    return data if data.ndim == 4 else data[..., None], np.asarray(image.affine, np.float64)


def _read_series(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    files = [entry for entry in sorted(folder.iterdir()) if entry.is_file() and not entry.name.startswith(".")]
    with dicom(folder, "series") as pydicom:
        slices = [pydicom.dcmread(file) for file in files if file.suffix.lower() == ".dcm" or package("pydicom.misc").is_dicom(file)]
        slices = [each for each in slices if "PixelData" in each and "ImagePositionPatient" in each]
        if not slices:
            raise ValueError("no slices with pixels and a position")
        if len({each.SeriesInstanceUID for each in slices}) > 1:
            raise ValueError("slices of several series; each needs a folder of its own")
        row, column = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
        normal = np.cross(row, column)
        slices.sort(key=lambda each: float(np.dot(normal, np.array(each.ImagePositionPatient, float))))
        places = np.array([each.ImagePositionPatient for each in slices], float)
        pixels = np.stack([each.pixel_array * float(each.get("RescaleSlope", 1)) + float(each.get("RescaleIntercept", 0)) for each in slices])
        down, across = map(float, slices[0].PixelSpacing)
        thick = float(slices[0].get("SliceThickness", None) or 1.0)
    if pixels.ndim != 3:
        raise Unreadable(f"{folder}: slices of a DICOM series are single grey pictures, these are {pixels.shape[1:]}")
    step = normal * thick if len(slices) == 1 else (places[-1] - places[0]) / (len(slices) - 1)
    steps = np.diff(places, axis=0)
    if len(steps) and np.abs(steps - step).max() > 0.02 * np.linalg.norm(step) + 1e-3:
        raise Unreadable(f"{folder}: the slices are not evenly spaced ({np.linalg.norm(steps, axis=1).round(2).tolist()[:6]} mm …): some are missing")
    affine = np.eye(4)
    affine[:3] = np.stack([row * across, column * down, step, places[0]], axis=1)
    # DICOM counts to the left and the back.
    return pixels.transpose(2, 1, 0)[..., None].astype(np.float32), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def resampled_size(size: Sequence[int], spacing: Sequence[float], wanted: Sequence[float] | None) -> tuple[int, ...]:
    """Voxels that cover what `size` voxels of `spacing` do, at about the `wanted` spacing; the same size where that is None."""
    return tuple(size) if wanted is None else tuple(max(1, round(n * old / new)) for n, old, new in zip(size, spacing, wanted))


def resample(volume: np.ndarray, size: Sequence[int], order: int) -> np.ndarray:
    """(D, H, W, …) on a grid of `size` over the same extent: order 0 takes the nearest voxel, 1 is linear, 3 cubic."""
    from scipy import ndimage

    if tuple(size) == volume.shape[:3]:
        return volume
    factors = [n / old for n, old in zip(size, volume.shape[:3])]
    if volume.ndim == 4:
        return np.stack([ndimage.zoom(volume[..., c], factors, order=order, mode="nearest", grid_mode=True) for c in range(volume.shape[-1])], -1)
    return ndimage.zoom(volume, factors, order=order, mode="nearest", grid_mode=True)


def prepare(volume: Float32[np.ndarray, "d h w c"], spacing: Sequence[float], wanted: Sequence[float] | None, intensity: Any) -> np.ndarray:
    """What a network is given of a scan: at the wanted spacing (cubic), its intensities normalized.

    intensity: "none"; "zscore", mean 0 and deviation 1 of each channel; "foreground_zscore", of the voxels that differ from the darkest;
    ("clip", low, high), cut to that range of the file's units and brought to -1..1.
    """
    made = resample(volume, resampled_size(volume.shape[:3], spacing, wanted), 3)
    kind, *limits = (intensity,) if isinstance(intensity, str) else tuple(intensity)
    if kind not in INTENSITIES or len(limits) != (2 if kind == "clip" else 0):
        raise ConfigError(f"data.intensity {intensity!r} is unknown; there are: 'none', 'zscore', 'foreground_zscore', ('clip', low, high)")
    if kind == "clip":
        low, high = limits
        made = (np.clip(made, low, high) - low) * (2 / (high - low)) - 1
    elif kind != "none":
        for c in range(made.shape[-1]):
            plane = made[..., c]
            seen = plane[plane > plane.min()] if kind == "foreground_zscore" and plane.max() > plane.min() else plane
            made[..., c] = (plane - seen.mean(dtype=np.float64)) / max(float(seen.std(dtype=np.float64)), 1e-6)
    return np.ascontiguousarray(made, np.float32)


def from_file(array: Integer[np.ndarray, "i j k"], scan: Scan) -> Integer[np.ndarray, "d h w"]:
    """An array on the grid of a scan's file as the scan's volume lies."""
    turned = package("nibabel.orientations").apply_orientation(array, _orientation(scan.affine, "the scan"))
    return np.ascontiguousarray(turned.transpose(2, 1, 0))


def as_file(mask: Integer[np.ndarray, "d h w"], scan: Scan) -> Integer[np.ndarray, "i j k"]:
    """A mask of a prepared volume on the grid and in the order of axes of the scan's file."""
    orientations = package("nibabel.orientations")
    whole = resample(mask, scan.volume.shape[:3], 0).transpose(2, 1, 0)
    back = orientations.ornt_transform(_RAS, _orientation(scan.affine, "the scan"))
    return np.ascontiguousarray(orientations.apply_orientation(whole, back))


def write_nifti(path: pathlib.Path, array: np.ndarray, affine: Float[np.ndarray, "4 4"]) -> None:
    """A NIfTI file, whole or not at all. Raises DataError for another ending than .nii or .nii.gz."""
    nibabel = package("nibabel")
    if not is_nifti(path):
        raise DataError(f"{path} does not end in .nii or .nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    unfinished = path.with_name(f".unfinished.{path.name}")
    nibabel.save(image, unfinished)
    unfinished.replace(path)

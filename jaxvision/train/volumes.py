"""`--mode=predict` of a run on volumes: masks as NIfTI files that lie on the scans that they were made of, and pictures of them."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxvision.data.scans import Scan, as_file, resample, write_nifti
from jaxvision.data.source import Unreadable
from jaxvision.data.volumes import volumes_source
from jaxvision.errors import CheckpointError, DataError
from jaxvision.tasks.segment.pictures import middle_slices
from jaxvision.train.checkpoint import Checkpoints
from jaxvision.train.config import with_changes
from jaxvision.train.predictions import write_image
from jaxvision.train.setup import Executables, set_up
from jaxvision.train.stages import stage_folder
from jaxvision.train.windows import mask_of, window_runner


def predict_volumes(
    config: Any,
    workdir: pathlib.Path,
    inputs: str | pathlib.Path,
    *,
    output: str | pathlib.Path | None,
    checkpoint: str | int,
    stage: str | None,
    report: Callable[[str], None],
) -> list[pathlib.Path]:
    """Masks and pictures of a NIfTI file, of a folder of DICOM slices, or of all such below a folder; returns the files written.

    <name>.nii.gz has the scan's grid, its order of axes and its affine, and voxels that are class numbers, 0 for background. <name>.png shows the
    axial, coronal and sagittal slices that hold most of it. Scans are prepared as the run's own were, see data.spacing and data.intensity. A scan
    that cannot be read is reported and left out. Raises CheckpointError without a run, DataError without scans, or for other channels.
    """
    folder, config = stage_folder(config, workdir, stage)
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True, report=report)
    meta = checkpoints.read_meta(checkpoint)
    if meta is None:
        raise CheckpointError(f"{folder}/checkpoints holds no complete checkpoint; train there first")
    if not pathlib.Path(inputs).exists():
        raise DataError(f"--input={inputs} does not exist; give a NIfTI file, a folder of DICOM slices, or a folder of scans")
    source = volumes_source(inputs, meta["classes"], config.data)
    constants = meta["constants"]
    config = with_changes(config, {"data.mean": tuple(constants["mean"]), "data.std": tuple(constants["std"]), "data.corrupt": "skip"})
    blank = _Blank((*config.image_size, meta["channels"]), tuple(meta["classes"]))
    setup = set_up(config, sources={"test": blank}, classes=meta["classes"], train_size=meta["train_size"], fresh=False)
    executables = Executables(setup)
    target = pathlib.Path(output) if output is not None else pathlib.Path(workdir) / "predictions"
    written: list[pathlib.Path] = []
    with jax.set_mesh(setup.mesh):
        carry, _ = checkpoints.restore(executables.like(), int(meta["step"]))
        run, batch = window_runner(executables, carry, {})
        for number, case in enumerate(source.cases):
            try:
                scan = source.scan(number)
            except Unreadable as error:
                report(f"left out: {error}")
                continue
            if scan.volume.shape[-1] != meta["channels"]:
                raise DataError(f"{source.name_of(number)} has {scan.volume.shape[-1]} channels, the run was trained with {meta['channels']}")
            mask = mask_of(run, source.prepared(scan), setup.task.windows, batch)
            if jax.process_index() == 0:
                written += write_prediction(target, case.name, scan, mask)
    if not written and jax.process_index() == 0:
        raise DataError(f"none of the {len(source)} scans under {inputs} could be read")
    report(f"{len(source)} scans -> {', '.join(map(str, written[:3]))}{', …' if len(written) > 3 else ''}")
    return written


def write_prediction(folder: pathlib.Path, name: str, scan: Scan, mask: np.ndarray) -> list[pathlib.Path]:
    """<name>.nii.gz and <name>.png of the mask of a prepared scan; returns the two."""
    on_file = as_file(mask, scan)
    paths = [folder / f"{name}.nii.gz", folder / f"{name}.png"]
    write_nifti(paths[0], on_file, scan.affine)
    pictures = middle_slices(scan.volume[..., 0], resample(mask, scan.volume.shape[:3], 0), scan.spacing)
    height = max(picture.shape[0] for picture in pictures)
    framed = [np.pad(picture, [(0, height - picture.shape[0]), (0, 4), (0, 0)]) for picture in pictures]
    write_image(paths[1], np.concatenate(framed, axis=1))
    return paths


class _Blank:
    """One empty volume, from which a run learns the shapes of its windows."""

    columns, fingerprint = None, "blank"

    def __init__(self, shape: tuple[int, ...], classes: tuple[str, ...]):
        self._shape, self.classes = shape, classes

    def __len__(self) -> int:
        return 1

    def record(self, i: int) -> dict[str, Any]:
        return {"volume": np.zeros(self._shape, np.float32)}

    def name_of(self, i: int) -> str:
        return "blank"

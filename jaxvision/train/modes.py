"""`--mode=eval` and `--mode=predict`: a run's checkpoint put to use."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxvision import data as data_room
from jaxvision.data.clips import clips_source
from jaxvision.data.paired import holds_pairs, open_paired
from jaxvision.errors import CheckpointError, ConfigError, DataError
from jaxvision.tasks.restore.supervised import Restore
from jaxvision.train import figures
from jaxvision.train.checkpoint import Checkpoints
from jaxvision.train.config import read_config, with_changes
from jaxvision.train.evaluate import evaluate as evaluate_run
from jaxvision.train.feed import Feed
from jaxvision.train.loop import report_skipped, summary
from jaxvision.train.measured import measure_pictures, write_figures
from jaxvision.train.mesh import batch_sharding
from jaxvision.train.predictions import Predictions
from jaxvision.train.progress import Progress
from jaxvision.train.setup import Executables, set_up
from jaxvision.train.stages import stage_configs, stage_folder
from jaxvision.train.tiled import restore_files


def _existing(inputs: str | pathlib.Path) -> pathlib.Path:
    if not pathlib.Path(inputs).exists():
        raise DataError(f"--input={inputs} does not exist; give a file or a folder")
    return pathlib.Path(inputs)


def _without_data(
    config: Any | None, workdir: str | pathlib.Path, checkpoint: str | int, stage: str | None, report: Callable[[str], None]
) -> tuple[Executables, pathlib.Path, dict[str, Any]]:
    """(programs, folder, meta of the checkpoint) of a run whose own data need not be there: what it has to know of them the checkpoint carries."""
    config = own_config(config, workdir)
    folder, config = stage_folder(config, workdir, stage)
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True, report=report)
    meta = checkpoints.read_meta(checkpoint)
    if meta is None:
        raise CheckpointError(f"{folder}/checkpoints holds no complete checkpoint; train there first")
    constants = meta["constants"]
    changes = {
        "data.crop": "resize" if config.data.crop == "none" else config.data.crop,
        "data.corrupt": "skip",
        "data.mean": tuple(constants["mean"]),
        "data.std": tuple(constants["std"]),
        "data.eval_crop": constants["crop"],
        "data.channels": meta["channels"],
    }
    config = with_changes(config, changes)
    columns = {"clip" if config.data.source in data_room.CLIPS else "image": np.zeros((1, *config.image_size, meta["channels"]), np.uint8)}
    blank = data_room.ArraySource("inputs", columns | ({"length": np.ones(1, np.int32)} if "clip" in columns else {}))
    known = dict(classes=meta["classes"], train_size=meta["train_size"], roots=_roots(config, workdir), fresh=False)
    setup = set_up(config, sources={"test": blank}, phase=meta.get("phase", 0), frozen=_carried(checkpoints, meta), **known)
    return Executables(setup), folder, meta


def _restore(executables: Executables, folder: pathlib.Path, checkpoint: str | int) -> tuple[Any, Any, dict]:
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    restored = checkpoints.restore(executables.like(), checkpoint)
    if restored is None:
        raise CheckpointError(f"{folder}/checkpoints holds no complete checkpoint; train there first")
    carry, meta = restored
    given = executables.setup.given
    return carry, executables.init_frozen(given) if given.get("frozen") else {}, meta


def evaluate(
    config: Any | None,
    workdir: str | pathlib.Path,
    *,
    checkpoint: str | int = "last",
    stage: str | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Evaluates a checkpoint ("last", "best" or a step) of a run on its test data; prints and returns the metrics, draws confusion.png.

    `config` None: the one that the run wrote. Raises CheckpointError when there is no such run or checkpoint.
    """
    config = own_config(config, workdir)
    folder, config = stage_folder(config, workdir, stage)
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True, report=report)
    found = checkpoints.read_meta(checkpoint) if config.phases or config.frozen else None
    carried = _carried(checkpoints, found) if found and config.frozen else ({}, {})
    phase = (found or {}).get("phase", 0)
    setup = set_up(config, roots=_roots(config, workdir), frozen=carried, use="evaluate", fresh=False, phase=phase)
    executables = Executables(setup)
    with jax.set_mesh(setup.mesh):
        carry, frozen, meta = _restore(executables, folder, checkpoint)
        metrics, tables = evaluate_run(executables, carry, frozen, setup.task.splits)
        executables.close()
    if jax.process_index() == 0:
        report(f"step {meta['step']}: " + summary(metrics))
        for name, table in tables.items():
            if name.endswith("confusion"):
                figures.confusion(table, setup.problem.classes, folder / "confusion.png")
    return metrics


def measure(
    config: Any | None,
    workdir: str | pathlib.Path,
    inputs: str | pathlib.Path,
    *,
    output: str | pathlib.Path | None = None,
    checkpoint: str | int = "last",
    stage: str | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Restores whole pictures of any sizes and compares them with the clean ones; prints and returns the means over pictures.

    `inputs` is a folder of clean pictures (or one of them), which are damaged as the run's own were, or a folder of pairs, see data/paired.py.
    Figures of each picture go to pictures.csv in `output`, by default the folder of the run or of its stage. Raises ConfigError for a run that
    restores nothing.
    """
    executables, folder, meta = _without_data(config, workdir, checkpoint, stage, report)
    task, data = executables.setup.task, executables.setup.config.data
    if not isinstance(task, Restore):
        raise ConfigError(f"--mode=eval with --input measures restored pictures, the task here is {task.config.task.name!r}: leave --input out")
    name = data.name if data.source == "paired" else None
    source = open_paired(str(inputs), "all", 0.0, 0, name) if holds_pairs(_existing(inputs), name) else data_room.files_source(inputs)
    with jax.set_mesh(executables.setup.mesh):
        carry, frozen, _ = _restore(executables, folder, int(meta["step"]))
        rows = measure_pictures(executables, carry, frozen, source, report)
    means = {metric: float(np.mean([row[metric] for row in rows.values()])) for metric in next(iter(rows.values()))}
    if jax.process_index() == 0:
        path = (pathlib.Path(output) if output is not None else folder) / "pictures.csv"
        write_figures(path, rows)
        report(f"{len(rows)} pictures: {summary(means)} -> {path}")
    return means


def predict(
    config: Any | None,
    workdir: str | pathlib.Path,
    inputs: str | pathlib.Path,
    *,
    output: str | pathlib.Path | None = None,
    checkpoint: str | int = "last",
    stage: str | None = None,
    report: Callable[[str], None] = print,
) -> list[pathlib.Path]:
    """Writes what a checkpoint says of a file or of all images of a folder; returns the files written, by default under workdir/predictions.

    Class names, input constants and crop come from the checkpoint. An image that cannot be read is reported and left out. Of a run on volumes the
    inputs are NIfTI files and DICOM series, see train/volumes.py; of a run on clips they are videos, .npy files and folders of frames.
    """
    clips = (own := own_config(config, workdir)).data.source in data_room.CLIPS
    if len(own.image_size) == 3 and not clips:
        from jaxvision.train.volumes import predict_volumes

        return predict_volumes(own, pathlib.Path(workdir), inputs, output=output, checkpoint=checkpoint, stage=stage, report=report)
    executables, folder, meta = _without_data(config, workdir, checkpoint, stage, report)
    setup, source = executables.setup, (clips_source if clips else data_room.files_source)(_existing(inputs), classes=tuple(meta["classes"]))
    target = pathlib.Path(output) if output is not None else pathlib.Path(workdir) / "predictions"
    # Every process needs the whole loop (collectives); one writes.
    with jax.set_mesh(setup.mesh):
        carry, frozen, meta = _restore(executables, folder, int(meta["step"]))
        stream = setup.eval_stream(source)
        names = [source.name_of(i) for i in range(len(source))]
        if setup.task.tile:
            written = restore_files(executables, carry, frozen, names, target, report)
            report(f"{len(names)} inputs, {len(written)} pictures -> {_shown(written)}")
            return written
        feed = Feed(iter(stream), batch_sharding(setup.mesh))
        writer = Predictions(target, names, meta["classes"] or None, drawn=True) if jax.process_index() == 0 else None
        progress = Progress(len(stream), setup.eval_batch_size) if writer is not None else None
        try:
            for step, item in enumerate(feed, 1):
                outputs = dict(jax.device_get(executables.predict(carry, frozen, item.arrays, item.layout)))
                index, valid = outputs.pop("index"), outputs.pop("valid")
                if writer is not None:
                    writer.add([names[i] for i in np.asarray(index)], outputs, np.asarray(valid))
                    progress.update(step, {})
        finally:
            feed.close()
        report_skipped(stream, report)
        if writer is None:
            return []
        writer.close()
    report(f"{len(names) - len(stream.skipped)} inputs -> {_shown(writer.written)}")
    return writer.written


def _shown(paths: list[pathlib.Path]) -> str:
    return ", ".join(str(path) for path in paths[:3]) + (", …" if len(paths) > 3 else "")


def own_config(config: Any | None, workdir: str | pathlib.Path) -> Any:
    """The config given, or else the one that the run wrote. Raises CheckpointError when there is neither."""
    if config is not None:
        return config
    path = pathlib.Path(workdir) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{workdir} holds no run (there is no config.json); give --config, or another --workdir")
    return read_config(path)


def _carried(checkpoints: Checkpoints, meta: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(copies of frozen networks in a checkpoint, what it notes of all of them)."""
    saved, _ = checkpoints.restore(None, int(meta["step"]), only=("frozen",))
    return saved.get("frozen", {}), meta["frozen"]


def _roots(config: Any, workdir: str | pathlib.Path) -> dict[str, pathlib.Path]:
    own = read_config(pathlib.Path(workdir) / "config.json") if (pathlib.Path(workdir) / "config.json").is_file() else config
    return {name: pathlib.Path(workdir) / name for name, _ in stage_configs(own) if name}

"""Where a run's numbers and pictures go: `metrics.jsonl`, TensorBoard, Weights & Biases.

`metrics.jsonl` is the record: one object a line, `step` and flat keys such as `train/loss`, `test/accuracy`, `seconds`; the last line of a finished
run is its final evaluation. A resumed run cuts it back to the restored step, so that a killed and resumed run leaves the lines of an unbroken one.
"""

import json
import math
import os
import pathlib
import time
import uuid
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from jaxtyping import UInt8

from jaxvision.errors import ConfigError, DataError, nearest

METRICS = "metrics.jsonl"
# JSON has no spelling for these; proto3's is readable by every parser and by Python's float().
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def replace_file(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file whole or not at all: a temporary neighbour, then a rename over `path`."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def encode_line(step: int, metrics: Mapping[str, float | str]) -> str:
    """One line of metrics.jsonl, newline included. Values are scalars, or strings such as a stage's name; floats are written in full."""

    def value(x):
        if isinstance(x, str):
            return x
        x = float(x)
        if math.isnan(x):
            return "NaN"
        if math.isinf(x):
            return "Infinity" if x > 0 else "-Infinity"
        return x

    return json.dumps({"step": int(step)} | {name: value(x) for name, x in metrics.items()}, allow_nan=False) + "\n"


def _whole_lines(path: pathlib.Path) -> list[tuple[bytes, dict]]:
    """(line, its object) of every finished line; what follows the last newline was torn by a kill."""
    whole = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            entry = json.loads(line)
            entry["step"] = int(entry["step"])
        except (ValueError, TypeError, KeyError):
            raise DataError(f"{path}, line {number} is not a JSON object with a 'step'; remove that line to go on") from None
        whole.append((line + b"\n", {name: _NOT_FINITE.get(x, x) if isinstance(x, str) else x for name, x in entry.items()}))
    return whole


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """The lines of a metrics.jsonl (or of the one in a folder), in order; a last line torn by a kill is left out.

    Raises DataError when there is no such file or another line is not an object with a `step`.
    """
    path = pathlib.Path(path)
    path = path / METRICS if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path} does not exist; a training run writes it in its workdir")
    return [entry for _, entry in _whole_lines(path)]


def cut_back(path: str | os.PathLike, step: int) -> dict | None:
    """Removes what comes after `step` from a metrics.jsonl, torn last line included, in one atomic replacement; returns the last line kept."""
    path = pathlib.Path(path)
    if not path.is_file():
        return None
    kept = [(line, entry) for line, entry in _whole_lines(path) if entry["step"] <= step]
    content = b"".join(line for line, _ in kept)
    if len(content) != path.stat().st_size:
        replace_file(path, content)
    return kept[-1][1] if kept else None


class JsonLines:
    """metrics.jsonl, a line a write; pictures as figures/<name>_<step>.png. Adds `seconds`, the run's own time up to the line, earlier attempts
    that were kept included, where the caller gives none. The file is opened for each line: a mounted bucket stores it only when it is closed."""

    def __init__(self, workdir: pathlib.Path, config: Mapping, resume_step: int | None):
        self._path = workdir / METRICS
        last = cut_back(self._path, -1 if resume_step is None else resume_step)
        self._began = time.monotonic() - float((last or {}).get("seconds", 0.0))
        self._figures = workdir / "figures"

    def write(self, step: int, metrics: Mapping[str, float | str]) -> None:
        seconds = {} if "seconds" in metrics else {"seconds": round(time.monotonic() - self._began, 3)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(encode_line(step, {**metrics, **seconds}))

    def figure(self, step: int, name: str, array: UInt8[np.ndarray, "h w c"]) -> None:
        from PIL import Image

        path = self._figures / f"{name}_{step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(path)

    def close(self) -> None:
        """Nothing is open between two lines."""


class TensorBoard:
    """Event files under tensorboard/; what an earlier attempt wrote beyond the restored step is purged by TensorBoard's own session mark."""

    def __init__(self, workdir: pathlib.Path, config: Mapping, resume_step: int | None):
        from tensorboardX import SummaryWriter

        folder = workdir / "tensorboard"
        earlier = any(folder.glob("events.*"))
        purge = (0 if resume_step is None else resume_step + 1) if earlier else None
        self._writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=20)
        if not earlier:
            text = json.dumps(dict(config), indent=2, default=str, sort_keys=True)
            self._writer.add_text("config", "\n".join("    " + line for line in text.splitlines()), 0)

    def write(self, step: int, metrics: Mapping[str, float | str]) -> None:
        for name, value in metrics.items():
            if not isinstance(value, str):
                self._writer.add_scalar(name, float(value), step)

    def figure(self, step: int, name: str, array: UInt8[np.ndarray, "h w c"]) -> None:
        self._writer.add_image(name, array, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run at Weights & Biases, whose id stays in the workdir (wandb_id), so that a resumed run goes on in the same chart. Repeated steps
    of a resumed run are dropped there, as they equal those already sent. Project and account come from wandb's own settings."""

    def __init__(self, workdir: pathlib.Path, config: Mapping, resume_step: int | None):
        try:
            import wandb
        except ImportError:
            raise ConfigError("writer 'wandb' needs the package wandb: pip install 'jaxvision[wandb]', or leave it out of the writers") from None
        kept = workdir / "wandb_id"
        if resume_step is None or not kept.is_file():
            replace_file(kept, (uuid.uuid4().hex[:12] + "\n").encode())
        self._image = wandb.Image
        self._run = wandb.init(id=kept.read_text().strip(), resume="allow", dir=str(workdir), name=workdir.name, config=dict(config))

    def write(self, step: int, metrics: Mapping[str, float | str]) -> None:
        self._run.log({name: value if isinstance(value, str) else float(value) for name, value in metrics.items()}, step=step)

    def figure(self, step: int, name: str, array: UInt8[np.ndarray, "h w c"]) -> None:
        self._run.log({name: self._image(array)}, step=step)

    def close(self) -> None:
        self._run.finish()


WRITERS: dict[str, Callable] = {"jsonl": JsonLines, "tensorboard": TensorBoard, "wandb": WeightsAndBiases}


class Writers:
    """Several writers as one. Of a run on several processes only process 0 makes one; also a context manager that closes."""

    def __init__(self, writers: Iterable):
        self._writers = tuple(writers)

    def write(self, step: int, metrics: Mapping[str, float | str]) -> None:
        """Notes the metrics of a step: flat names such as "train/loss", scalars on the host (strings only label a line of metrics.jsonl)."""
        for writer in self._writers:
            writer.write(step, metrics)

    def figure(self, step: int, name: str, array: UInt8[np.ndarray, "h w c"]) -> None:
        """Notes a picture, uint8 (H, W, 1 or 3)."""
        array = np.asarray(array)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3):
            raise DataError(f"figure {name!r} is {array.dtype} {array.shape}; a picture is uint8 (height, width, 1 or 3)")
        for writer in self._writers:
            writer.figure(step, name, array)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def make_writers(
    workdir: str | os.PathLike, names: Iterable[str] = ("jsonl", "tensorboard"), *, config: Mapping, resume_step: int | None = None
) -> Writers:
    """The writers of a run.

    Args:
      workdir: the run's folder, made where absent.
      names: which of "jsonl", "tensorboard", "wandb".
      config: the resolved config, a mapping; noted where a writer has a place for it.
      resume_step: the restored step; what an interrupted attempt noted after it is cut off. None: a run from its beginning, nothing earlier stays.

    Raises ConfigError for an unknown name or a writer whose package is not installed.
    """
    names = tuple(names)
    for name in names:
        if name not in WRITERS:
            raise ConfigError(f"unknown writer {name!r}; {nearest(name, WRITERS)}")
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    return Writers([WRITERS[name](workdir, config, resume_step) for name in names])

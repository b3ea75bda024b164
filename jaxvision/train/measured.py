"""Restoration measured on whole pictures of any sizes: each is damaged, or given damaged, and compared restored and unrestored with the clean one."""

import csv
import io
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jaxvision.data.decode import why
from jaxvision.data.frames import DAMAGE, frames
from jaxvision.data.paired import PairedSource
from jaxvision.data.source import Source
from jaxvision.errors import ConfigError, DataError
from jaxvision.tasks.restore.supervised import METRICS, enlarged
from jaxvision.train.setup import Executables
from jaxvision.train.tiled import picture_restorer
from jaxvision.train.writers import replace_file


def measure_pictures(
    executables: Executables, carry: Any, frozen: Any, source: Source, report: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """{name: {"psnr": …, "input_psnr": …}} of the pictures of a source, of files or of pairs of files; the metrics are those of config.task that
    need no network. Damage is drawn by the number of the picture.

    A picture that cannot be read, or whose partner has another size, is reported and left out. Raises ConfigError for clean pictures where the run
    damages none, DataError when nothing is left.
    """
    task, channels = executables.setup.task, executables.setup.problem.channels
    paired = isinstance(source, PairedSource)
    if not paired and task.scale == 1 and not task.degrade.steps:
        raise ConfigError("--input holds clean pictures, and the run made no damaged ones (task.degrade is empty): give a folder of pairs")
    restore, names = picture_restorer(executables, carry, frozen), [name for name in task.metrics if name in METRICS]
    damage = jax.jit(task.degrade)

    @jax.jit
    def compare(made, low, clean):
        plain = enlarged(low, task.scale)
        figures = {name: METRICS[name](made, clean, task.border)[0] for name in names}
        return figures | {f"input_{name}": METRICS[name](plain, clean, task.border)[0] for name in names}

    rows = {}
    for number in range(len(source)):
        name = source.name_of(number)
        try:
            clean = _only(source.target.name_of(number) if paired else name, channels)
            clean = clean[: clean.shape[0] // task.scale * task.scale, : clean.shape[1] // task.scale * task.scale][None]
            low = _only(name, channels)[None] if paired else damage(carry.key, jnp.float32(clean) / 255, jnp.asarray([number]))
        except DAMAGE as error:
            report(f"{name} cannot be read and is left out: {why(error)}")
            continue
        if paired and low.shape != clean.shape:
            report(f"{name} is {low.shape[1]}x{low.shape[2]}, but its target {clean.shape[1]}x{clean.shape[2]}: left out")
            continue
        low = jnp.float32(low) / 255 if paired else low
        made = restore(np.asarray(low[0]))
        figures = compare(jnp.float32(made[None]) / 255, low, jnp.float32(clean) / 255)
        rows[name] = {key: float(figures[key]) for key in (*names, *(f"input_{name}" for name in names))}
    if not rows:
        raise DataError("none of the pictures could be measured")
    return rows


def _only(name: str, channels: int) -> UInt8[np.ndarray, "h w c"]:
    return next(frames(pathlib.Path(name), channels))


def write_figures(path: str | os.PathLike, rows: Mapping[str, Mapping[str, float]]) -> None:
    """A CSV of one line a picture: its name and its figures."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    metrics = list(next(iter(rows.values())))
    table.writerow(["file", *metrics])
    for name, figures in rows.items():
        table.writerow([name, *(f"{figures[metric]:.4f}" for metric in metrics)])
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.getvalue().encode())

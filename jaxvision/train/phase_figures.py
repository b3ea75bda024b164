"""Pictures of a curriculum: what a network sees in each phase (phases.png, written at the end of such a run), and accuracy against time.

`python benchmarks/curriculum.py --figure=…` draws both in one, from runs of its own.
"""

import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxvision.errors import DataError
from jaxvision.train.figures import _bare, _save
from jaxvision.train.setup import Setup, in_phase
from jaxvision.train.writers import read_metrics

_COLOURS = ("#3572b0", "#d1651f", "#3d8f53", "#8a5aa8", "#b3446c", "#7a6a4f")


def seen(setup: Setup, count: int = 6) -> list[tuple[str, np.ndarray]]:
    """[(title, pictures (count, h, w, c) in 0..1)] of the first test examples, one entry a program of the plan, at its own size."""
    split = "test" if "test" in setup.sources else next(iter(setup.sources))
    stream = setup.eval_stream(setup.sources[split])
    images = next(iter(stream))["image"][:count]
    stream.close()
    found = {}
    for number, phase in enumerate(setup.plan):
        if (look := (phase.size, phase.crop)) not in found:
            task = in_phase(setup, number).task
            mean, std = (np.asarray(task.constants[key]) for key in ("mean", "std"))
            picture = np.clip(np.asarray(jax.device_get(task.augment.normalize(images))) * std + mean, 0, 1)
            found[look] = [phase.start, phase.stop, picture]
        found[look][1] = phase.stop
    return [(f"{size[0]} x {size[1]} {crop}".strip() + f"\nsteps {a} - {b}", picture) for (size, crop), (a, b, picture) in found.items()]


def phase_images(setup: Setup, path: str | os.PathLike, count: int = 6) -> pathlib.Path:
    """Draws a row of the same pictures for each size of the curriculum, in the order of the run; returns the PNG's path."""
    from matplotlib.figure import Figure

    rows = seen(setup, count)
    figure = Figure(figsize=(1.1 * len(rows[0][1]) + 1.6, 1.15 * len(rows)), layout="constrained")
    _draw_rows(figure, rows)
    return _save(figure, path)


def accuracy_against_time(runs: Mapping[str, Sequence[str | os.PathLike]], path: str | os.PathLike, metric: str = "test/accuracy") -> pathlib.Path:
    """Draws the metric of several arms against the seconds of training, without those of evaluations; returns the PNG's path.

    Args:
      runs: {name of the arm: workdirs of its seeds}; evaluations of the seeds at the same step are averaged, and marked where the run ended.

    Raises DataError when an arm has no evaluation.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    _draw_curves(figure.add_subplot(), runs, metric)
    return _save(figure, path)


def overview(
    setup: Setup, runs: Mapping[str, Sequence[str | os.PathLike]], path: str | os.PathLike, metric: str = "test/accuracy", count: int = 4
) -> pathlib.Path:
    """Both in one picture: the metric against time on the left, what the network sees in each phase on the right. Arguments as of these."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    _draw_curves(left.add_subplot(), runs, metric)
    _draw_rows(right, seen(setup, count))
    return _save(figure, path)


def _draw_rows(figure, rows: Sequence[tuple[str, np.ndarray]]) -> None:
    columns = len(rows[0][1])
    for i, (title, pictures) in enumerate(rows):
        for j, picture in enumerate(pictures):
            axes = figure.add_subplot(len(rows), columns, i * columns + j + 1)
            axes.imshow(picture[..., 0] if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if j == 0:
                axes.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)


def curve(workdirs: Sequence[str | os.PathLike], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """(seconds of training, values) of a metric's evaluations, those of several runs at the same step averaged; evaluations take none of the time."""
    points: dict[int, list[tuple[float, float]]] = {}
    for workdir in workdirs:
        evaluating = 0.0
        for before, line in itertools.pairwise([{"seconds": 0.0}, *read_metrics(pathlib.Path(workdir))]):
            if metric in line:  # the line before is written as the evaluation begins
                evaluating += line["seconds"] - before["seconds"]
                points.setdefault(line["step"], []).append((line["seconds"] - evaluating, line[metric]))
    return tuple(np.array([np.mean(points[step], axis=0) for step in sorted(points)]).reshape(-1, 2).T)


def _draw_curves(axes, runs: Mapping[str, Sequence[str | os.PathLike]], metric: str) -> None:
    _bare(axes)
    for (name, workdirs), colour in zip(runs.items(), _COLOURS * len(runs)):
        seconds, values = curve(workdirs, metric)
        if not len(seconds):
            raise DataError(f"{name}: no line of metrics.jsonl has {metric!r}")
        axes.plot(seconds, 100 * values, color=colour, linewidth=1.6, label=f"{name}  {100 * values[-1]:.1f} % in {seconds[-1]:.0f} s")
        axes.plot(seconds[-1:], 100 * values[-1:], "o", color=colour)
    axes.set_xlabel("seconds of training, without evaluations", fontsize=9)
    axes.set_ylabel(f"{metric.rpartition('/')[-1]}, %", fontsize=9)
    axes.legend(frameon=False, fontsize=8, loc="lower right")

"""Pictures and tables of a run, for people: curves.png, confusion.png, parameters.txt, and sheets of example images."""

import io
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Integer, UInt8

from jaxvision.errors import DataError
from jaxvision.train.writers import METRICS, read_metrics, replace_file
from jaxvision.trees import named_leaves

_PANELS = 12
_NOT_DRAWN = ("step", "seconds", "epoch", "stage")  # they rise steadily or are names
_FIRST = ("loss", "accuracy", "top5")
_COLOURS = {"train": "#3572b0", "test": "#d1651f"}
_OTHER_COLOURS = ("#3d8f53", "#8a5aa8", "#b3446c", "#7a6a4f", "#2b8f9e")


def _series(entries: Sequence[Mapping]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """{quantity: {split: (steps, values)}}: "train/loss" and "test/ema/loss" are the series "train" and "test/ema" of one panel "loss"."""
    points: dict[str, dict[str, list]] = {}
    for entry in entries:
        for name, value in entry.items():
            split, _, quantity = name.rpartition("/")
            if quantity not in _NOT_DRAWN and isinstance(value, int | float):
                points.setdefault(quantity, {}).setdefault(split, []).append((entry["step"], value))
    order = sorted(points, key=lambda quantity: (_FIRST.index(quantity) if quantity in _FIRST else len(_FIRST), quantity))
    return {quantity: {split: tuple(np.asarray(series, float).T) for split, series in points[quantity].items()} for quantity in order}


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean over the `window` values around each (fewer at both ends), ignoring what is not finite."""
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    here = np.arange(len(values))
    reach = np.minimum(np.minimum(here, here[::-1]), window // 2)
    start, end = here - reach, here + reach + 1
    with np.errstate(invalid="ignore"):
        return (total[end] - total[start]) / (count[end] - count[start])


def _bare(axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(True, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color="#888888")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _save(figure, path: str | os.PathLike) -> pathlib.Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white", bbox_inches="tight", pad_inches=0.12)
    replace_file(path, buffer.getvalue())
    return pathlib.Path(path)


def curves(workdir: str | os.PathLike, path: str | os.PathLike | None = None) -> pathlib.Path:
    """Draws metrics.jsonl against the step: a panel for each quantity (loss and accuracy first), a line for each split; returns the PNG's path.

    Long noisy series are drawn pale with their running mean over 2 % of the points on top. The legend gives the last value.

    Args:
      workdir: the run's folder, or a metrics.jsonl.
      path: where to write; curves.png beside the metrics by default.

    Raises DataError when there are no metrics.
    """
    from matplotlib.figure import Figure

    workdir = pathlib.Path(workdir)
    series = _series(read_metrics(workdir))
    if not series:
        raise DataError(f"{workdir} holds no metrics yet; curves need at least one line of {METRICS}")
    shown = list(series)[:_PANELS]
    columns = min(len(shown), 2 if len(shown) <= 4 else 3)
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(4.8 * columns, 3.2 * rows), layout="constrained")
    others = sorted({split for splits in series.values() for split in splits if split and split not in _COLOURS})
    colours = _COLOURS | {"": "#555555"} | {split: _OTHER_COLOURS[i % len(_OTHER_COLOURS)] for i, split in enumerate(others)}
    every_step = np.concatenate([steps for splits in series.values() for steps, _ in splits.values()])
    margin = max(0.02 * np.ptp(every_step), 1)
    for position, quantity in enumerate(shown):
        axes = figure.add_subplot(rows, columns, position + 1)
        _bare(axes)
        for split, (steps, values) in series[quantity].items():
            finite = values[np.isfinite(values)]
            label = f"{split or quantity}  {finite[-1]:.4g}" if len(finite) else f"{split or quantity}  not finite"
            noisy = len(values) > 100
            axes.plot(
                steps,
                _smooth(values, max(2, len(values) // 50)) if noisy else values,
                color=colours[split],
                linewidth=1.6,
                marker="o" if len(values) <= 30 else None,
                markersize=3.5,
                label=label,
                zorder=3,
            )
            if noisy:
                axes.plot(steps, values, color=colours[split], linewidth=0.6, alpha=0.3, zorder=2)
        drawn = np.concatenate([values[np.isfinite(values)] for _, values in series[quantity].values()])
        if quantity.endswith("loss") and len(drawn) and drawn.min() > 0 and drawn.max() / drawn.min() > 100:
            axes.set_yscale("log")
        axes.set_title(quantity, fontsize=10, loc="left", fontweight="bold")
        axes.set_xlabel("step", fontsize=8)
        axes.set_xlim(every_step.min() - margin, every_step.max() + margin)
        axes.legend(fontsize=8, frameon=False, labelcolor="linecolor")
    if len(series) > len(shown):
        figure.supxlabel(f"{len(series) - len(shown)} more quantities in {METRICS}", fontsize=8, color="#777777")
    return _save(figure, path or (workdir if workdir.is_dir() else workdir.parent) / "curves.png")


def curve(x: Sequence[float], y: Sequence[float], labels: tuple[str, str], path: str | os.PathLike) -> pathlib.Path:
    """Draws y against x, both named; returns the PNG's path."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    _bare(axes)
    axes.xaxis.set_major_locator(MaxNLocator())
    axes.plot(x, y, color=_COLOURS["test"], linewidth=1.6, marker="o", markersize=3.5)
    axes.set_xlabel(labels[0], fontsize=8)
    axes.set_ylabel(labels[1], fontsize=8)
    return _save(figure, path)


def confusion(matrix: Integer[np.ndarray, "k k"], classes: Sequence[str] | None, path: str | os.PathLike) -> pathlib.Path:
    """Draws a confusion matrix, rows the true class, columns the predicted one, coloured by the share of the row; returns the PNG's path.

    Up to 20 classes each cell carries its count, up to 60 each axis its names; beyond that every few classes are named.
    Raises DataError when the matrix is not square or the names do not number its rows.
    """
    from matplotlib.figure import Figure

    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"a confusion matrix is (classes, classes); this one is {matrix.shape}")
    number = len(matrix)
    classes = [str(i) for i in range(number)] if classes is None else [str(name) for name in classes]
    if len(classes) != number:
        raise DataError(f"{len(classes)} class names for a confusion matrix of {number} classes")
    of_class = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, of_class, out=np.zeros(matrix.shape), where=of_class > 0)

    cell = 0.52 if number <= 20 else 0.2 if number <= 60 else 12 / number
    longest = min(max(map(len, classes)), 24)
    size = max(3.0, cell * number) + 1.0 + 0.07 * longest
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    step = 1 if number <= 60 else math.ceil(number / 60)
    ticks = np.arange(0, number, step)
    names = [name if len(name) <= 24 else name[:23] + "…" for name in classes]
    small = 9 if number <= 20 else 7 if number <= 60 else 6
    axes.set_xticks(ticks, [names[i] for i in ticks], rotation=0 if longest <= 2 else 90, fontsize=small)
    axes.set_yticks(ticks, [names[i] for i in ticks], fontsize=small)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if number <= 20:
        axes.set_xticks(np.arange(number + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(number + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="minor", length=0)
        for row, column in zip(*np.nonzero(matrix)):
            count = int(matrix[row, column])
            colour = "white" if share[row, column] > 0.55 else "#20405f"
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8 if count < 10_000 else 6, color=colour)
    accuracy = np.trace(matrix) / max(matrix.sum(), 1)
    axes.set_title(f"accuracy {100 * accuracy:.2f} % of {int(matrix.sum()):,}", fontsize=11, loc="left")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    bar = figure.colorbar(picture, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("share of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return _save(figure, path)


def parameter_table(params: Any) -> str:
    """A text table of the leaves of `params` (arrays or shapes): name, shape, count, dtype, share; the total and its bytes last."""
    leaves = named_leaves(params)
    total = sum(math.prod(leaf.shape) for leaf in leaves.values())
    rows = [("name", "shape", "count", "dtype", "share")]
    for name, leaf in leaves.items():
        count = math.prod(leaf.shape)
        shape = "×".join(map(str, leaf.shape)) or "scalar"
        rows.append((name, shape, f"{count:,}", jax.numpy.dtype(leaf.dtype).name, f"{100 * count / max(total, 1):.2f} %"))
    size = sum(math.prod(leaf.shape) * jax.numpy.dtype(leaf.dtype).itemsize for leaf in leaves.values())
    rows.append((f"total of {len(leaves)}", "", f"{total:,}", f"{size / 2**20:,.1f} MiB", "100.00 %" if total else ""))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]

    def text(row):
        return "  ".join((cell.ljust if i in (0, 3) else cell.rjust)(widths[i]) for i, cell in enumerate(row)).rstrip()

    rule = "-" * (sum(widths) + 8)
    return "\n".join([text(rows[0]), rule, *map(text, rows[1:-1]), rule, text(rows[-1])]) + "\n"


def sheet(
    images: Sequence[UInt8[np.ndarray, "h w c"]], titles: Sequence[str] | None = None, *, columns: int | None = None, cell: int = 112
) -> UInt8[np.ndarray, "height width 3"]:
    """One picture of many: a grid of images, each scaled to fit `cell` pixels (small ones by whole factors, so that pixels stay squares),
    its title beneath. Images are uint8 (H, W, 1 or 3), of any sizes. Raises DataError for none, or when titles do not number the images."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    if not len(images):
        raise DataError("a sheet of images needs at least one image")
    if titles is not None and len(titles) != len(images):
        raise DataError(f"{len(titles)} titles for {len(images)} images")
    columns = columns or math.ceil(math.sqrt(len(images) * 1.4))
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    gap, foot = 6, 18 if titles is not None else 0
    page = Image.new("RGB", (columns * (cell + gap) + gap, rows * (cell + foot + gap) + gap), "white")
    # matplotlib's own font, as pillow's has few letters beyond ASCII
    draw, font = ImageDraw.Draw(page), ImageFont.truetype(pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 10)
    for i, array in enumerate(images):
        array = np.asarray(array)
        picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).convert("RGB")
        scale = cell / max(picture.size)
        grown = scale >= 2
        scale = math.floor(scale) if grown else scale
        size = tuple(max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize(size, Image.Resampling.NEAREST if grown else Image.Resampling.LANCZOS)
        left, top = gap + i % columns * (cell + gap), gap + i // columns * (cell + foot + gap)
        page.paste(picture, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2))
        if titles is not None:
            title = str(titles[i])
            while draw.textlength(title, font=font) > cell:
                title = title[:-2] + "…"
            draw.text((left + cell / 2, top + cell + 3), title, fill="#333333", font=font, anchor="ma")
    return np.asarray(page)

"""Pictures that a task makes for people while it trains: sheets of examples before and after, and curves of a figure against a setting."""

import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxvision.train import figures
from jaxvision.train.feed import Feed
from jaxvision.train.mesh import batch_sharding
from jaxvision.train.setup import Executables


def write_pictures(executables: Executables, carry, frozen, metrics: Mapping[str, float], workdir: pathlib.Path, step: int) -> None:
    """pictures/<step>.png of the first test examples, a row an example and a column an entry of `Task.figures`; pictures/<name>.png for each of
    `Task.curves(metrics)`. Nothing for a task that offers neither. Every process takes part, the first one writes.
    """
    task = executables.setup.task
    if task.figures is not None:
        columns = _columns(executables, carry, frozen)
        if jax.process_index() == 0:
            captions = task.captions(columns) if task.captions is not None else {}
            _write(workdir / "pictures" / f"{step:08d}.png", {name: values for name, values in columns.items() if np.ndim(values) == 4}, captions)
    if task.curves is not None and jax.process_index() == 0:
        for name, (x, y, labels) in task.curves(metrics).items():
            figures.curve(x, y, labels, workdir / "pictures" / f"{name}.png")


def _columns(executables: Executables, carry, frozen) -> dict[str, np.ndarray]:
    setup = executables.setup
    feed = Feed(iter(executables.eval_stream(setup.task.splits[-1])), batch_sharding(setup.mesh))
    try:
        item = next(feed)
        return jax.device_get(executables.figures(carry, frozen, item.arrays, item.layout))
    finally:
        feed.close()


def _write(path: pathlib.Path, columns: Mapping[str, np.ndarray], captions: Mapping[str, Sequence[str]]) -> None:
    from PIL import Image

    from jaxvision.train.predictions import write_image

    height, width = np.max([values.shape[1:3] for values in columns.values()], axis=0)
    rows = len(next(iter(columns.values())))
    images = [np.round(np.clip(values[row], 0, 1) * 255).astype(np.uint8) for row in range(rows) for values in columns.values()]
    images = [np.asarray(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")) for image in images]
    cell = int(min(256, max(112, height, width)))
    titles = [captions.get(name, [name] * rows)[row] for row in range(rows) for name in columns]
    write_image(path, figures.sheet(images, titles, columns=len(columns), cell=cell))

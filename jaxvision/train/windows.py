"""Whole volumes in windows of one size: device memory does not grow with the volume, and on the host only the rows that windows still reach are held
as scores.

Windows overlap evenly; each counts by a Gaussian around its middle (Isensee et al. 2021, nnU-Net), as voxels near an edge are known less well. The
scores are averaged, and rows of the first axis that no further window reaches are finished at once.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32, Integer

from jaxvision.data.source import Unreadable
from jaxvision.errors import ConfigError, DataError
from jaxvision.tasks.base import Windows
from jaxvision.train.feed import pack, to_mesh
from jaxvision.train.mesh import batch_sharding
from jaxvision.train.setup import Executables

Run = Callable[[Float[np.ndarray, "b *size c"]], Float[np.ndarray, "b *size k"]]
# Weights below this share of the largest count as it, so that corners are divided by something.
SMALLEST = 1e-3


def importance(windows: Windows) -> Float32[np.ndarray, "*size"]:
    """The weight of each voxel of a window, 1 in the middle."""
    if windows.sigma is None:
        return np.ones(windows.size, np.float32)
    weight = np.ones((), np.float64)
    for n in windows.size:
        places = np.arange(n) - (n - 1) / 2
        weight = weight[..., None] * np.exp(-0.5 * (places / (windows.sigma * n)) ** 2)
    return np.maximum(weight / weight.max(), SMALLEST).astype(np.float32)


def starts(length: int, side: int, overlap: float) -> list[int]:
    """First voxels of windows that cover `length` >= `side`, evenly spread, at most side x (1 - overlap) apart."""
    count = 1 + int(np.ceil((length - side) / max(1, side * (1 - overlap)))) if length > side else 1
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]


def score_windows(run: Run, volume: Float[np.ndarray, "*space c"], windows: Windows, batch: int) -> Iterator[tuple[int, Float[np.ndarray, "..."]]]:
    """(first row, averaged scores (rows, …, K)) of parts that follow each other along the first axis and cover the volume.

    A volume smaller than a window is surrounded by its darkest value.

    Args:
      run: scores of a batch of windows.
      batch: windows a call.
    """
    size, space = windows.size, volume.shape[:-1]
    missing = [max(0, side - length) for side, length in zip(size, space)]
    if any(missing):
        around = [(m // 2, m - m // 2) for m in missing]
        whole = np.pad(volume, [*around, (0, 0)], constant_values=volume.min())
        inner = [slice(a, a + length) for (a, _), length in zip(around, space)]
        begun = 0
        for _, part in score_windows(run, whole, windows, batch):
            rows = slice(max(0, inner[0].start - begun), max(0, inner[0].stop - begun))
            kept = part[(rows, *inner[1:])]
            if len(kept):
                yield max(0, begun - inner[0].start), kept
            begun += len(part)
        return
    weight = importance(windows)
    corners = list(itertools.product(*(starts(length, side, windows.overlap) for length, side in zip(space, size))))
    total = weights = None
    base = 0
    for begin in range(0, len(corners), batch):
        chosen = corners[begin : begin + batch]
        cut = [np.asarray(volume[tuple(slice(a, a + side) for a, side in zip(corner, size))], np.float32) for corner in chosen]
        made = run(np.stack(cut + cut[-1:] * (batch - len(cut))))
        if total is None:
            total = np.zeros((size[0], *space[1:], made.shape[-1]), np.float32)
            weights = np.zeros((size[0], *space[1:]), np.float32)
        for corner, scores in zip(chosen, made):
            if corner[0] > base:
                done = corner[0] - base
                yield base, total[:done] / weights[:done, ..., None]
                total, weights = (_moved_up(array, done) for array in (total, weights))
                base = corner[0]
            place = (slice(None), *(slice(a, a + side) for a, side in zip(corner[1:], size[1:])))
            total[place] += scores * weight[..., None]
            weights[place] += weight
    yield base, total / weights[..., None]


def _moved_up(array: np.ndarray, rows: int) -> np.ndarray:
    array[:-rows] = array[rows:].copy() if rows < len(array) else 0
    array[-rows:] = 0
    return array


def mask_of(run: Run, volume: Float[np.ndarray, "*space c"], windows: Windows, batch: int) -> Integer[np.ndarray, "*space"]:
    """The most probable class of every voxel."""
    mask = np.zeros(volume.shape[:-1], np.uint8)
    for first, scores in score_windows(run, volume, windows, batch):
        if scores.shape[-1] > 256 and mask.dtype == np.uint8:
            mask = mask.astype(np.uint16)
        mask[first : first + len(scores)] = scores.argmax(-1)
    return mask


def window_runner(executables: Executables, carry: Any, frozen: Any) -> tuple[Run, int]:
    """(run, batch) for `score_windows`: windows sharded over the mesh, `eval_batch_size` a call. Every process gives and gets all of them."""
    setup = executables.setup
    batch, sharding = setup.eval_batch_size, batch_sharding(setup.mesh)
    rows = batch // jax.process_count()
    own = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
    index = np.arange(batch, dtype=np.int32)[own]

    def run(windows):
        arrays, layout = pack({"volume": windows[own], "index": index, "valid": np.ones(rows, bool)})
        return np.asarray(jax.device_get(executables.predict(carry, frozen, to_mesh(arrays, sharding), layout)["scores"]))

    return run, batch


def run_whole(executables: Executables, carry: Any, frozen: Any, split: str) -> tuple[dict, dict[str, np.ndarray], int]:
    """As `evaluate.run_split`, for tasks with `windows`: (no sums, what `Task.measure` says of each example as rows, unreadable records)."""
    setup = executables.setup
    source, task = setup.sources[split], setup.task
    run, batch = window_runner(executables, carry, frozen)
    rows: dict[str, list] = {"index": []}
    skipped = 0
    for number in range(len(source)):
        try:
            example = source.record(number)
        except Unreadable as error:
            if setup.config.data.corrupt == "error":
                raise DataError(f"{error}; data.corrupt='skip' leaves such records out and counts them") from error
            skipped += 1
            continue
        if "mask" not in example:
            raise ConfigError(f"{source.name_of(number)} has no mask to compare with; the test split needs masks")
        outputs = {"mask": mask_of(run, example["volume"], task.windows, batch)}
        rows["index"].append(number)
        for name, value in task.measure(outputs, example).items():
            rows.setdefault(name, []).append(value)
    if not rows["index"]:
        raise DataError(f"none of the {len(source)} records of split {split!r} can be read")
    return {}, {name: np.stack([np.asarray(value) for value in values]) for name, values in rows.items()}, skipped

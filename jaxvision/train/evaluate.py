"""Evaluation: every example of a split exactly once, on any number of devices and processes."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxvision.tasks.state import TrainState
from jaxvision.train.feed import Feed
from jaxvision.train.mesh import batch_sharding
from jaxvision.train.setup import Executables
from jaxvision.train.windows import run_whole


def evaluate(executables: Executables, carry: TrainState, frozen: Any, splits: Sequence[str] = ("test",)) -> tuple[dict, dict]:
    """(metrics, tables): flat floats such as "test/accuracy", and matrices such as "test/confusion" for drawing."""
    setup = executables.setup
    metrics, tables, rows = {}, {}, {}
    run = run_split if setup.task.windows is None else run_whole
    for split in splits:
        sums, rows[split], unreadable = run(executables, carry, frozen, split)
        metrics |= {f"{split}/{name}": float(value / max(count, 1e-9)) for name, (value, count) in sums.items()}
        if unreadable:
            metrics[f"{split}/unreadable"] = float(unreadable)
    for name, value in setup.task.summarize(rows, setup.problem.classes).items():
        name = name if "/" in name else f"{splits[-1]}/{name}"
        if np.ndim(value):
            tables[name] = np.asarray(value)
        else:
            metrics[name] = float(value)
    return metrics, tables


def run_split(executables: Executables, carry: TrainState, frozen: Any, split: str) -> tuple[dict, dict[str, np.ndarray], int]:
    """(sums, rows sorted by index with padding and repeats dropped, number of unreadable records) of one split."""
    setup = executables.setup
    stream = executables.eval_stream(split)
    feed = Feed(iter(stream), batch_sharding(setup.mesh))
    sums: dict[str, np.ndarray] = {}
    blocks: list[dict[str, np.ndarray]] = []
    waiting = []
    try:
        for item in feed:
            waiting.append(executables.evaluate(carry, frozen, item))
            if len(waiting) > 2:  # so that the host reads one batch while the device computes the next
                _collect(waiting.pop(0), sums, blocks)
        for result in waiting:
            _collect(result, sums, blocks)
    finally:
        feed.close()
    rows = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]} if blocks else {}
    return sums, sort_rows(rows), len(getattr(stream, "skipped", ()))


def _collect(result: tuple[dict, dict], sums: dict[str, np.ndarray], blocks: list[dict[str, np.ndarray]]) -> None:
    new, rows = jax.device_get(result)
    for name, pair in new.items():
        # float64 on the host: sums over a million examples stay exact.
        sums[name] = sums.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    blocks.append(rows)


def sort_rows(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows in the order of `index`; those that are not valid, and repeats, dropped."""
    if not rows:
        return rows
    valid = rows["valid"].astype(bool)
    kept = {name: value[valid] for name, value in rows.items() if name != "valid"}
    _, first = np.unique(kept["index"], return_index=True)
    return {name: value[first] for name, value in kept.items()}

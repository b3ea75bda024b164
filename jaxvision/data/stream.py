"""Streams of batches: endless for training, each example exactly once for evaluation.

The position of a training stream is one integer, the examples drawn so far by all processes together. Draw d is a pure function of (seed, d), see
order.py; a batch is the draws position, …, position + batch_size - 1, of which process p takes the p-th contiguous block of rows. So a run that goes
on from a position with other batch sizes, workers or processes draws the same examples in the same order with the same crops.

A record that cannot be read or decoded either ends the run with its name (`corrupt="error"`) or keeps its slot (`"skip"`): `valid` is false, its
content is a copy of the nearest readable record of the same process, its name is in `skipped`.
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxvision.data import order, workers
from jaxvision.data.clips import Clip, check_clips, fit_clip
from jaxvision.data.decode import RANDOMS, Decode, decode, fit_columns
from jaxvision.data.patches import Patch, cut_patch
from jaxvision.data.source import Source, Unreadable
from jaxvision.errors import ConfigError, DataError, nearest

POLICIES = ("error", "skip")
# By how it is cut: what a record holds, what people call it, what its size is, and the function.
KINDS = {
    Decode: ("image", "picture", "(height, width)", decode),
    Patch: ("volume", "volume", "(depth, height, width)", cut_patch),
    Clip: ("clip", "clip", "(frames, height, width)", fit_clip),
}
Batch = dict[str, np.ndarray]


@dataclasses.dataclass
class _Loader:
    """Batch number -> (arrays, [(name, why)] of unreadable records). Sent to worker processes, so it holds no threads until it is used."""

    source: Source
    image: Decode | Patch | Clip
    order: order.Order
    training: bool
    start: int  # draw of row 0 of this process in batch 0
    stride: int  # draws from batch to batch
    rows: int
    threads: int
    until: int | None = None  # draws from here on are padding
    steps: int | None = None  # batch numbers are counted modulo this
    pool: Any = None

    def __getstate__(self):
        return {**self.__dict__, "pool": None}

    def _read(self, draw: int, example: int) -> dict[str, Any] | Unreadable:
        randoms = order.uniforms(self.order.seed, draw, RANDOMS) if self.training else None
        try:
            record, name = self.source.record(example), self.source.name_of(example)
            column, *_, cut = KINDS[type(self.image)]
            if column not in record:
                kind, size = next(((kind, size) for column, kind, size, _ in KINDS.values() if column in record), ("picture", "(height, width)"))
                raise ConfigError(f"{name} is a {kind}, for which image_size is {size}, not {self.image.image_size}")
            return cut(record, self.image, name, randoms)
        except Unreadable as error:
            return error

    def __call__(self, batch: int) -> dict[str, Any]:
        start = self.start + (batch if self.steps is None else batch % self.steps) * self.stride
        draws = range(start, start + self.rows)
        if self.until is None:
            examples = self.order.draws(start, start + self.rows)
        else:
            examples = np.minimum(np.array(draws), self.until - 1)
        work = [(draw, int(example)) for draw, example in zip(draws, examples) if self.until is None or draw < self.until]
        if self.threads > 1:
            self.pool = self.pool or concurrent.futures.ThreadPoolExecutor(self.threads, "decode")
            records = list(self.pool.map(self._read, *zip(*work))) if work else []
        else:
            records = [self._read(*item) for item in work]
        failed = [(self.source.name_of(example), str(record)) for (_, example), record in zip(work, records) if isinstance(record, Unreadable)]
        good = np.array([row for row, record in enumerate(records) if not isinstance(record, Unreadable)], int)
        valid = np.zeros(self.rows, bool)
        valid[good] = True
        if not len(good):
            records, good = [self._any_readable(draws[0], int(examples[0]), failed)], np.zeros(1, int)
        near = good[np.abs(np.arange(self.rows)[:, None] - good).argmin(axis=1)]
        arrays = self._stack([records[row] for row in near], examples)
        return {"batch": arrays | {"index": examples.astype(np.int32), "valid": valid}, "failed": failed}

    def _any_readable(self, draw: int, example: int, failed: list[tuple[str, str]]) -> dict[str, Any]:
        """A stand-in for a block without a readable record: padding only, or all of it damaged. Looks on both sides of `example`."""
        size = len(self.source)
        for step in range(size):
            for near in {example - step, example + step}:
                if 0 <= near < size and not isinstance(record := self._read(draw, near), Unreadable):
                    return record
        raise DataError(f"none of the {size} records of the source can be read; {failed[0][1]}")

    def _stack(self, records: list[dict[str, Any]], examples: np.ndarray) -> Batch:
        try:
            return {key: np.stack([record[key] for record in records]) for key in records[0]}
        except (ValueError, KeyError) as error:
            shapes = {key: sorted({str(np.shape(record.get(key))) for record in records}) for key in records[0]}
            raise DataError(f"records {self.source.name_of(int(examples[0]))}, … cannot be stacked into a batch ({error}): shapes {shapes}; "
                            "boxes of different numbers need data.max_boxes") from error


class _Stream:
    """What both streams share: arguments checked, columns fitted, rows of this process, policy."""

    def __init__(self, source, batch_size, image, process_index, process_count, workers_, corrupt):
        if batch_size < 1 or batch_size % process_count:
            raise ConfigError(f"batch_size {batch_size} does not divide by the {process_count} processes")
        if not 0 <= process_index < process_count:
            raise ConfigError(f"process {process_index} of {process_count} processes does not exist")
        if corrupt not in POLICIES:
            raise ConfigError(f"data.corrupt {corrupt!r} is unknown; {nearest(corrupt, POLICIES)}")
        if not len(source):
            raise DataError("the source has no examples")
        self.source, self.batch_size, self.image, self.corrupt = source, batch_size, image, corrupt
        self.rows = batch_size // process_count
        self.first = process_index * self.rows
        if isinstance(image, Clip) and source.columns is not None:
            check_clips(source, image)
        self.columns = None if source.columns is None else fit_columns(source, image)
        self.workers = workers.default_workers(self.columns is not None) if workers_ is None else workers_
        self.threads = 1 if self.workers else min(workers.processors(), 16)
        self.skipped: dict[str, str] = {}
        self.skipped_count = 0
        self._iterator = None

    def _gather(self, examples: np.ndarray, valid: np.ndarray) -> Batch:
        batch = {key: value.take(examples, axis=0) for key, value in self.columns.items()}
        batch["index"], batch["valid"] = examples.astype(np.int32), valid
        return batch

    def _next(self, **loader) -> Batch:
        if self._iterator is None:
            self._iterator = workers.read_ahead(
                _Loader(self.source, self.image, stride=self.batch_size, rows=self.rows, threads=self.threads, **loader), self.workers, self.prefetch
            )
        made = next(self._iterator)
        for name, why in made["failed"]:
            if self.corrupt == "error":
                raise DataError(f"{why}; data.corrupt='skip' leaves such records out and counts them")
            self.skipped[name] = why
            self.skipped_count += 1
        # Arrays of worker processes lie in shared memory, which is given back here rather than whenever the caller drops the batch.
        return {key: np.array(value) for key, value in made["batch"].items()} if self.workers else made["batch"]

    def close(self) -> None:
        """Ends threads and worker processes. The stream may be used again; it then starts them anew."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


class TrainStream(_Stream):
    """This process's rows of an endless sequence of global batches.

    Args:
      source: the examples.
      batch_size: of the global batch; divides by process_count.
      image: how records are decoded, or volumes cut.
      seed: of the permutations and crops.
      position: examples drawn before, globally: the `position` of the stream that this one continues.
      epoch_shuffle: False walks the source in its own order.
      process_index, process_count: which rows are this process's.
      workers: processes that read; None chooses (none for sources in memory). No effect on the batches. They are spawned, so a script that asks for
        them runs its work under `if __name__ == "__main__":`.
      prefetch: batches read ahead.
      corrupt: "error" or "skip".

    Iterating gives dicts of arrays with `index` (B,) int32, the example's number in the source, and `valid` (B,) bool.

    Attributes:
      position: examples drawn globally when the last batch handed out had been drawn.
      skipped: name -> reason of the unreadable records so far; skipped_count: slots that they left invalid.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        image: Decode | Patch | Clip,
        seed: int,
        position: int = 0,
        epoch_shuffle: bool = True,
        process_index: int = 0,
        process_count: int = 1,
        workers: int | None = None,
        prefetch: int = 2,
        corrupt: str = "error",
    ):
        super().__init__(source, batch_size, image, process_index, process_count, workers, corrupt)
        if position < 0:
            raise ConfigError(f"the data position is {position}; it must be 0 or more")
        self.position, self.prefetch = int(position), prefetch
        self._order = order.Order(len(source), seed, epoch_shuffle)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = self.position + self.first
        if self.columns is not None:
            batch = self._gather(self._order.draws(start, start + self.rows), np.ones(self.rows, bool))
        else:
            batch = self._next(order=self._order, training=True, start=start)
        self.position += self.batch_size
        return batch


class EvalStream(_Stream):
    """Every example exactly once, in order, in the same number of steps on every process; may be iterated again and again.

    Row r of global batch b is example b * batch_size + r. What is missing in the last batch is padded with copies whose `valid` is false. Arguments
    and attributes as of TrainStream; `len()` is the number of steps. Worker processes stay for the next pass until `close()`.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        image: Decode | Patch | Clip,
        process_index: int = 0,
        process_count: int = 1,
        workers: int | None = None,
        prefetch: int = 2,
        corrupt: str = "error",
    ):
        super().__init__(source, batch_size, image, process_index, process_count, workers, corrupt)
        self.prefetch = prefetch
        self._order = order.Order(len(source), 0, shuffle=False)
        self._step = 0

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A pass that was left early leaves the reader in the middle; one that ran through leaves it at the beginning of the next.
        if self._step:
            self.close()
        self.skipped, self.skipped_count = {}, 0
        for step in range(len(self)):
            self._step = (step + 1) % len(self)
            if self.columns is not None:
                draws = np.arange(step * self.batch_size + self.first, step * self.batch_size + self.first + self.rows)
                yield self._gather(np.minimum(draws, len(self.source) - 1), draws < len(self.source))
            else:
                yield self._next(order=self._order, training=False, start=self.first, until=len(self.source), steps=len(self))

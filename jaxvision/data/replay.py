"""The replay buffer of EfficientTrain++ (Wang et al. 2024, arXiv 2405.08768) for input pipelines that are slower than the accelerator.

Each process remembers its last batches, cut into chunks. A step takes fresh examples for one part of `uses` and draws the others, with replacement,
from what is remembered, the fresh ones included; so an image that was read and decoded serves `uses` times on average. The buffer is empty when a
phase begins. What step s draws is a pure function of (seed, where the phase began, s): after a resume, chunks that are no longer remembered are read
again. Different from the public code: it remembers augmented images in half precision, we remember what the host decoded (uint8, a random crop
already drawn) and augment it anew each time.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxvision.data.stream import Batch, TrainStream
from jaxvision.errors import ConfigError

CHUNKS = 32  # of a batch, or as many as divide its rows
_REPLAY = 4  # what the random stream is for, beside those of order.py


def chunk_draws(seed: int, began: int, step: int, count: int, remembered: int, chunks: int) -> Int[np.ndarray, "count 2"]:
    """(batch, chunk) of `count` draws of a step: batches step - remembered + 1 .. step of the phase that began at example `began`."""
    raw = np.random.PCG64(np.random.SeedSequence([seed, _REPLAY, began, step])).random_raw(2 * count).reshape(count, 2)
    share = (raw >> np.uint64(11)) * 2.0**-53
    first = max(0, step - remembered + 1)
    return np.stack([first + (share[:, 0] * (step + 1 - first)).astype(int), (share[:, 1] * chunks).astype(int)], axis=1)


class ReplayStream:
    """This process's rows of an endless sequence of global batches, most of them seen before. Other arguments and attributes as of TrainStream.

    Args:
      batch_size: of the global batch, fresh and replayed examples together.
      uses: batch_size / fresh examples; divides batch_size.
      remembered: batches of fresh examples that are kept.
      position: examples drawn before, globally; replayed ones are not counted.
      step: of the phase.
    """

    def __init__(self, source: Any, *, batch_size: int, uses: int, remembered: int, position: int, step: int, seed: int, **options: Any):
        if uses < 2 or batch_size % uses:
            raise ConfigError(f"replay: {uses} uses of an image have to be at least 2 and divide the batch, {batch_size}")
        self.fresh, self.uses, self.remembered, self.seed = batch_size // uses, uses, remembered, seed
        self._stream = TrainStream(source, batch_size=self.fresh, position=position, seed=seed, **options)
        self._options = {key: options[key] for key in ("image", "corrupt") if key in options}
        self.chunks = math.gcd(CHUNKS, self._stream.rows)
        self.step, self.began = step, position - step * self.fresh
        self._batches: dict[int, Batch] = {}
        self._read: dict[tuple[int, int], Batch] = {}

    @property
    def position(self) -> int:
        return self._stream.position

    @property
    def skipped(self) -> dict[str, str]:
        return self._stream.skipped

    @property
    def skipped_count(self) -> int:
        return self._stream.skipped_count

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        fresh = next(self._stream)
        self._batches[self.step] = fresh
        self._batches.pop(self.step - self.remembered, None)
        draws = chunk_draws(self.seed, self.began, self.step, (self.uses - 1) * self.chunks, self.remembered, self.chunks)
        parts = [fresh, *(self._chunk(int(batch), int(chunk)) for batch, chunk in draws)]
        self.step += 1
        self._read = {key: value for key, value in self._read.items() if key[0] > self.step - 1 - self.remembered}
        return {key: np.concatenate([part[key] for part in parts]) for key in fresh}

    def _chunk(self, batch: int, chunk: int) -> Batch:
        rows = self._stream.rows // self.chunks
        if batch in self._batches:
            return {key: value[chunk * rows : (chunk + 1) * rows] for key, value in self._batches[batch].items()}
        if (batch, chunk) not in self._read:
            where = self.began + batch * self.fresh + self._stream.first + chunk * rows
            stream = TrainStream(self._stream.source, batch_size=rows, position=where, seed=self.seed, workers=0, **self._options)
            self._read[batch, chunk] = next(stream)
            stream.close()
        return self._read[batch, chunk]

    def close(self) -> None:
        """Ends threads and worker processes."""
        self._stream.close()

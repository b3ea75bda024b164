"""The order of examples: an endless sequence of per-epoch permutations, each a pure function of (seed, epoch).

Draw number d, counted over all processes since the beginning of the run, is example `permutation(epoch = d // size)[d % size]`. So one integer, the
number of draws so far, says where a run stands, whatever its batch sizes, workers and processes were.

Random bits are read raw: numpy promises `random_raw` and `SeedSequence` never to change, which it does not for `permutation` or `uniform`; a run that
is resumed under another numpy draws the same examples. A permutation is one sort of 64-bit numbers.
"""

import numpy as np
from jaxtyping import Float, Int

from jaxvision.errors import ConfigError

_ORDER, _CROP = 0, 1  # what a random stream is for; the split of a source into training and test uses 2, the procedural pictures 3


def permutation(size: int, seed: int, epoch: int) -> Int[np.ndarray, " size"]:
    """The order of `size` examples in one epoch."""
    raw = np.random.PCG64(np.random.SeedSequence([seed, _ORDER, epoch])).random_raw(size)
    # The number in the low bits, random bits above it: all keys differ, so any sort gives the same order, and it is faster than an argsort.
    low = np.uint64((1 << size.bit_length()) - 1)
    return (np.sort((raw & ~low) | np.arange(size, dtype=np.uint64)) & low).astype(np.int64)


def uniforms(seed: int, draw: int, count: int) -> Float[np.ndarray, " count"]:
    """`count` numbers in [0, 1) that belong to one draw: the randomness of its crop."""
    raw = np.random.PCG64(np.random.SeedSequence([seed, _CROP, draw])).random_raw(count)
    return (raw >> np.uint64(11)) * 2.0**-53


class Order:
    """Example numbers by draw number.

    Args:
      size: number of examples.
      seed: of the permutations; not negative.
      shuffle: False walks 0, 1, 2, … in every epoch.
    """

    def __init__(self, size: int, seed: int, shuffle: bool = True):
        if seed < 0:
            raise ConfigError(f"seed is {seed}; it must be 0 or more")
        self.size, self.seed, self.shuffle = size, int(seed), shuffle
        self._recent: dict[int, np.ndarray] = {}

    def _epoch(self, epoch: int) -> np.ndarray:
        order = self._recent.get(epoch)
        if order is None:
            order = permutation(self.size, self.seed, epoch) if self.shuffle else np.arange(self.size)
            # Two epochs are kept, for batches that straddle them; a fresh dict because reader threads share this object.
            self._recent = {**dict(list(self._recent.items())[-1:]), epoch: order}
        return order

    def draws(self, start: int, stop: int) -> Int[np.ndarray, " draws"]:
        """Example numbers of the draws start, …, stop - 1."""
        epoch, first = divmod(start, self.size)
        last = first + stop - start
        if last <= self.size:
            return self._epoch(epoch)[first:last]
        parts = []
        while start < stop:
            epoch, first = divmod(start, self.size)
            last = min(self.size, first + stop - start)
            parts.append(self._epoch(epoch)[first:last])
            start += last - first
        return np.concatenate(parts)

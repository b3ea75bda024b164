"""Batches of sources on disk, read ahead by grain: in threads of this process, or in worker processes.

grain is given batch numbers, not examples: whoever makes batch b makes it as a pure function of b, so neither the number of workers nor of threads
can change it, and the position of a run is not grain's to keep.
"""

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from jaxvision.errors import ConfigError

_ENDLESS = 2**40  # batches


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(in_memory: bool) -> int:
    """0 for sources in memory and on small machines, where threads keep the processors busy; else one per processor but one, at most 8."""
    count = processors()
    return 0 if in_memory or count <= 4 else min(count - 1, 8)


def _end_with_parent() -> None:
    """Ends this worker when its parent is gone, however that ended: the sentinel is a pipe that the system closes, after SIGKILL too."""
    parent = multiprocessing.parent_process()

    def wait():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="end-with-parent").start()


def _start_worker(index: int, count: int) -> None:
    del index, count
    _end_with_parent()
    if "jax" in sys.modules:  # grain imports it; the devices belong to the parent
        sys.modules["jax"].config.update("jax_platforms", "cpu")


def read_ahead(load: Callable[[int], Any], workers: int, prefetch: int) -> Iterator[Any]:
    """load(0), load(1), … without end, made ahead of time; the iterator has `close()`.

    Args:
      load: a picklable function of the batch number.
      workers: processes; 0 reads in a thread of this process.
      prefetch: batches made ahead, together; each worker is at least one ahead.
    """
    import absl.flags
    import grain  # 1.7 s, and sources in memory do without

    if workers < 0 or prefetch < 1:
        raise ConfigError(f"data.workers is {workers} and data.prefetch {prefetch}; they must be at least 0 and 1")
    batches = grain.MapDataset.range(_ENDLESS).map(load)
    if not workers:
        return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)))
    if not absl.flags.FLAGS.is_parsed():  # grain looks up its own flags before it starts a worker; in a notebook nobody has parsed any
        absl.flags.FLAGS.mark_as_parsed()
    inside = batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=-(-prefetch // workers))
    return iter(inside.mp_prefetch(options, worker_init_fn=_start_worker))

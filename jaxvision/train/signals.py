"""SIGTERM and SIGINT as a wish to stop that the training loop grants between two steps, on all processes at the same one."""

import signal
import threading
from types import FrameType

import jax
import numpy as np


class GracefulStop:
    """A context manager; inside it the first SIGTERM or SIGINT (Ctrl-C) only raises a flag, a second SIGINT raises KeyboardInterrupt.

        with GracefulStop() as stop:
            for step in range(first, last):
                …
                if stop.requested(step + 1):
                    break    # save, and leave

    Alone, `requested` is one look at a flag. Processes of one run must stop after the same step, or the rest would wait for ever in a
    collective: every `every` steps they exchange their flags (a gather of one number, which also waits for the step before), so a signal to any
    of them stops all within `every` steps. Outside the main thread, where Python allows no handlers, signals keep their meaning.
    """

    def __init__(self, *, every: int = 20, signals: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)):
        self.every = every
        self.received: str | None = None  # "SIGTERM"; on a process that was stopped by another's signal, that one's is not known
        self._signals = signals
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "GracefulStop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in self._signals}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name

    def requested(self, step: int) -> bool:
        """Whether to stop now; the same answer on every process, which must all ask with the same steps."""
        if jax.process_count() == 1:
            return self.received is not None
        if step % self.every:
            return False
        from jax.experimental import multihost_utils

        with jax.transfer_guard("allow"):
            return bool(multihost_utils.process_allgather(np.int32(self.received is not None)).any())

"""The progress line of a run: steps/s, images/s, loss, accuracy, and the time left."""

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TextIO

_WINDOW = 20  # updates that the rate is taken over: long enough to include an evaluation or a checkpoint now and then
_SHOWN = ("loss", "accuracy")


def duration(seconds: float) -> str:
    """`7 s`, `3:07`, `2:03:07`, `1 d 2:03:07`."""
    seconds = round(seconds)
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days} d {hours}:{minutes:02d}:{rest:02d}"
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


class Progress:
    """Shows where a run is: one line, rewritten, on a terminal; elsewhere a line of its own at most every `every` seconds and at the end.

    The rate is that of the last 20 updates. Compilation, which the time before the first update includes, counts only until there is a second one.

    Args:
      total_steps: steps of the whole run.
      batch_size: images a step, of all processes together.
      start_step: the step a resumed run begins at.
      stream: where to write.
      every: seconds between two lines where the stream is not a terminal.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        start_step: int = 0,
        *,
        stream: TextIO | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._batch_size, self._every, self._clock = total_steps, batch_size, every, clock
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._began = clock()
        self._marks: deque[tuple[float, int]] = deque([(self._began, start_step)], maxlen=_WINDOW + 1)
        self._compiled = False
        self._shown_at = -float("inf")
        self._shown: dict[str, float] = {}

    def rebatch(self, batch_size: int) -> None:
        """Steps have another number of images from here on; the rate starts anew."""
        if batch_size != self._batch_size:
            self._batch_size = batch_size
            self._marks = deque([self._marks[-1]], maxlen=_WINDOW + 1)

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Notes that `step` steps are done. `metrics` may be any; the last seen loss and accuracy are shown ("train/loss", "test/accuracy" …)."""
        now = self._clock()
        if step > self._marks[-1][1]:
            if len(self._marks) == 2 and not self._compiled:
                self._marks.popleft()
                self._compiled = True
            self._marks.append((now, step))
        for name, value in metrics.items():
            if name.rsplit("/", 1)[-1] in _SHOWN:
                self._shown[name.removeprefix("train/")] = float(value)
        # 0.1 s: a terminal is not written to faster than anyone reads
        if step < self._total and now - self._shown_at < (0.1 if self._terminal else self._every):
            return
        self._shown_at = now
        if self._terminal:
            self._stream.write("\r" + self.line()[: shutil.get_terminal_size().columns - 1] + "\x1b[K")
        else:
            self._stream.write(self.line() + "\n")
        self._stream.flush()

    def line(self) -> str:
        """The line as it stands: "step 300/1000 30 % | 12.5 steps/s | 800 images/s | loss 0.412 | accuracy 0.871 | ETA 0:56"."""
        (before, from_step), (now, step) = self._marks[0], self._marks[-1]
        parts = [f"step {step}/{self._total} {100 * step // max(self._total, 1)} %"]
        rate = (step - from_step) / (now - before) if now > before else 0.0
        if rate > 0:
            parts += [f"{_short(rate)} steps/s", f"{_short(rate * self._batch_size)} images/s"]
        order = sorted(self._shown, key=lambda name: ("/" in name, not name.endswith("loss")))  # of training first, the loss before the accuracy
        parts += [f"{name} {self._shown[name]:.4g}" for name in order]
        if step >= self._total:
            parts.append(f"took {duration(self._clock() - self._began)}")
        elif rate > 0:
            parts.append(f"ETA {duration((self._total - step) / rate)}")
        return " | ".join(parts)

    def close(self) -> None:
        """Ends the rewritten line, so that what is printed next starts on its own."""
        if self._terminal and self._shown_at > -float("inf"):
            self._stream.write("\n")
            self._stream.flush()

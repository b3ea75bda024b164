"""Two libraries in one interleaved run: each in a process of its own, on the same processors, that steps when it is asked.

A script gives its step builders to `work` where it is started with --worker=NAME, and asks `Worker`s otherwise. The other library's environment need
not have this one: nothing of it is imported.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

HERE = pathlib.Path(__file__).resolve().parent


def timed(step: Callable[[], None]) -> dict[str, float]:
    """Seconds of one call: by the clock, and of all threads on their processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def keep_freed_memory() -> None:
    """jaxvision/host_memory.py, by its path."""
    spec = importlib.util.spec_from_file_location("host_memory", HERE.parent / "jaxvision" / "host_memory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.keep_freed_memory()


def work(build: Callable[..., Callable[[], None]]) -> None:
    """A line of arguments builds a step and runs it once, an empty line runs it again; each is answered by one line of JSON."""
    keep_freed_memory()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    step = None
    for line in sys.stdin:
        if line.strip():
            step = build(**json.loads(line))
            step()
        print(json.dumps(timed(step)), file=answers, flush=True)


class Worker:
    """A process of `script` under another interpreter, which has one library loaded."""

    def __init__(self, python: str, script: str, library: str):
        command = [python, os.path.abspath(script), f"--worker={library}"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def build(self, **arguments) -> dict[str, float]:
        return self._ask(json.dumps(arguments))

    def step(self) -> dict[str, float]:
        return self._ask("")

    def _ask(self, line: str) -> dict[str, float]:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{' '.join(self.process.args)} ended with exit code {self.process.wait()}: see its messages above")
        return json.loads(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

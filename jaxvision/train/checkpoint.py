"""Checkpoints of a run: saved behind the training's back, verified before they are believed, never half there.

`<folder>/<step>/` holds `arrays/` (orbax, the state as nested dicts named like its leaves), `meta.json` and, written last, `manifest.json` with a
checksum of every file. Everything is written into `<step>.tmp-<n>` and renamed when the disk has it, so a kill at any moment leaves a complete
checkpoint or a leftover that the next run removes. Orbax's own manager is not used: it would cost the training thread 15 ms for ten leaves and
130 ms for three hundred; here that thread pays for the copies alone, and a background thread does the rest. Only a run of several processes,
whose arrays no single one of them can copy, calls orbax's asynchronous save from the training thread.
"""

import contextlib
import errno
import json
import math
import os
import pathlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxvision.errors import CheckpointError, ConfigError
from jaxvision.train import arrays, manifest
from jaxvision.trees import named_leaves

FOLDER = "checkpoints"
META, ARRAYS, TEMPORARY = "meta.json", "arrays", ".tmp-"


class Checkpoints:
    """The checkpoints of one folder, saved and restored. A context manager: leaving it waits for the save that is under way.

    Args:
      folder: where they lie; made by the first save.
      keep_last: number of newest ones that are kept, at least 1.
      keep_best: number of best ones kept beside them, by `best_metric` of the metrics given to `save`.
      best_mode: "max" or "min".
      report: called with one line about anything that a person should know (a damaged checkpoint, another one used in its place).
      read_only: leave leftovers of killed saves alone; for a process that reads while a run may be writing.

    In a run of several processes all of them construct it and call every method alike; process 0 verifies, decides, and writes the manifest.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        best_metric: str = "test/accuracy",
        best_mode: str = "max",
        report: Callable[[str], Any] = print,
        read_only: bool = False,
    ):
        if keep_last < 1 or keep_best < 0:
            raise ConfigError(f"checkpoint.keep_last is {keep_last} and checkpoint.keep_best {keep_best}; at least 1 and 0 are needed")
        if best_mode not in ("max", "min"):
            raise ConfigError(f"checkpoint.best_mode is {best_mode!r}; it is 'max' or 'min'")
        self.folder = pathlib.Path(folder).absolute()
        if self.folder.exists() and not self.folder.is_dir():
            raise CheckpointError(f"{self.folder} is a file; checkpoints need a folder")
        self.keep_last, self.keep_best, self.best_metric, self.best_mode = keep_last, keep_best, best_metric, best_mode
        self._report, self._read_only = report, read_only
        self._damaged: set[int] = set()
        self._saves = 0
        self._thread: threading.Thread | None = None
        self._failure: CheckpointError | None = None
        if not read_only and jax.process_index() == 0:
            self._clear_leftovers()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.wait()
        else:
            self._joined()

    # Saving

    def save(
        self,
        state: Any,
        meta: Mapping[str, Any],
        *,
        step: int,
        metrics: Mapping[str, float] | None = None,
        with_frozen: Iterable[str] = (),
    ) -> None:
        """Starts to save; returns when the arrays are copied, so that the caller may donate or overwrite them.

        Args:
          state: a pytree, usually a TrainState. Its `frozen` networks are left out, but for those named in `with_frozen`.
          meta: anything JSON can hold; read now, so the caller may change it afterwards. Tuples come back as lists.
          step: the name of the checkpoint; one of the same step is replaced.
          metrics: for the choice of the best.

        Raises:
          CheckpointError: the save before this one failed (a full disk), in which case nothing new is started.
        """
        if self._read_only:
            raise CheckpointError(f"{self.folder} was opened for reading; nothing can be saved into it")
        self.wait()
        names = set(with_frozen)
        leaves = {name: leaf for name, leaf in named_leaves(state).items() if not _is_frozen(state, name) or name.split("/")[1] in names}
        keys = {name: str(jax.random.key_impl(leaf)) for name, leaf in leaves.items() if arrays.is_key(leaf)}
        data = {name: jax.random.key_data(leaf) if name in keys else leaf for name, leaf in leaves.items()}
        kinds = {name: (np.shape(leaf), leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype) for name, leaf in leaves.items()}
        as_json = json.dumps({"meta": meta, "metrics": dict(metrics or {}), "keys": keys}, default=_plain)
        self._saves += 1
        temporary = self.folder / f"{int(step)}{TEMPORARY}{self._saves}"
        try:
            if jax.process_index() == 0:
                temporary.mkdir(parents=True)
            write = arrays.writer_of(data, temporary / ARRAYS)
        except (OSError, ValueError) as error:
            raise self._write_error(temporary, error) from error

        def finish() -> None:
            write()
            if jax.process_index() == 0:
                document = {**json.loads(as_json), "leaves": {name: (shape, str(dtype)) for name, (shape, dtype) in kinds.items()}}
                (temporary / META).write_text(json.dumps(document))
                manifest.write(temporary, {"step": int(step), "metrics": document.pop("metrics")})
                self._publish(temporary, int(step))
                self._forget_old(int(step))

        self._thread = threading.Thread(target=self._in_background, args=(finish, temporary), name=f"checkpoint-{step}")
        self._thread.start()

    def _in_background(self, finish: Callable[[], None], temporary: pathlib.Path) -> None:
        try:
            finish()
        except Exception as error:
            self._failure = self._write_error(temporary, error)
            self._failure.__cause__ = error
            if jax.process_index() == 0:
                _remove(temporary)

    def _write_error(self, temporary: pathlib.Path, error: Exception) -> CheckpointError:
        step, left = temporary.name.split(".")[0], ", ".join(map(str, self.steps())) or "none"
        return CheckpointError(f"the checkpoint of step {step} could not be written to {self.folder}: {_reason(error)}; complete ones: {left}")

    def _publish(self, temporary: pathlib.Path, step: int) -> None:
        final = self.folder / str(step)
        if final.exists():
            replaced = self.folder / f"{step}{TEMPORARY}replaced"
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
            temporary.rename(final)
            shutil.rmtree(replaced)
        else:
            temporary.rename(final)
        manifest.sync_folder(self.folder)
        self._damaged.discard(step)

    def _forget_old(self, newest: int) -> None:
        """Deletes what is neither among the last nor the best nor the one just written; damaged ones do not count."""
        good = [step for step in self.steps() if step not in self._damaged]
        keep = {newest, *good[-self.keep_last :], *self._ranked(good)[: self.keep_best]}
        for step in self._numbered():
            if step not in keep:
                old = self.folder / f"{step}{TEMPORARY}old"
                (self.folder / str(step)).rename(old)
                (old / manifest.NAME).unlink(missing_ok=True)
                shutil.rmtree(old)

    def _clear_leftovers(self) -> None:
        """Removes what a kill left behind; a complete one that lacked nothing but its name gets it."""
        leftovers = sorted(self.folder.glob(f"*{TEMPORARY}*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in leftovers:
            final = self.folder / path.name.split(TEMPORARY)[0]
            if not final.exists() and manifest.damage(path) is None:
                path.rename(final)
                self._report(f"checkpoint {final.name} in {self.folder} was complete but for its name; it is used")
            else:
                shutil.rmtree(path)

    def wait(self) -> None:
        """Returns when the save that is under way is on the disk. Raises CheckpointError when it failed, on every process."""
        if self._thread is None:
            return
        failure = self._joined()
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            with jax.transfer_guard("allow"):
                failures = np.flatnonzero(multihost_utils.process_allgather(np.int32(failure is not None)))
            if failures.size and failure is None:
                failure = CheckpointError(f"process {failures[0]} could not write its part of the checkpoint to {self.folder}")
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Waits like `wait`, but does not meet the other processes, so it is safe after an error that only this one had."""
        if failure := self._joined():
            raise failure

    def _joined(self) -> CheckpointError | None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        return failure

    # Looking

    def _numbered(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal() and path.is_dir())

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints (those with a manifest), ascending. The one being written is not among them."""
        return [step for step in self._numbered() if (self.folder / str(step) / manifest.NAME).is_file()]

    def _ranked(self, steps: Sequence[int]) -> list[int]:
        """Those that have a finite best metric, best first; of equals the later."""
        values = {}
        for step in steps:
            with contextlib.suppress(CheckpointError):
                value = manifest.read(self.folder / str(step))["metrics"].get(self.best_metric)
                if isinstance(value, int | float) and math.isfinite(value):
                    values[step] = value if self.best_mode == "max" else -value
        return sorted(values, key=lambda step: (values[step], step), reverse=True)

    def best(self) -> int | None:
        """The step with the best metric, or None when none has one."""
        ranked = self._ranked([step for step in self.steps() if step not in self._damaged])
        return ranked[0] if ranked else None

    # Restoring

    def _choose(self, which: str | int) -> int | None:
        numbered = self._numbered()
        if isinstance(which, int) or str(which).isdecimal():
            step = int(which)
            problem = manifest.damage(self.folder / str(step)) if step in numbered else "there is none of this step"
            if problem:
                others = ", ".join(str(other) for other in self.steps() if other != step) or "none"
                raise CheckpointError(f"checkpoint {step} of {self.folder} cannot be used: {problem}; others there: {others}")
            return step
        if which not in ("last", "best"):
            raise CheckpointError(f"checkpoint {which!r} is unknown; it is 'last', 'best' or a step, of which {self.folder} has: {numbered}")
        ranked = self._ranked(numbered) if which == "best" else []
        first_problem = None
        for step in [*ranked, *(step for step in reversed(numbered) if step not in ranked)]:
            problem = manifest.damage(self.folder / str(step))
            if problem is None:
                if first_problem:
                    self._report(f"{first_problem}; checkpoint {step} is used in its place")
                return step
            first_problem = first_problem or f"checkpoint {step} of {self.folder} is damaged: {problem}"
            self._damaged.add(step)
        if first_problem:
            raise CheckpointError(f"{first_problem}; no other of {len(numbered)} is whole. Move the folder away to begin anew")
        return None

    def choose(self, which: str | int = "last") -> int | None:
        """The step of the checkpoint that `restore` would take, its checksums verified; raises and reports as `restore` does."""
        self.wait()
        if jax.process_count() == 1:
            return self._choose(which)
        from jax.experimental import multihost_utils

        answer = np.zeros(4096, np.uint8)
        if jax.process_index() == 0:
            try:
                text = json.dumps({"step": self._choose(which)})
            except CheckpointError as error:
                text = json.dumps({"error": str(error)[:1000]})
            answer[: len(text)] = np.frombuffer(text.encode(), np.uint8)
        with jax.transfer_guard("allow"):
            answer = json.loads(bytes(multihost_utils.broadcast_one_to_all(answer)).rstrip(b"\0"))
        if "error" in answer:
            raise CheckpointError(answer["error"])
        return answer["step"]

    def read_meta(self, which: str | int = "last") -> dict[str, Any] | None:
        """The `meta` of the checkpoint that `restore` would take, verified in the same way; None when there is none at all."""
        step = self.choose(which)
        return None if step is None else self._document(step)["meta"]

    def _document(self, step: int) -> dict[str, Any]:
        return json.loads((self.folder / str(step) / META).read_text())

    def restore(self, like: Any, which: str | int = "last", *, only: Sequence[str] | None = None) -> tuple[Any, dict[str, Any]] | None:
        """(state, meta) of a checkpoint whose checksums hold.

        Args:
          like: the state as a tree of ShapeDtypeStruct (or arrays) with the shardings wanted now, on any mesh and number of processes; of its
            `frozen` networks those come back that the checkpoint has. None: nested dicts of numpy arrays, tuples as dicts of "0", "1", ….
          which: "last"; "best" (the last where none has the metric); or a step. A damaged one is reported and the next in line is used,
            unless it was asked for by number.
          only: with `like=None`, the top-level names to read, ("params", "extra") for one.

        Returns:
          None when there are no checkpoints at all.

        Raises:
          CheckpointError: none is whole, the one asked for is absent or damaged, or its leaves are not those of `like`.
        """
        step = self.choose(which)
        if step is None:
            return None
        document = self._document(step)
        held = {name: (tuple(shape), dtype) for name, (shape, dtype) in document["leaves"].items()}
        if like is None:
            names = [name for name in held if only is None or name.split("/")[0] in only]
            return arrays.nest(self._read(step, dict.fromkeys(names), document["keys"])), document["meta"]
        networks = {name.split("/")[1] for name in held if name.startswith("frozen/")}
        if _has_frozen(like):
            like = like.replace(frozen={name: tree for name, tree in like.frozen.items() if name in networks})
            held = {name: leaf for name, leaf in held.items() if not name.startswith("frozen/") or name.split("/")[1] in like.frozen}
        wanted = named_leaves(like)
        if problem := manifest.mismatches({name: manifest.leaf(leaf) for name, leaf in wanted.items()}, held):
            raise CheckpointError(f"checkpoint {step} of {self.folder} does not fit this run (another model, task or optimizer?): {problem}")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        read = self._read(step, {name: getattr(leaf, "sharding", None) or here for name, leaf in wanted.items()}, document["keys"])
        return jax.tree.unflatten(jax.tree.structure(like), [read[name] for name in wanted]), document["meta"]

    def _read(self, step: int, shardings: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
        if not shardings:
            return {}
        read = arrays.read_arrays(self.folder / str(step) / ARRAYS, shardings)
        return {name: arrays.as_key(read[name], keys[name], shardings[name]) if name in keys else read[name] for name in shardings}


def _remove(folder: pathlib.Path) -> None:
    """Deletes a folder that a failed save left; orbax's threads may still add files to it for a moment."""
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)


def _reason(error: Exception) -> str:
    """What the operating system said, which orbax wraps in several lines of where."""
    wrapped = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(wrapped[1]) if wrapped else getattr(error, "errno", None)
    if number is None:
        return f"{type(error).__name__} {str(error)[:300]}"
    return "the disk is full" if number == errno.ENOSPC else os.strerror(number)


def _has_frozen(state: Any) -> bool:
    return hasattr(state, "frozen") and hasattr(state, "replace")


def _is_frozen(state: Any, name: str) -> bool:
    return _has_frozen(state) and name.startswith("frozen/")


def _plain(value: Any) -> Any:
    """What JSON does not know: numpy and jax numbers and arrays, paths, ConfigDicts."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"meta of a checkpoint holds a {type(value).__name__}, which JSON cannot: {value!r}")


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two configs, one "optim.lr: 0.1 -> 0.2" a key, sorted; a config that went through JSON equals the original."""
    old, new = _flat(json.loads(json.dumps(old, default=_plain))), _flat(json.loads(json.dumps(new, default=_plain)))
    show = lambda config, key: repr(config[key]) if key in config else "(absent)"
    return [f"{key}: {show(old, key)} -> {show(new, key)}" for key in sorted(old.keys() | new.keys()) if show(old, key) != show(new, key)]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat

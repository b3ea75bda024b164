"""The loop: one training run from its first step, or the last checkpoint, to its final evaluation."""

import collections
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxvision.errors import ConfigError, NonFiniteError
from jaxvision.train import architecture, figures
from jaxvision.train.checkpoint import Checkpoints, describe_changes
from jaxvision.train.config import config_json, plain
from jaxvision.train.curriculum import Curriculum
from jaxvision.train.evaluate import evaluate
from jaxvision.train.feed import Feed
from jaxvision.train.mesh import batch_sharding
from jaxvision.train.phase_figures import phase_images
from jaxvision.train.pictures import write_pictures
from jaxvision.train.progress import Progress
from jaxvision.train.setup import Executables, Setup, prepare_workdir, set_up
from jaxvision.train.signals import GracefulStop
from jaxvision.train.writers import make_writers, replace_file

# Steps that the host may be ahead of the device: enough to hide the host, few enough to stop soon and to hold few batches.
AHEAD = 8


class Stopped(Exception):
    """A signal asked the run to stop; it has saved. `step` is where."""

    def __init__(self, step: int):
        super().__init__(f"stopped by a signal at step {step}; the same command goes on from there")
        self.step = step


def train(
    config: Any,
    workdir: str | pathlib.Path,
    *,
    profile: tuple[int, int] | None = None,
    label: Mapping[str, str] | None = None,
    roots: Mapping[str, pathlib.Path] | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Trains by a complete config, in a workdir; goes on from its last checkpoint when there is one. Returns the final metrics.

    Args:
      profile: (first step, number of steps) of a profiler trace, written to workdir/profile.
      label: strings noted in every line of metrics.jsonl.
      roots: {stage name: folder} that "stage:<name>" refers to.
      report: prints a line for people; only called on process 0.

    Raises UserError (one line) for what a user can put right, `Stopped` after a signal.
    """
    workdir = prepare_workdir(workdir)
    main_process = jax.process_index() == 0
    say = report if main_process else (lambda line: None)
    kept = config.checkpoint
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        keep_last=kept.keep_last,
        keep_best=kept.keep_best,
        best_metric=kept.metric,
        best_mode=kept.mode,
        report=say,
    )
    fresh = not checkpoints.steps()
    setup = set_up(config, roots=roots, fresh=fresh, phase=checkpoints.read_meta().get("phase", 0) if config.phases and not fresh else 0)
    curriculum = Curriculum(setup)
    executables, total, task = curriculum.executables, setup.total_steps, setup.task
    eval_every = config.eval_every or max(1, round(setup.problem.train_size / config.batch_size))
    save_every = config.checkpoint.every or eval_every
    with jax.set_mesh(setup.mesh), GracefulStop() as stop:
        restored = checkpoints.restore(executables.like())
        carry, frozen = _start(executables, restored)
        meta = restored[1] if restored else {}
        start = int(meta.get("step", 0))
        if restored:
            _check_resume(meta, config, setup, say)
            say(f"going on from step {start} of {total}, {workdir}/checkpoints")
        if main_process:
            replace_file(workdir / "config.json", config_json(config).encode())
            replace_file(workdir / "parameters.txt", figures.parameter_table(setup.state_shapes.params).encode())
        finished = start >= total
        writers = make_writers(workdir, config.writers, config=plain(config), resume_step=start if restored else None) if main_process else None
        progress = Progress(total, curriculum.phase.batch, start) if main_process and not finished else None
        feed = None if finished else _feed(setup, int(meta.get("position", 0)), start)
        recent: collections.deque = collections.deque()
        position, skipped, metrics, tables = int(meta.get("position", 0)), int(meta.get("skipped_steps", 0)), {}, {}
        began, seconds = time.monotonic(), float(meta.get("seconds", 0.0))
        saved, evaluated = start if restored else -1, -1

        def write(step: int, values: Mapping[str, float]) -> None:
            if writers is not None:
                spent = round(seconds + time.monotonic() - began, 3)
                writers.write(step, {**(label or {}), **values, "seconds": spent})
                if progress is not None:
                    progress.update(step, values)

        def flush(step: int) -> None:
            """Reads the metrics of the steps since the last call, checks that they are finite, and writes their means."""
            nonlocal skipped
            curriculum.check()
            means, bad = _read(recent, executables.names)
            if bad and config.nonfinite == "stop":
                raise _nonfinite(bad[0], workdir, checkpoints, main_process)
            skipped += len(bad)
            values = {f"train/{name}": value for name, value in means.items() if name != "finite"}
            write(step, values | ({"train/skipped_steps": float(skipped)} if skipped else {}))

        def save(step: int, wait: bool = False) -> None:
            nonlocal saved
            if saved != step:
                checkpoints.save(
                    carry.replace(frozen=frozen),
                    {
                        "step": step,
                        "position": position,
                        "phase": curriculum.number,
                        "config": plain(config),
                        "classes": list(setup.problem.classes),
                        "channels": setup.problem.channels,
                        "train_size": setup.problem.train_size,
                        "constants": plain(task.constants),
                        "data": setup.sources["train"].fingerprint,
                        "frozen": dict(setup.problem.frozen),
                        "skipped_steps": skipped,
                        "seconds": seconds + time.monotonic() - began,
                    },
                    step=step,
                    # A phase is evaluated at its own size, so only figures of the last one say which checkpoint is the best.
                    metrics=metrics if evaluated == step and curriculum.number == len(curriculum.plan) - 1 else None,
                    with_frozen=task.predict_frozen if step == total else (),
                )
                saved = step
            if wait:
                checkpoints.wait()

        trace = None
        try:
            if finished:
                metrics, tables = evaluate(executables, carry, frozen, task.splits)
                say(f"finished already at step {start}: " + summary(metrics))
            with jax.transfer_guard("disallow"):
                for step in range(start, total):
                    if profile and step == profile[0]:
                        jax.profiler.start_trace(str(workdir / "profile"))
                        trace = step + profile[1]
                    item = next(feed)
                    static = task.static(step)
                    carry, vector = executables.train(carry, frozen, item, static)
                    if step in (start, curriculum.phase.start):
                        curriculum.compile_ahead(eval_every)
                    recent.append((step, item.index, static, vector))
                    if len(recent) > AHEAD:
                        recent[-AHEAD][3].block_until_ready()
                    done, position = step + 1, item.position
                    boundary = done == curriculum.phase.stop and done < total
                    if trace == done:
                        vector.block_until_ready()
                        jax.profiler.stop_trace()
                        trace = None
                    if done % config.log_every == 0 or done % eval_every == 0 or done % save_every == 0 or done == total or boundary:
                        flush(done)
                    if done % eval_every == 0 or done == total:
                        metrics, tables = evaluate(executables, carry, frozen, task.splits)
                        evaluated = done
                        write(done, metrics)
                        write_pictures(executables, carry, frozen, metrics, workdir, done)
                    if boundary:
                        before, carry = curriculum.phase, curriculum.advance(carry)
                        executables = curriculum.executables
                        setup, task = executables.setup, executables.setup.task
                        if progress is not None:
                            progress.rebatch(curriculum.phase.batch)
                        if (before.batch, before.replay) != (curriculum.phase.batch, curriculum.phase.replay) or curriculum.phase.replay:
                            feed.close()
                            feed = _feed(setup, position, done)
                    if done % save_every == 0 or done == total or boundary:
                        save(done)
                    if stop.requested(done) and done < total:
                        if recent:
                            flush(done)
                        save(done, wait=True)
                        raise Stopped(done)
            checkpoints.wait()
            if feed is not None:
                report_skipped(feed.stream, report)
            if main_process:
                draw(workdir, tables, setup.problem.classes)
                if config.phases:
                    phase_images(setup, workdir / "phases.png")
        finally:
            if trace is not None:
                jax.profiler.stop_trace()
            if progress is not None:
                progress.close()
            if feed is not None:
                feed.close()
            if writers is not None:
                writers.close()
            checkpoints.close()
            curriculum.close()
    if task.changes_architecture:
        if main_process and (not finished or not (workdir / architecture.FILE).is_file()):
            architecture.write_change(task, workdir, say)
        if jax.process_count() > 1:  # the next stage reads what process 0 wrote
            multihost_utils.sync_global_devices("architecture")
    return metrics


def _feed(setup: Setup, position: int, step: int) -> Feed:
    return Feed(setup.train_stream(position, step), batch_sharding(setup.mesh), setup.config.data.prefetch)


def _start(executables: Executables, restored: tuple | None):
    given = executables.setup.given
    if restored is None:
        return executables.init(given)
    return restored[0], executables.init_frozen(given) if given.get("frozen") else {}


def _read(recent: collections.deque, names: Mapping[Any, tuple[str, ...]]) -> tuple[dict[str, float], list[tuple[int, np.ndarray]]]:
    """Means of the metrics since the last read (a player's off turns left out), and (step, indices) of the steps that were not finite."""
    totals: dict[str, list[float]] = {}
    bad = []
    vectors = jax.device_get([vector for *_, vector in recent])
    for (step, index, static, _), vector in zip(recent, vectors):
        values = dict(zip(names[static], vector.tolist()))
        if not values["finite"]:
            bad.append((step, index))
            continue
        for name, value in values.items():
            if np.isfinite(value):
                totals.setdefault(name, []).append(value)
    recent.clear()
    return {name: float(np.mean(values)) for name, values in totals.items()}, bad


def _nonfinite(bad: tuple[int, np.ndarray], workdir: pathlib.Path, checkpoints: Checkpoints, write: bool) -> NonFiniteError:
    step, index = bad
    checkpoints.wait()
    good = checkpoints.steps()
    if write:
        replace_file(workdir / "nonfinite.json", json.dumps({"step": step, "index": index.tolist()}).encode())
    shown = ", ".join(map(str, index[:8].tolist())) + (", …" if len(index) > 8 else "")
    last = f"the last good checkpoint is {workdir}/checkpoints/{good[-1]}" if good else "there is no checkpoint yet"
    return NonFiniteError(
        f"the loss or its gradient was not finite at step {step + 1}, examples {shown} (all in {workdir}/nonfinite.json); {last}; "
        "lower optim.lr, set optim.clip, or pass --config.nonfinite=skip to leave such updates out"
    )


def _check_resume(meta: Mapping[str, Any], config: Any, setup: Setup, say: Callable[[str], None]) -> None:
    changes = describe_changes(meta["config"], plain(config))
    if changes:
        say("the config differs from the checkpoint's: " + "; ".join(changes))
    if meta["data"] != setup.sources["train"].fingerprint:
        say(f"the training data differ from the checkpoint's: {meta['data']} -> {setup.sources['train'].fingerprint}")
    if list(meta["classes"]) != list(setup.problem.classes):
        raise ConfigError(
            f"the checkpoint's {len(meta['classes'])} classes are not the data's {len(setup.problem.classes)}: use another --workdir, or init_from"
        )


def draw(workdir: pathlib.Path, tables: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> None:
    """curves.png, and a picture for each table of the last evaluation."""
    figures.curves(workdir)
    for name, table in tables.items():
        if name.endswith("confusion"):
            figures.confusion(table, classes, workdir / "confusion.png")


def report_skipped(stream: Any, report: Callable[[str], None]) -> None:
    """Says which records this process could not read and left out."""
    if stream.skipped:
        shown = "; ".join(list(stream.skipped.values())[:3]) + ("; …" if len(stream.skipped) > 3 else "")
        report(f"unreadable records left out: {len(stream.skipped)}, drawn {stream.skipped_count} times in all: {shown}")


def summary(metrics: Mapping[str, float]) -> str:
    """One line of the metrics that people ask for."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())

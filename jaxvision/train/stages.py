"""Runs of several stages: teacher then student, pre-train then probe. Each is a run of its own in a sub-folder, resumed and reported like any."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from jaxvision.errors import CheckpointError, ConfigError, nearest
from jaxvision.train.architecture import check_stage, with_architecture
from jaxvision.train.config import complete, plain, with_changes
from jaxvision.train.loop import train
from jaxvision.train.setup import prepare_workdir
from jaxvision.train.writers import METRICS, encode_line, read_metrics, replace_file


def stage_configs(config: Any) -> list[tuple[str, Any]]:
    """[(stage name, its complete config)]; one nameless stage when the config has none. Raises ConfigError for a bad change, a name
    given twice, and an architecture of a stage that does not come before."""
    if not config.stages:
        return [("", config)]
    found: dict[str, Any] = {}
    for name, changes in config.stages:
        if name in found or not name or "/" in name:
            raise ConfigError(f"stages: {name!r} is not a fresh folder name; the earlier ones are {', '.join(found) or 'none'}")
        stage = with_changes(config, {**dict(changes), "stages": ()})
        check_stage(stage, found)
        found[name] = stage
    return list(found.items())


def fit(
    config: Any,
    workdir: str | pathlib.Path,
    *,
    profile: tuple[int, int] | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Trains what a config says, every stage of it, in a workdir; the same call again goes on where the last one ended.

    Args:
      config: an ml_collections.ConfigDict or a mapping; what it leaves out has the defaults of `jaxvision.train.config.DEFAULTS`.
      workdir: folder for config, metrics, pictures and checkpoints.
      profile: (first step, number of steps) of a profiler trace.
      report: prints a line for people.

    Returns the final metrics of the last stage, `{"test/accuracy": …}`. Raises UserError, one line, for what a user can put right.
    """
    config = complete(config)
    stages = stage_configs(config)
    root = prepare_workdir(workdir)
    if stages == [("", config)]:
        return train(with_architecture(config, {}), root, profile=profile, report=report)
    roots: dict[str, pathlib.Path] = {}
    metrics: dict[str, float] = {}
    for number, (name, stage) in enumerate(stages, 1):
        if jax.process_index() == 0:
            report(f"stage {number} of {len(stages)}: {name}")
        stage = with_architecture(stage, roots)
        metrics = train(stage, root / name, profile=profile, label={"stage": name}, roots=roots, report=report)
        roots[name] = root / name
    if jax.process_index() == 0:
        replace_file(root / "config.json", json.dumps(plain(config), indent=1).encode())
        lines = read_metrics(root / stages[-1][0])
        content = "".join(encode_line(line.pop("step"), line) for line in lines)
        replace_file(root / METRICS, content.encode())
    return metrics


def stage_folder(config: Any, workdir: str | pathlib.Path, stage: str | None) -> tuple[pathlib.Path, Any]:
    """Where evaluation and prediction find the run: the last stage unless one is named. Raises ConfigError for a stage that the config has not."""
    stages = dict(stage_configs(config))
    if stage is not None and stage not in stages:
        raise ConfigError(f"--stage={stage} is not a stage of this config; {nearest(stage, [name for name in stages if name])}")
    name = stage if stage is not None else list(stages)[-1]
    folder = pathlib.Path(workdir) / name
    if not (folder / "checkpoints").is_dir():
        raise CheckpointError(f"{folder} holds no checkpoints; train there first with --mode=train, or give another --workdir")
    return folder, stages[name]

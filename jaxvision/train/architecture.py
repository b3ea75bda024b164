"""Networks that a stage changed: architecture.json, written at its end, and what the next stage, prediction and export take from it.

The file holds `layers` (sizes of the new network's layers), `kept` (which entries of the checkpoint of `step` it has; null where it begins anew) and
figures. A config says `model.architecture="stage:<name>"`, a workdir, or the table itself, which is what the resolved config of a run holds.
"""

import json
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np

from jaxvision.compress.architecture import as_layers, resized
from jaxvision.compress.cut import take
from jaxvision.errors import CheckpointError, ConfigError, nearest
from jaxvision.tasks.base import Task, count
from jaxvision.train.config import with_changes
from jaxvision.train.init_from import read_checkpoint_variables
from jaxvision.train.writers import replace_file

FILE = "architecture.json"
# Largest difference of outputs, as a share of the largest, between a network and what was cut from it.
TOLERANCE = 1e-4


def read_change(folder: pathlib.Path) -> dict[str, Any] | None:
    """What a stage wrote, `layers` as a module takes them; None where it changed nothing. Raises CheckpointError for a damaged file."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        return {**found, "layers": as_layers(found["layers"])}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not what a stage wrote: {error}; delete it and run the stage again") from None


def check_stage(config: Any, earlier: Collection[str]) -> str | None:
    """The stage that model.architecture names, None where it names none. Raises ConfigError when that is none of the earlier ones."""
    source = config.model.get("architecture", ())
    if not isinstance(source, str) or not source.startswith("stage:"):
        return None
    name = source.removeprefix("stage:")
    if name not in earlier:
        raise ConfigError(f"model.architecture={source!r} names no earlier stage; {nearest(name, earlier)}")
    return name


def with_architecture(config: Any, roots: Mapping[str, pathlib.Path]) -> Any:
    """The config with the table of layers in place of the name of a stage or workdir. Raises ConfigError, CheckpointError."""
    source = config.model.get("architecture", ())
    if not isinstance(source, str):
        return config
    name = check_stage(config, roots)
    folder = pathlib.Path(source).expanduser() if name is None else roots[name]
    found = read_change(folder)
    if found is None:
        raise CheckpointError(f"{folder} holds no {FILE}: model.architecture takes a stage or a workdir whose task changes its network, at its end")
    # A key keeps the type that it has, so the name is taken out first.
    return with_changes(without_architecture(config), {"model.architecture": found["layers"]})


def without_architecture(config: Any) -> Any:
    """The config of the network before it is changed, for compiling ahead: how much a stage will cut is not known."""
    named = isinstance(config.model.get("architecture", ()), str)
    return with_changes(config, {"model.architecture": None}) if named else config


def kept_of(folder: pathlib.Path, layers: Any) -> dict[str, Any] | None:
    """What `folder` wrote, where the network of these layers was cut from its checkpoint; else None."""
    found = read_change(folder) if folder.is_dir() else None
    return found if found is not None and found["kept"] is not None and found["layers"] == as_layers(layers or ()) else None


def write_change(task: Task, workdir: pathlib.Path, report: Callable[[str], None]) -> None:
    """Writes architecture.json of a finished stage, and says what it changed. A cut network is first compared with what it was cut from.

    Raises CheckpointError where their outputs differ.
    """
    variables, meta = read_checkpoint_variables(workdir, "last")
    change = task.architecture(variables)
    if change is None:
        return
    small, channels = resized(task.model, change.layers), task.problem.channels
    image = np.random.RandomState(0).standard_normal((2, *task.model.image_size, channels)).astype(np.float32)
    shapes = jax.eval_shape(lambda image: small.init(jax.random.key(0), image, train=False), image)
    figures = {**change.figures, "parameters": count(shapes["params"])}
    said = f"{FILE}: {count(variables['params'])} -> {figures['parameters']} parameters"
    if change.kept is not None:
        run = lambda model, variables: np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, image))
        before, after = run(task.model, variables), run(small, take(variables, change.kept))
        figures["difference"] = float(np.abs(after - before).max() / max(np.abs(before).max(), 1e-30))
        said += f", outputs differ by at most {figures['difference']:.2g} of the largest"
        if not figures["difference"] <= TOLERANCE:
            raise CheckpointError(f"{workdir}: the cut network's outputs differ by {figures['difference']:.2g} of the largest from the whole one's")
    kept = None if change.kept is None else {n: {str(axis): np.asarray(i).tolist() for axis, i in axes.items()} for n, axes in change.kept.items()}
    record = {"step": int(meta["step"]), "figures": figures, "layers": [list(row) for row in change.layers], "kept": kept}
    replace_file(workdir / FILE, json.dumps(record).encode())
    report(said)

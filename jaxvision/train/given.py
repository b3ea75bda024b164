"""What a run starts from: `init_from` (its own network) and `frozen.<name>` (networks that never change)."""

import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision import interop
from jaxvision.compress.cut import take
from jaxvision.errors import CheckpointError, ConfigError, nearest
from jaxvision.models.registry import input_channels
from jaxvision.models.rules import HEAD
from jaxvision.nn.projector import Projected
from jaxvision.tasks.base import Task
from jaxvision.tasks.networks import build_frozen, build_model, network_size
from jaxvision.train.architecture import kept_of
from jaxvision.train.arrays import nest
from jaxvision.train.config import complete
from jaxvision.train.init_from import load_into, match_classes, read_checkpoint_variables, select_branch
from jaxvision.train.phases import saved_phase
from jaxvision.trees import named_leaves

# What of a frozen network's checkpoint is told to the task and noted in the run's own checkpoints.
NOTED = ("config", "classes", "channels", "constants", "step", "checksum")


def resolve(source: str, roots: Mapping[str, pathlib.Path]) -> pathlib.Path:
    """A path, or the folder of "stage:<name>". Raises ConfigError for an unknown stage, CheckpointError for a path that is not there."""
    if source.startswith("stage:"):
        name = source.removeprefix("stage:")
        if name not in roots:
            raise ConfigError(f"{source!r} names no earlier stage; {nearest(name, roots)}")
        return roots[name]
    path = pathlib.Path(source).expanduser()
    if not path.exists():
        raise CheckpointError(f"{source} does not exist; init_from and frozen sources take a workdir, a checkpoint file, or 'stage:<name>'")
    return path


def load_frozen(
    config: Any, roots: Mapping[str, pathlib.Path], saved: Mapping[str, Any] | None = None, noted: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """({name: variables}, {name: what is noted of its checkpoint}) of config.frozen. A section's other keys are the task's.

    `saved`: copies that the run's own checkpoint carries, taken instead of their sources, and what it has `noted` of them. A network that is noted,
    and whose source has gone, is left out: a checkpoint carries what prediction needs.
    """
    variables, record = {}, {}
    for name, section in config.frozen.items():
        if saved and name in saved:
            variables[name], record[name] = saved[name], (noted or {})[name]
            continue
        if "source" not in section:
            raise ConfigError(f"frozen.{name} has no source; give --config.frozen.{name}.source=WORKDIR")
        if name in (noted or {}) and not _is_there(section.source, roots):
            record[name] = noted[name]
            continue
        path = resolve(section.source, roots)
        if path.is_file():
            variables[name], record[name] = _from_file(name, section, path)
            continue
        loaded, meta = read_checkpoint_variables(path)
        record[name] = {key: meta[key] for key in NOTED if key in meta}
        variables[name] = _as_asked(name, section, loaded, record[name])
    return variables, record


def _is_there(source: str, roots: Mapping[str, pathlib.Path]) -> bool:
    stage = source.removeprefix("stage:")
    return roots[stage].exists() if stage != source and stage in roots else pathlib.Path(source).expanduser().exists()


def _from_file(name: str, section: Any, path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A frozen network from somebody else's file: `model` says which one it is, `num_classes` how wide its head is (0: none)."""
    if "model" not in section:
        raise ConfigError(f"frozen.{name}.source is a file, which names no architecture; give --config.frozen.{name}.model=NAME")
    model = build_frozen(name, section)
    checksum = f"{zlib.crc32(path.read_bytes()):08x}"
    channels = len(section.get("mean", None) or ()) or input_channels(section.model)
    return interop.load_pretrained(model, path, channels=channels), {"file": str(path), "checksum": checksum}


def _as_asked(name: str, section: Any, loaded: dict[str, Any], noted: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a run's network at the section's own image size and in its own parameter dtype, where it states them."""
    if section.get("image_size", None):
        old = build_frozen(name, {key: value for key, value in section.items() if key != "image_size"}, noted)
        loaded = interop.resize_variables(loaded, old, build_frozen(name, section, noted))
    if dtype := section.get("param_dtype", None):
        loaded = {**loaded, "params": jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.dtype(dtype)), loaded["params"])}
    return loaded


def load_init(config: Any, roots: Mapping[str, pathlib.Path], task: Task, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """{"params": …, "extra": …} for `Task.init` of config.init_from, fitted to `wanted` (shapes of the task's variables).

    A workdir's leaves that depend on the image size are resized as its model file declares; where the network was cut from that workdir's, they
    are cut alike. A file (timm's, PyTorch's, npz) is read by the
    model's checkpoint rules. With `reinit_head` the head is left out, and its own initial values fill the gap; with `match_classes` beside it,
    columns of classes of the same name are kept. Raises CheckpointError that names what does not fit.
    """
    path = resolve(config.init_from, roots)
    if config.match_classes and not config.reinit_head:
        raise ConfigError("match_classes says what a new head begins with: set --config.reinit_head=True beside it")
    if path.is_file() and isinstance(task.model, Projected):
        variables = interop.load_projected(task.model, path, reinit_head=config.reinit_head, channels=task.problem.channels)
    elif path.is_file():
        if config.match_classes or config.init_branch:
            raise ConfigError(f"{path} is a file: it names no classes and has no branches, so match_classes and init_branch need a workdir")
        network = getattr(task.model, task.branch) if task.branch else task.model
        options = {"reinit_head": config.reinit_head, "allow_missing": task.fresh or None, "channels": task.problem.channels}
        variables = interop.load_pretrained(network, path, **options)
        variables = {name: {task.branch: tree} for name, tree in variables.items()} if task.branch else variables
    else:
        change = kept_of(path, config.model.get("architecture"))
        variables, meta = read_checkpoint_variables(path) if change is None else read_checkpoint_variables(path, change["step"])
        variables = variables if change is None else take(variables, change["kept"])
        if config.init_branch:
            variables = select_branch(variables, config.init_branch)
        old = complete(meta["config"])
        old = saved_phase(old, meta).config(old)
        network = getattr(task.model, task.branch) if task.branch else task.model
        if network_size(old) != network_size(config) and old.model.name == config.model.name:
            variables = interop.resize_variables(variables, build_model(old, num_classes=len(meta["classes"])), network)
        source = variables
        if task.fresh:
            wanted = without_fresh(wanted, source, task.fresh)
        if task.branch and task.branch not in variables["params"]:
            variables = into_branch(task.branch, wanted, source, reinit_head=config.reinit_head)
        else:
            variables = load_into(wanted, source, reinit_head=config.reinit_head)
        if config.match_classes:
            head = match_classes(wanted, source, meta["classes"], task.problem.classes)
            variables = nest({**named_leaves(variables), **named_leaves(head)})
    return {"params": variables["params"], "extra": {name: tree for name, tree in variables.items() if name != "params"}}


def without_fresh(wanted: Mapping[str, Any], source: Mapping[str, Any], fresh: str) -> dict[str, Any]:
    """`wanted` without the leaves whose whole names, collection included, match `fresh` and that `source` does not have."""
    there = named_leaves(source)
    return nest({name: leaf for name, leaf in named_leaves(wanted).items() if name in there or not re.fullmatch(fresh, name)})


def into_branch(branch: str, wanted: Mapping[str, Any], source: Mapping[str, Any], *, reinit_head: bool = False) -> dict[str, Any]:
    """The variables of a classifier where a method keeps its network, {"params": {branch: tree}, …}; without its head where that has none."""
    inner = {collection: tree[branch] for collection, tree in wanted.items() if branch in tree}
    in_head = lambda name: re.match(HEAD, name.split("/", 1)[-1])
    has_head = any(map(in_head, named_leaves(inner)))
    body = source if has_head else nest({name: leaf for name, leaf in named_leaves(source).items() if not in_head(name)})
    return {collection: {branch: tree} for collection, tree in load_into(inner, body, reinit_head=reinit_head and has_head).items()}

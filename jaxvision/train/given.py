"""What a run starts from: `init_from` (its own network) and `frozen.<name>` (networks that never change)."""

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxvision import interop
from jaxvision.errors import CheckpointError, ConfigError, nearest
from jaxvision.tasks.base import build_model
from jaxvision.train.init_from import load_into, read_checkpoint_variables


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


def load_given(config: Any, roots: Mapping[str, pathlib.Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """({"params", "extra", "frozen"} for `Task.init`, {"init_from": …, "frozen": {name: meta}} for the checkpoint's own record)."""
    given: dict[str, Any] = {}
    record: dict[str, Any] = {"init_from": config.init_from, "frozen": {}}
    if config.init_from:
        variables = _init_variables(config, resolve(config.init_from, roots))
        given["params"] = variables.pop("params")
        given["extra"] = variables
    for name, section in config.frozen.items():
        variables, meta = read_checkpoint_variables(resolve(section.source, roots))
        given.setdefault("frozen", {})[name] = variables
        record["frozen"][name] = {key: meta[key] for key in ("config", "classes", "constants", "step", "checksum") if key in meta}
    return given, record


def _init_variables(config: Any, path: pathlib.Path) -> dict[str, Any]:
    if path.is_file():
        return interop.read_variables(build_model(config, num_classes=1000), path, reinit_head=config.reinit_head)
    variables, meta = read_checkpoint_variables(path)
    return load_into(config, variables, meta, reinit_head=config.reinit_head)

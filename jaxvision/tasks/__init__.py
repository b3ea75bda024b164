"""Learning problems, one a file. `make_task(config, problem)` finds the one that config.task.name says."""

import importlib
import pkgutil
from typing import Any

from jaxvision.errors import ConfigError, nearest

# Files of this folder that hold no task.
_NO_TASKS = {
    *("base", "knn", "metrics", "networks", "state", "subtrees", "teacher_cache"),
    *("detect/average_precision", "detect/centers", "detect/pictures"),
    *("restore/flow", "restore/quality"),
    *("segment/measures", "segment/pictures"),
    *("ssl/contrastive", "ssl/pretrain"),
    *("text/distance", "text/measures", "text/vocabulary"),
}


def make_task(config: Any, problem: Any):
    """The task of config.task.name: a file of this folder ("classify", "ssl/dino"), or "package.module:Class" for one's own.

    Raises ConfigError for an unknown name, naming its neighbours.
    """
    name = config.task.name
    module, colon, attribute = name.partition(":")
    if not colon:
        module, attribute = f"jaxvision.tasks.{name.replace('/', '.')}", "TASK"
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and not module.startswith(error.name):
            raise
        raise ConfigError(f"task.name {name!r} is unknown; {nearest(name, list_tasks())}") from None
    return cls(config, problem)


def list_tasks() -> list[str]:
    """Names that config.task.name takes."""
    found = pkgutil.walk_packages(__path__, f"{__name__}.")
    names = [module.name.removeprefix(f"{__name__}.").replace(".", "/") for module in found if not module.ispkg]
    return sorted(set(names) - _NO_TASKS)

"""The loop of a search: propose, train the child in a folder of its own, note what it reached."""

import importlib
import json
import pathlib
import pkgutil
from collections.abc import Callable
from typing import Any

from jaxvision import search as room
from jaxvision.errors import ConfigError, nearest
from jaxvision.train.checkpoint import describe_changes
from jaxvision.train.config import complete, config_json, plain, with_changes
from jaxvision.train.loop import summary
from jaxvision.train.setup import prepare_workdir
from jaxvision.train.stages import fit
from jaxvision.train.writers import replace_file

HISTORY = "history.jsonl"


def list_searches() -> list[str]:
    """Names that config.search.name takes."""
    return sorted(module.name for module in pkgutil.iter_modules(room.__path__) if module.name != "run")


def make_search(config: Any) -> Callable[[list[dict[str, Any]]], Any | None]:
    """propose(history) -> complete config of the next child, or None at the end. Raises ConfigError for an unknown search or setting."""
    name = config.search.name
    if name not in list_searches():
        raise ConfigError(f"search.name {name!r} is unknown; {nearest(name, list_searches())}")
    return importlib.import_module(f"jaxvision.search.{name}").make_search(config)


def search(config: Any, workdir: str | pathlib.Path, *, report: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Runs a search to its end, or goes on with one; returns its history, which is also in workdir/history.jsonl.

    Children are runs in workdir/child_000, …; the proposal that the search ended with is workdir/found.json, where the search names one.
    Raises ConfigError for a history that another config made.
    """
    config = complete(config)
    propose, root = make_search(config), prepare_workdir(workdir)
    path = root / HISTORY
    history = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    base = with_changes(config, {"search": {"name": ""}})
    for number, line in enumerate(history):
        if line["changes"] != describe_changes(plain(base), plain(propose(history[:number]))):
            raise ConfigError(f"{path}: child {number} is not what this config would have tried; use another --workdir")
    replace_file(root / "config.json", config_json(config).encode())
    while (child := propose(history)) is not None:
        number = len(history)
        changes = describe_changes(plain(base), plain(child))
        report(f"child {number}: {'; '.join(changes) or 'the config as it is'}")
        metrics = fit(child, root / f"child_{number:03d}", report=report)
        history.append({"number": number, "changes": changes, "metrics": metrics})
        replace_file(path, "".join(json.dumps(line) + "\n" for line in history).encode())
        report(f"child {number}: {summary(metrics)}")
    if hasattr(propose, "found"):
        found = propose.found(history)
        replace_file(root / "found.json", config_json(found).encode())
        report(f"found: {'; '.join(describe_changes(plain(base), plain(found))) or 'the config as it is'}; written to {root}/found.json")
    return history

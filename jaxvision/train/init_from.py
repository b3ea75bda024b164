"""Fine-tuning: the variables of a finished run, fitted into a model that wants them, with every leaf that does not fit named."""

import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxvision.errors import CheckpointError, nearest
from jaxvision.models.rules import HEAD
from jaxvision.train import arrays, checkpoint, manifest
from jaxvision.trees import named_leaves


def load_into(wanted: Mapping[str, Any], source: Mapping[str, Any], *, reinit_head: bool, head_patterns: Sequence[str] = (HEAD,)) -> dict[str, Any]:
    """The leaves of `source` that a model wants, as numpy arrays of the model's dtypes.

    Args:
      wanted: {"params": tree, "batch_stats": tree} of arrays or shapes.
      source: the same of numpy arrays, as loaded.
      reinit_head: leave the head out, whatever the source has of it; the task's own initial values then fill the gap.
      head_patterns: regular expressions, matched at the start of a path ("head/kernel"; the collection is left out).

    Returns:
      A tree like `wanted`, without the head when `reinit_head`.

    Raises:
      CheckpointError: one line naming the leaves that are missing, left over or of another shape; or there is no head to leave out.
    """
    named, given = named_leaves(wanted), named_leaves(source)
    in_head = lambda name: any(re.match(pattern, name.split("/", 1)[-1]) for pattern in head_patterns)
    if reinit_head:
        if not any(map(in_head, named)):
            patterns = ", ".join(head_patterns)
            raise CheckpointError(f"reinit_head is set, but no leaf of the model matches {patterns}; its last one is {list(named)[-1]}")
        named = {name: leaf for name, leaf in named.items() if not in_head(name)}
        given = {name: leaf for name, leaf in given.items() if not in_head(name)}
    shapes = {name: (tuple(np.shape(leaf)), str(named[name].dtype) if name in named else str(leaf.dtype)) for name, leaf in given.items()}
    kinds = {name: manifest.leaf(leaf) for name, leaf in named.items()}
    if problem := manifest.mismatches(kinds, shapes):
        bad = [name for name in kinds.keys() | shapes.keys() if kinds.get(name) != shapes.get(name)]
        advice = "; all of it is the head: reinit_head=True starts the head anew" if all(map(in_head, bad)) else ""
        raise CheckpointError(f"the checkpoint to start from does not fit the model: {problem}{advice}")
    return arrays.nest({name: np.asarray(given[name]).astype(leaf.dtype, copy=False) for name, leaf in named.items()})


def select_branch(variables: Mapping[str, Any], branch: str) -> dict[str, Any]:
    """The sub-trees at the '/'-joined `branch` of every collection: the backbone of a method that wraps it with heads of its own.

    Raises CheckpointError when the parameters have no such branch; a collection without it is left out.
    """
    selected = {}
    for name, tree in variables.items():
        for part in branch.split("/"):
            tree = tree.get(part) if isinstance(tree, Mapping) else None
        if isinstance(tree, Mapping):
            selected[name] = tree
    if "params" not in selected:
        advice = nearest(branch, _branches(variables["params"]))
        raise CheckpointError(f"init_branch={branch!r}: the checkpoint's parameters have no such branch; {advice}")
    return selected


def _branches(tree: Mapping[str, Any]) -> list[str]:
    """Names of the two outermost levels."""
    inner = [f"{name}/{key}" for name, value in tree.items() if isinstance(value, Mapping) for key in value]
    return [*tree, *inner]


def match_classes(
    wanted: Mapping[str, Any], source: Mapping[str, Any], old: Sequence[str], new: Sequence[str], head_patterns: Sequence[str] = (HEAD,)
) -> dict[str, Any]:
    """The leaves of a new head whose columns are those of the old one where the classes have the same name, and zero where a class is new.

    Args:
      wanted, source: as of `load_into`.
      old, new: class names of the source and of the model.

    Raises:
      CheckpointError: no class name is shared, or a head's leaf does not fit apart from its last axis.
    """
    place = {name: i for i, name in enumerate(old)}
    kept = [(i, place[name]) for i, name in enumerate(new) if name in place]
    if not kept:
        shown = lambda names: ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        raise CheckpointError(f"match_classes: no class of the checkpoint ({shown(list(old))}) is a class of the data ({shown(list(new))})")
    to, of = map(list, zip(*kept))
    given, loaded = named_leaves(source), {}
    for name, leaf in named_leaves(wanted).items():
        if any(re.match(pattern, name.split("/", 1)[-1]) for pattern in head_patterns):
            shape, there = tuple(leaf.shape), tuple(np.shape(given.get(name, ())))
            if shape == there and shape[-1] != len(new):  # a hidden layer of the head
                loaded[name] = np.asarray(given[name]).astype(leaf.dtype)
                continue
            if (*shape[:-1], len(old)) != there or shape[-1] != len(new):
                raise CheckpointError(f"match_classes: {name} is {there} in the checkpoint, {shape} is wanted; only the number of classes may differ")
            loaded[name] = np.zeros(shape, leaf.dtype)
            loaded[name][..., to] = np.asarray(given[name])[..., of]
    return arrays.nest(loaded)


def checkpoint_folder(path: str | os.PathLike) -> tuple[pathlib.Path, str | None]:
    """(folder of checkpoints, step or None) of a workdir, of its folder of checkpoints, or of one checkpoint in it.

    Raises CheckpointError when it is none of these.
    """
    path = pathlib.Path(path).expanduser().absolute()
    if path.name.isdecimal() and path.is_dir():
        return path.parent, path.name
    for folder in (path / checkpoint.FOLDER, path):
        if folder.is_dir() and any(child.name.isdecimal() for child in folder.iterdir()):
            return folder, None
    inside = f"its folder {checkpoint.FOLDER!r}, or one of the numbered folders in there"
    raise CheckpointError(f"{path} holds no checkpoints: it should be a workdir, {inside}")


def read_checkpoint_variables(
    path: str | os.PathLike, which: str | int = "best", *, report: Callable[[str], Any] = print
) -> tuple[dict[str, Any], dict[str, Any]]:
    """({"params": …, "batch_stats": …} of numpy arrays, meta) of a run of ours; the averaged ones (`extra["ema"]`) where it has them.

    `meta` is what was saved and "checksum", the manifest's own, which changes with any byte of the checkpoint.

    Args:
      path: a workdir, its folder of checkpoints, or one checkpoint, which then is the one taken.
      which: "best" (the last where no metric was recorded), "last", or a step.

    Raises:
      CheckpointError: nothing there, or nothing whole.
    """
    folder, step = checkpoint_folder(path)
    checkpoints = checkpoint.Checkpoints(folder, read_only=True, report=report)
    chosen = checkpoints.choose(step or which)
    if chosen is None:
        raise CheckpointError(f"{folder} holds no checkpoints")
    state, meta = checkpoints.restore(None, chosen, only=("params", "extra"))
    meta = {**meta, "checksum": manifest.read(folder / str(chosen))["checksum"]}
    extra = state.get("extra", {})
    source = extra["ema"] if "params" in extra.get("ema", {}) else {"params": state["params"], **extra}
    return {name: source[name] for name in ("params", "batch_stats") if name in source}, meta

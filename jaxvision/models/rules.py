"""Checkpoint rules: how a model file says which of its leaves is which array of somebody else's checkpoint.

A model file lists only what differs from the convention, in a table a layout:

    CHECKPOINT = {"torch": (Rule(r"head/(.*)", r"head.fc.\\1"), …), "npz": (…), "torchvision": (…)}

"torch" is timm's spelling; every other key but "npz" names a further spelling of PyTorch files, with the same convention, and a file is read by
the one that fits it best. The convention for "torch": path components `blocks_3` read `blocks.3`, components are joined by ".", leaves `kernel`,
`scale`, `embedding` are called `weight`, `mean` and `var` are `running_mean` and `running_var`; a kernel's axes move from (…space, in, out) to
(out, in, …space). For "npz": components are joined by "/", nothing is renamed or moved. Rules are tried in order; the first whose `ours` matches
the whole '/'-joined path (collection left out) wins, and the convention serves the rest.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxvision.errors import CheckpointError

# Paths of a classifier's leaves, the collection left out, by timm's names; a norm that lies inside a `head` belongs to the features. The last two
# are what enlarges in networks of super-resolution.
HEAD = r"(head/(?!.*norm)|head_dist/|fc/|classifier/|last_linear/|classif/|upsample_\d+/|conv_last/).*"

TORCH_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}


def from_torch(array: np.ndarray) -> np.ndarray:
    """(out, in, …space) -> (…space, in, out); arrays of one axis are left alone."""
    return np.moveaxis(np.moveaxis(array, 0, -1), 0, -2) if array.ndim > 1 else array


def to_torch(array: np.ndarray) -> np.ndarray:
    """(…space, in, out) -> (out, in, …space); the inverse of `from_torch`."""
    return np.moveaxis(np.moveaxis(array, -2, 0), -1, 0) if array.ndim > 1 else array


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table.

    Attributes:
      ours: regular expression for the whole '/'-joined path of a leaf of ours.
      theirs: template of the foreign name (`\\1` and friends; a torch leaf name is translated after expansion, dots are the writer's), or
        several templates when one leaf of ours is several arrays of theirs (a fused q, k, v), or a function of the match where names are counted
        otherwise; None when the checkpoint does not hold it.
      load: foreign arrays, in the order of `theirs` -> our array, given our shape; default: the layout's convention.
      save: our array -> foreign arrays, the inverse of `load`.
      literal: `theirs` ends in the leaf's own name in that checkpoint (a torch parameter that is called `scale`): it is not translated.
    """

    ours: str
    theirs: str | Sequence[str] | Callable[[re.Match], str] | None
    load: Callable[[Sequence[np.ndarray], tuple[int, ...]], np.ndarray] | None = None
    save: Callable[[np.ndarray], Sequence[np.ndarray]] | None = None
    literal: bool = False


@dataclasses.dataclass(frozen=True)
class Entry:
    """A resolved rule: the foreign names of one leaf of ours and the two conversions."""

    names: tuple[str, ...]
    load: Callable[[Sequence[np.ndarray], tuple[int, ...]], np.ndarray]
    save: Callable[[np.ndarray], Sequence[np.ndarray]]


def same(arrays: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The one foreign array as it is, reshaped when only singleton axes differ."""
    (array,) = arrays
    if array.shape != shape and [n for n in array.shape if n != 1] == [n for n in shape if n != 1]:
        return array.reshape(shape)
    return array


def as_it_is(array: np.ndarray) -> Sequence[np.ndarray]:
    return (array,)


def _torch_name(path: str) -> str:
    *modules, leaf = path.split("/")
    return ".".join([*(re.sub(r"_(\d+)$", r".\1", module) for module in modules), TORCH_LEAVES.get(leaf, leaf)])


def resolve(path: str, rules: Sequence[Rule], layout: str) -> Entry | None:
    """Which foreign arrays hold the leaf at `path` (collection left out), and how; None when a rule says that none does."""
    is_kernel = path.rsplit("/", 1)[-1] == "kernel"
    if layout == "torch" and is_kernel:
        load, save = lambda arrays, shape: from_torch(arrays[0]), lambda array: (to_torch(array),)
    else:
        load, save = same, as_it_is
    for rule in rules:
        if match := re.fullmatch(rule.ours, path):
            if rule.theirs is None:
                return None
            if callable(rule.theirs):
                names = (rule.theirs(match),)
            else:
                names = tuple(match.expand(template) for template in ((rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs))
            if layout == "torch" and not rule.literal:
                names = tuple(_translate_leaf(name) for name in names)
            return Entry(names, rule.load or load, rule.save or save)
    name = {"torch": _torch_name, "npz": lambda path: path}.get(layout)
    if name is None:
        raise CheckpointError(f"checkpoint layout {layout!r} is unknown; there are: npz, torch")
    return Entry((name(path),), load, save)


def _translate_leaf(name: str) -> str:
    head, dot, leaf = name.rpartition(".")
    return f"{head}{dot}{TORCH_LEAVES.get(leaf, leaf)}"


def entries(paths: Mapping[str, tuple[int, ...]], rules: Sequence[Rule], layout: str) -> dict[str, Entry]:
    """`resolve` for every path of a model; leaves that the checkpoint does not hold are left out."""
    resolved = {path: resolve(path, rules, layout) for path in paths}
    return {path: entry for path, entry in resolved.items() if entry is not None}

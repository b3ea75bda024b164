"""Loading and saving a model's variables in the layouts of timm, PyTorch and the JAX releases.

The tables are beside each model: CHECKPOINT says which leaf is which foreign array, SIZE_DEPENDENT how leaves follow the image size, and the
optional `adapt_checkpoint(arrays, layout, model)` brings older spellings of a file to the one that CHECKPOINT names.
"""

import os
import pathlib
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import linen as nn

from jaxvision.errors import CheckpointError, ModelError
from jaxvision.interop import openmmlab, wrapped
from jaxvision.interop.files import read_arrays
from jaxvision.models import registry, rules
from jaxvision.models.rules import HEAD
from jaxvision.models.scanned import stack_blocks, unstack_blocks
from jaxvision.nn.projector import Projected
from jaxvision.trees import map_named, named_leaves

# Image sides that published weights have; a file does not say its own.
SIDES = (224, 384, 256, 448, 512, 240, 288, 336, 320, 196, 192, 160, 128, 96, 64, 48, 32, 28, 16, 8)
COLLECTIONS = ("params", "batch_stats")
# Arrays of a state dict that are counters or tables of indices, and not weights.
BUFFERS = r".*(num_batches_tracked|relative_position_index|attn_mask)"


def load_pretrained(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    reinit_head: bool = False,
    allow_missing: str | None = None,
    ignore: str | None = None,
    image_size: tuple[int, ...] | None = None,
    section: str | None = None,
    channels: int = 3,
) -> dict[str, Any]:
    """The variables of `model` from a .safetensors, .pth or .npz file, as numpy arrays of the model's dtypes.

    Leaves that depend on the image size are resized as the model file declares. Everything else has to fit: nothing is loaded by halves.

    Args:
      reinit_head: leave the classifier's leaves out of the result, whatever the file has of them (fine-tuning to other classes).
      allow_missing: regular expression for whole paths of ours ("head/.*"); such leaves may be absent from the file or of another shape there, and
        are then left out of the result.
      ignore: regular expression for whole names in the file that are not to be loaded ("head\\..*" for a model with num_classes=0).
      image_size: that the file was made for, if it is none of the usual squares.
      section: which of several state dicts in a PyTorch file.
      channels: of the images that the model will see.

    Returns:
      {"params": tree} and {"batch_stats": tree} where there are any.

    Raises:
      CheckpointError: one line that names the keys that are missing, left over or of another shape.
    """
    arrays, layout = read_arrays(path, section)
    if layout == "torch" and (parts := wrapped.split(arrays)):
        arrays = parts.backbone
    elif layout == "torch":
        arrays = openmmlab.as_timm(arrays, model)
    return fit_arrays(
        model, arrays, layout, path, reinit_head=reinit_head, allow_missing=allow_missing, ignore=ignore, image_size=image_size, channels=channels
    )


def load_projected(
    model: Projected, path: str | os.PathLike, *, reinit_head: bool = False, section: str | None = None, channels: int = 3
) -> dict[str, Any]:
    """Variables of a backbone with a projection head from a file of weights: MoCo's, SwAV's, DINO's, vissl's, or of the backbone alone.

    Where the file has a projection head, all of it has to fit, unless `reinit_head` leaves it out. A classifier's head is left out always.

    Returns and raises as `load_pretrained`.
    """
    arrays, layout = read_arrays(path, section)
    parts = (wrapped.split(arrays) if layout == "torch" else None) or wrapped.Parts(arrays, {})
    backbone = {name: array for name, array in parts.backbone.items() if not re.fullmatch(HEAD, name.replace(".", "/"))}
    loaded = fit_arrays(model.backbone, backbone, layout, path, channels=channels)
    variables = {collection: {"backbone": tree} for collection, tree in loaded.items()}
    own = {name: array for name, array in parts.own.items() if not re.fullmatch(BUFFERS, name)}
    if reinit_head or not own:
        return variables
    view = jax.ShapeDtypeStruct((1, *model.backbone.image_size, channels), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), (view,))
    missing, used = [], set()
    for collection, tree in shapes.items():
        for name, leaf in named_leaves({part: branch for part, branch in tree.items() if part != "backbone"}).items():
            entry = rules.resolve(name, (), "torch")
            (key,) = entry.names
            used.add(key)
            value = _loaded(entry, [own[key]], leaf.shape) if key in own else None
            if value is None or value.shape != leaf.shape:
                missing.append(f"{key} {leaf.shape}" + (f", there {own[key].shape}" if key in own else ""))
                continue
            place = variables.setdefault(collection, {})
            *parents, last = name.split("/")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = np.asarray(value).astype(leaf.dtype)
    left = [name for name in own if name not in used]
    if missing or left:
        problem = "; ".join(f"{kind} {', '.join(names[:3])}" for kind, names in (("it needs", missing), ("left over", left)) if names)
        raise CheckpointError(f"the projection head in {path} is not the task's: {problem}; set task.head to the file's, or reinit_head=True")
    return variables


def fit_arrays(
    model: nn.Module,
    arrays: Mapping[str, np.ndarray],
    layout: str,
    path: str | os.PathLike,
    *,
    reinit_head: bool = False,
    allow_missing: str | None = None,
    ignore: str | None = None,
    image_size: tuple[int, ...] | None = None,
    channels: int = 3,
) -> dict[str, Any]:
    """`load_pretrained` of arrays that have been read; `path` is what errors name."""
    plain = model.clone(scan=False) if getattr(model, "scan", False) else model
    arrays = {name: array for name, array in arrays.items() if not re.fullmatch(BUFFERS, name) and not (ignore and re.fullmatch(ignore, name))}
    if adapt := getattr(_module(model), "adapt_checkpoint", None):
        arrays = adapt(arrays, layout, plain)
    shapes = registry.shapes_of(plain, channels)
    resolved = _best_spelling(model, shapes, arrays, layout)

    missing, other, used, allowed = [], [], set(), "|".join(filter(None, (allow_missing, HEAD if reinit_head else None)))
    values, old_model = {}, plain.clone(image_size=tuple(image_size)) if image_size else None
    for collection, tree in shapes.items():
        for name, leaf in named_leaves(tree).items():
            if (entry := resolved[collection].get(name)) is None:
                continue
            used.update(entry.names)
            may_fail = bool(allowed) and re.fullmatch(allowed, name) is not None
            if reinit_head and re.fullmatch(HEAD, name):
                continue
            absent = [key for key in entry.names if key not in arrays]
            if absent:
                missing += [] if may_fail else absent
                continue
            value = _loaded(entry, [arrays[key] for key in entry.names], leaf.shape)
            if value is not None and value.shape != leaf.shape and (resize := _resizer(model, name)):
                old_model = old_model or _old_model(plain, collection, name, value.shape, channels)
                value = resize(value, old_model, plain) if old_model else value
            if value is not None and value.shape == leaf.shape:
                values[collection, name] = np.asarray(value).astype(leaf.dtype)
            elif not may_fail:
                theirs = " and ".join(f"{key} {arrays[key].shape}" for key in entry.names)
                other.append(f"{theirs} for {name} {leaf.shape}")
    left = [name for name in arrays if name not in used]
    if missing or other or left:
        raise CheckpointError(_misfit(path, plain, missing, left, other))
    variables = {collection: _pruned(tree, collection, values, resolved[collection], plain, channels) for collection, tree in shapes.items()}
    return {collection: stack_blocks(tree) for collection, tree in variables.items()} if plain is not model else variables


def save_pretrained(model: nn.Module, variables: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Writes `variables` (params, and batch_stats if any) as safetensors under the names and in the layout that timm loads.

    Raises CheckpointError when `path` does not end in .safetensors, or when a leaf has no counterpart there.
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise CheckpointError(f"weights are written as safetensors: {path.name!r} should end in .safetensors")
    scanned = getattr(model, "scan", False)
    arrays: dict[str, np.ndarray] = {}
    for collection in COLLECTIONS:
        tree = variables.get(collection, {})
        tree = unstack_blocks(tree) if scanned else tree
        leaves = named_leaves(tree)
        for name, entry in _entries(model, tree, "torch").items():
            for key, array in zip(entry.names, entry.save(np.asarray(leaves[name])), strict=True):
                if key in arrays:
                    raise CheckpointError(f"two leaves would be written as {key}, {collection}/{name} is the second")
                arrays[key] = np.ascontiguousarray(array).reshape(np.shape(array))
    unfinished = path.with_name(path.name + ".part")
    safetensors.numpy.save_file(arrays, unfinished, metadata={"format": "pt"})
    unfinished.replace(path)


def resize_variables(variables: Any, old: nn.Module, new: nn.Module) -> Any:
    """Variables (or any tree whose paths end in theirs: averaged weights, optimizer moments) of `old`, brought to the image size of `new`.

    Leaves that do not depend on the size, and those of other numbers of axes (an optimizer's scalars), are returned as they are.
    """
    shapes = {name: leaf.shape for tree in registry.shapes_of(new).values() for name, leaf in named_leaves(tree).items()}
    functions = {name: function for name in shapes if (function := _resizer(new, name))}

    def resize(name, leaf):
        for path, function in functions.items():
            if name == path or name.endswith(f"/{path}"):
                fits = jnp.ndim(leaf) != len(shapes[path]) or jnp.shape(leaf) == shapes[path]
                return leaf if fits else function(leaf, old, new)
        return leaf

    return map_named(resize, variables)


def _module(model: nn.Module):
    return sys.modules[type(model).__module__]


def _spellings(model: nn.Module, layout: str) -> list[str]:
    """The keys of the model's CHECKPOINT that may describe a file of this layout, timm's first."""
    table = getattr(_module(model), "CHECKPOINT", {"torch": ()})
    fitting = [key for key in table if (key == "npz") == (layout == "npz")]
    if not fitting:
        raise CheckpointError(f"{type(model).__name__} has no rules for files of the layout {layout!r}; there are: {', '.join(sorted(table))}")
    return sorted(fitting, key=lambda key: key != "torch")


def _best_spelling(model: nn.Module, shapes: Mapping[str, Any], names: Collection[str], layout: str) -> dict[str, dict[str, rules.Entry]]:
    """The entries of every collection by the spelling that leaves the fewest names unmatched."""
    best, fewest = {}, None
    for spelling in _spellings(model, layout):
        resolved = {collection: _entries(model, tree, spelling) for collection, tree in shapes.items()}
        wanted = {name for entries in resolved.values() for entry in entries.values() for name in entry.names}
        unmatched = len(wanted ^ set(names))
        if fewest is None or unmatched < fewest:
            best, fewest = resolved, unmatched
    return best


def _entries(model: nn.Module, tree: Any, spelling: str) -> dict[str, rules.Entry]:
    table = getattr(_module(model), "CHECKPOINT", {"torch": ()})[spelling]
    paths = {name: np.shape(leaf) for name, leaf in named_leaves(tree).items()}
    return rules.entries(paths, table, "npz" if spelling == "npz" else "torch")


def _resizer(model: nn.Module, name: str):
    """The function that brings the leaf `name` to another image size, or None."""
    for pattern, function in getattr(_module(model), "SIZE_DEPENDENT", ()):
        if re.fullmatch(pattern, name):
            return function
    return None


def _loaded(entry: rules.Entry, arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray | None:
    """What a rule makes of the file's arrays; None when their shapes do not even allow it."""
    try:
        return np.asarray(entry.load(arrays, shape))
    except (ValueError, IndexError):
        return None


def _old_model(model: nn.Module, collection: str, name: str, shape: tuple[int, ...], channels: int) -> nn.Module | None:
    """The model at the first usual square size at which the leaf `name` has `shape`."""
    for side in SIDES:
        old = model.clone(image_size=(side,) * len(model.image_size))
        try:
            if named_leaves(registry.shapes_of(old, channels)[collection])[name].shape == shape:
                return old
        except ModelError:
            continue
    return None


def _pruned(tree: Any, collection: str, values: Mapping, entries: Mapping, model: nn.Module, channels: int) -> dict[str, Any]:
    """The nested tree of the leaves that were loaded. Leaves that no file of this layout holds are constants of the network: its initial values."""
    constants = {name for name in named_leaves(tree) if name not in entries}
    if constants:
        image = jnp.zeros((1, *model.image_size, channels))
        initial = named_leaves(jax.jit(model.init)(jax.random.key(0), image)[collection])
        values = {**values, **{(collection, name): np.asarray(initial[name]) for name in constants}}
    nested: dict[str, Any] = {}
    for name in named_leaves(tree):
        if (collection, name) in values:
            *parents, last = name.split("/")
            node = nested
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = values[collection, name]
    return nested


def _misfit(path, model: nn.Module, missing: list[str], left: list[str], other: list[str]) -> str:
    some = lambda names: f"{len(names)} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
    kinds = (("missing", missing), ("left over", left), ("of another shape", other))
    problem = "; ".join(f"{kind} {some(names)}" for kind, names in kinds if names)
    is_head = lambda line: re.match(HEAD, line.rsplit(" for ", 1)[-1])
    advice = ""
    if other and not missing and not left and all(map(is_head, other)):
        advice = f"; the model has num_classes={model.num_classes}: build it with the file's classes, or set reinit_head=True to start the head anew"
    return f"{path} does not fit {type(model).__name__}: {problem}{advice}"

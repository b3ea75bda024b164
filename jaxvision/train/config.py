"""The run's config: a file's `get_config(variant)`, completed by defaults, changed by flags, checked, locked.

A config file states only what differs from DEFAULTS. Sections named in OPEN take further keys: they are fields of the model or of the task,
whose own constructors check them. Everything else is closed, so a misspelt key is an error that names its neighbours.
"""

import ast
import copy
import importlib.util
import inspect
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "batch_size": 128,  # global, whatever the number of devices
    "epochs": None,  # exactly one of epochs and steps
    "steps": None,
    "image_size": (224, 224),
    "log_every": 50,  # steps
    "eval_every": None,  # steps; None: once an epoch. The last step is always evaluated
    "eval_batch_size": None,  # None: batch_size
    "nonfinite": "stop",  # or "skip": leave the update out, and count
    "init_from": "",  # a workdir, a checkpoint file of anyone's, or "stage:<name>"
    "init_branch": "",  # the part of its parameters to take: "backbone" of a method that wraps the network
    "reinit_head": False,
    "match_classes": False,  # of a head begun anew: columns of classes that the checkpoint has by the same name are kept
    "stages": (),  # ((name, {"dotted.key": value}), …)
    "phases": (),  # a curriculum: ({"until": "60ep", "size": 160, …}, …), see train/phases.py
    "writers": ("jsonl", "tensorboard"),  # and "wandb"
    "compilation_cache": "~/.cache/jaxvision/xla",  # "" for none
    "model": {"name": "", "dtype": "float32", "param_dtype": "float32"},
    "task": {"name": "classify"},
    "frozen": {},  # {name: {"source": a workdir or "stage:<name>"}}
    "data": {
        "source": "digits",
        "path": "",
        "name": "",
        "train": "train",
        "test": "test",
        "limit": None,  # so many training examples of the source, or a share below 1
        "limit_seed": 0,  # which ones
        "limit_by": "",  # what is counted instead of examples: a field of theirs, or a regular expression of their names ("video\\d+")
        "test_share": 0.2,
        "workers": None,
        "prefetch": 2,
        "corrupt": "error",
        "crop": "none",
        "scale": (0.08, 1.0),
        "ratio": (3 / 4, 4 / 3),
        "interpolation": "bicubic",
        "eval_crop": None,  # None: the model's own
        "channels": None,  # None: as many as the model's mean has
        "mean": None,  # None: the model's own
        "std": None,
        "count": 2048,  # of procedural pictures
        "size": (64, 64),  # of procedural pictures
        "max_boxes": None,
        "spacing": None,  # of volumes: millimetres along depth, height and width that all are resampled to; None: each its own
        "intensity": "none",  # of volumes, see data/scans.py: "zscore", "foreground_zscore", ("clip", low, high)
        "balance": 1 / 3,  # share of the patches of volumes that hold a class drawn first, see data/patches.py
        "cache": "~/.cache/jaxvision/volumes",  # prepared volumes; "" for none
        "classes": None,  # their number, and the three below: what preflight takes for data that are not there, see data/declared.py
        "train_size": None,  # examples
        "test_size": None,
        "vocabulary": "letters",  # of texts, see tasks/text/vocabulary.py
        "text_length": 15,  # of a row of symbols: the longest text's characters and two marks
        "difficulty": 0.5,  # of procedural clips, 0 to 1
        "columns": None,  # of a record beside its image: ("label",) or ("label", "mask")
    },
    "augment": {},
    "search": {"name": ""},  # of --mode=search, see jaxvision/search
    "bench": {  # of --mode=bench, see train/bench.py
        "ops": (),  # folders of jaxvision/kernels; () for all that declare a benchmark
        "batch": None,  # None: 4 on CPU, 128 on accelerators
        "dtype": "",  # "": float32 on CPU, bfloat16 on accelerators
        "rounds": 5,
    },
    "preflight": {  # of --mode=preflight, see train/preflight
        "programs": ("train", "eval", "init", "resize"),  # which to compile; the figures of a step are those of "train"
        "minutes": 25,  # after which no further program is begun; the same command goes on, because what is compiled is kept
    },
    "optim": {
        "name": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "warmup": 0,
        "clip": None,
        "ema": None,
        "accumulate": 1,
        "rule": "plain",
        "groups": 1,
        "freeze": (),
    },
    "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "rules": ()},
    "checkpoint": {"every": None, "keep_last": 2, "keep_best": 1, "metric": "test/accuracy", "mode": "max"},
}
OPEN = {"model", "task", "frozen", "augment", "search", "optim"}


def plain(config: Any) -> Any:
    """A config as dicts and tuples, for comparing and for JSON."""
    if isinstance(config, ConfigDict | Mapping):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return tuple(plain(value) for value in config)
    return config


def _locked(tree: Mapping[str, Any]) -> ConfigDict:
    # ConfigDict would turn dicts inside tuples (stages) into nothing else, and dicts into ConfigDicts: what is wanted.
    return ConfigDict(tree).lock()


def complete(config: ConfigDict | Mapping[str, Any]) -> ConfigDict:
    """A locked copy with every default filled in. Raises ConfigError for unknown keys, wrong types, and values that contradict each other."""
    merged = copy.deepcopy(DEFAULTS)
    _merge(merged, plain(config), "")
    _check(merged)
    return _locked(merged)


def _merge(into: dict, changes: Mapping[str, Any], prefix: str) -> None:
    top = prefix.split(".")[0]
    for key, value in changes.items():
        name = f"{prefix}{key}"
        if key not in into:
            if top not in OPEN:
                raise ConfigError(f"config key {name!r} is unknown; {nearest(name, _dotted(DEFAULTS))}")
            into[key] = value
        elif isinstance(into[key], dict):
            if not isinstance(value, Mapping):
                raise ConfigError(f"config key {name!r} is a section, got {value!r}")
            _merge(into[key], value, f"{name}.")
        else:
            into[key] = _like(name, into[key], value)


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in tree.items():
        names.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            names += _dotted(value, f"{prefix}{key}.")
    return names


def _like(name: str, old: Any, new: Any) -> Any:
    """`new` as a value for a key that held `old`; None as a default takes anything."""
    if isinstance(new, list):
        new = tuple(new)
    if old is None or new is None or type(old) is type(new):
        return new
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        return float(new)
    if name in ("image_size", "mesh.rules", "data.intensity") or name.startswith("optim."):
        return new
    raise ConfigError(f"config key {name!r} takes a {type(old).__name__} such as {old!r}, got {new!r}")


def _check(config: dict) -> None:
    size = config["image_size"]
    if isinstance(size, int):
        config["image_size"] = size = (size, size)
    if not (isinstance(size, tuple) and len(size) in (2, 3) and all(isinstance(side, int) and side > 0 for side in size)):
        raise ConfigError(f"config key 'image_size' takes (height, width) or (depth, height, width) in pixels, got {size!r}")
    if (config["epochs"] is None) == (config["steps"] is None):
        raise ConfigError("config keys 'epochs' and 'steps': give exactly one of them")
    if config["nonfinite"] not in ("stop", "skip"):
        raise ConfigError(f"config key 'nonfinite' takes 'stop' or 'skip', got {config['nonfinite']!r}")
    positive = ("batch_size", "log_every", "optim.accumulate", "optim.groups", "epochs", "steps", "eval_every", "eval_batch_size")
    for name in positive:
        value = _get(config, name)
        if value is not None and not (isinstance(value, int | float) and value > 0):
            raise ConfigError(f"config key {name!r} takes a number above 0, got {value!r}")
    if config["batch_size"] % (config["optim"]["accumulate"] * config["optim"]["groups"]):
        raise ConfigError(
            f"batch_size={config['batch_size']} is not divisible by optim.accumulate x optim.groups = "
            f"{config['optim']['accumulate']} x {config['optim']['groups']}"
        )
    for stage in config["stages"]:
        if not (isinstance(stage, tuple) and len(stage) == 2 and isinstance(stage[0], str) and isinstance(stage[1], Mapping)):
            raise ConfigError(f"config key 'stages' takes ((name, {{'dotted.key': value}}), …), got {stage!r}")


def _get(tree: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        tree = tree[part]
    return tree


def with_changes(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy of a complete config with dotted keys replaced. Raises ConfigError as `complete` does."""
    tree = plain(config)
    for name, value in changes.items():
        nested: Any = value
        for part in reversed(name.split(".")):
            nested = {part: nested}
        _merge(tree, nested, "")
    _check(tree)
    return _locked(tree)


def parse_overrides(config: ConfigDict, words: Iterable[str]) -> ConfigDict:
    """Applies `--config.a.b=value` words. The value is read as the type that the key has; tuples as Python writes them."""
    known, changes = plain(config), {}
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--config."):
            raise ConfigError(f"argument {word!r} is unknown; config keys are given as --config.optim.lr=0.001, modes and files as --help says")
        name, equals, text = word[len("--config.") :].partition("=")
        if not equals:
            if not words:
                raise ConfigError(f"argument {word!r} has no value; write {word}=…")
            text = words.pop(0)
        changes[name] = _parse(name, text, _known(known, name))
    # epochs and steps exclude each other: the one given on the command line wins over the file's.
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if one in changes and other not in changes:
            changes[other] = None
    return with_changes(config, changes)


def _known(tree: Mapping[str, Any], name: str) -> Any:
    place: Any = tree
    for part in name.split("."):
        if not isinstance(place, Mapping) or part not in place:
            if name.split(".")[0] in OPEN and "." in name:
                return None
            raise ConfigError(f"config key {name!r} is unknown; {nearest(name, _dotted(tree))}")
        place = place[part]
    if isinstance(place, Mapping):
        raise ConfigError(f"config key {name!r} is a section; its keys: {', '.join(place) or 'none yet'}")
    return place


def _parse(name: str, text: str, old: Any) -> Any:
    if isinstance(old, str):
        return text
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if old is None:
            return text
        raise ConfigError(f"config key {name!r} takes a {type(old).__name__} such as {old!r}, got {text!r}") from None
    if isinstance(old, int) and not isinstance(old, bool) and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """`configs/vit.py:digits` or a workdir's config.json -> the complete, locked config with overrides applied.

    Raises ConfigError: no such file, no such variant (the file's own ConfigError), an unknown key, a wrong value.
    """
    if spec.endswith(".json"):
        return parse_overrides(read_config(spec), overrides)
    path, _, variant = spec.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        there = [str(p) for p in sorted(file.parent.glob("*.py"))] if file.parent.is_dir() else []
        raise ConfigError(f"--config={spec}: there is no file {path!r}; {nearest(path, there)}")
    module_spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ConfigError(f"--config={spec}: {path} cannot be read: {error}") from error
    if not hasattr(module, "get_config"):
        raise ConfigError(f"--config={spec}: {path} has no function get_config(variant)")
    takes_variant = bool(inspect.signature(module.get_config).parameters)
    if variant and not takes_variant:
        raise ConfigError(f"--config={spec}: {path} has no variants; write --config={path}")
    config = module.get_config(variant) if variant else module.get_config()
    return parse_overrides(complete(config), overrides)


def read_config(path: str | pathlib.Path) -> ConfigDict:
    """The resolved config that a run wrote."""
    try:
        return complete(json.loads(pathlib.Path(path).read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a config that a run wrote: {error}") from error


def config_json(config: ConfigDict) -> str:
    return json.dumps(plain(config), indent=1)


def run_length(config: ConfigDict, train_size: int) -> tuple[int, float]:
    """(total steps, steps an epoch) of a run over `train_size` examples."""
    steps_per_epoch = train_size / config.batch_size
    total = config.steps if config.steps is not None else math.ceil(config.epochs * steps_per_epoch)
    return int(total), steps_per_epoch

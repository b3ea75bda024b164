"""The networks of a config: the one that is trained, and frozen ones beside it."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxvision import models
from jaxvision.compress.architecture import resized
from jaxvision.errors import ConfigError, nearest
from jaxvision.models.registry import variant_of


def network_size(config: Any) -> tuple[int, ...]:
    """What the network sees in pixels: config.task.view_size where views are cut from the host's pictures, else config.image_size."""
    return tuple(config.task.get("view_size", config.image_size))


def build_model(config: Any, *, num_classes: int):
    """The network of config.model at `network_size`; keys beside name and dtypes are fields of the module."""
    fields = {key: value for key, value in config.model.items() if key not in ("name", "dtype", "param_dtype", "architecture")}
    model = models.create_model(
        config.model.name,
        num_classes=num_classes,
        image_size=network_size(config),
        dtype=config.model.dtype,
        param_dtype=config.model.param_dtype,
        **fields,
    )
    return resized(model, config.model.get("architecture") or ())


FROZEN = ("source", "model", "fields", "num_classes", "image_size", "dtype", "param_dtype", "mean", "std")


def build_frozen(name: str, section: Any, noted: Mapping[str, Any] | None = None):
    """The network of config.frozen.<name>: `section.model` with the `section.fields` of its module; without them, that of the run which it is
    loaded from, as its checkpoint's `noted` config says.

    The section's `image_size`, `dtype` and `param_dtype` are its own, whatever the trained network's are; `num_classes` is the width of its head
    in a file (0: none).

    Raises ConfigError for another key, or where neither names a network.
    """
    for key in section:
        if key not in FROZEN:
            raise ConfigError(f"frozen.{name}.{key} is not a key of a frozen network; {nearest(key, FROZEN)}")
    types = {key: section[key] for key in ("dtype", "param_dtype") if key in section}
    if "model" in section:
        size = section.get("image_size", None)
        classes, fields = section.get("num_classes", 0), dict(section.get("fields", {}))
        return models.create_model(section.model, num_classes=classes, image_size=tuple(size) if size else None, **types, **fields)
    if not noted or "config" not in noted:
        raise ConfigError(f"frozen.{name} names no network; give --config.frozen.{name}.model=NAME")
    config = ConfigDict(_tuples(noted["config"]))
    config.model.update(types)
    if size := section.get("image_size", None):
        config.image_size = tuple(size)
        config.task.update({"view_size": tuple(size)} if "view_size" in config.task else {})
    return build_model(config, num_classes=len(noted["classes"]))


def _tuples(value: Any) -> Any:
    """A config as JSON keeps it, with tuples where JSON has lists."""
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def input_constants(config: Any, channels: int) -> dict[str, Any]:
    """Mean and std a channel and the evaluation crop: the config's, else those that the model was published with."""
    variant = variant_of(config.model.name)
    constants = {}
    for key in ("mean", "std"):
        given = config.data[key]
        values = tuple(given) if given is not None else getattr(variant, key)
        if len(values) == 1:
            values = values * channels
        if len(values) != channels:
            raise ConfigError(f"data.{key} has {len(values)} values, the images have {channels} channels; set --config.data.{key}=(…,)")
        constants[key] = values
    constants["crop"] = config.data.eval_crop if config.data.eval_crop is not None else variant.crop
    return constants

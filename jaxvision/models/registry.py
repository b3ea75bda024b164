"""The registry: every file of this folder may have a table `VARIANTS` of name -> `Variant`; names are timm's where timm has the model."""

import dataclasses
import fnmatch
import functools
import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxvision.errors import ModelError, nearest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTION_MEAN, INCEPTION_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One published model: the module with its fields, and the input that its weights expect.

    Attributes:
      module: the linen class, or a function that returns a module; called with `num_classes, image_size, dtype, param_dtype` and `settings`.
      settings: the module fields that make this variant.
      image_size: (height, width) in pixels.
      mean, std: a channel, of pixels scaled to 0..1.
      crop: share of the shorter side kept by the centre crop at evaluation.
      interpolation: of the resize at evaluation.
      parameters: published number of parameters with `classes` classes at `image_size` (batch statistics excluded); None where nobody published one.
      classes: of the head that was published.
    """

    module: Callable[..., nn.Module]
    settings: Mapping[str, Any]
    image_size: tuple[int, ...] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop: float = 0.875
    interpolation: str = "bicubic"
    parameters: int | None = None
    classes: int = 1000


@functools.cache
def _table() -> dict[str, Variant]:
    package = importlib.import_module("jaxvision.models")
    table: dict[str, Variant] = {}
    for module in pkgutil.iter_modules(package.__path__):
        variants = getattr(importlib.import_module(f"jaxvision.models.{module.name}"), "VARIANTS", {})
        if twice := table.keys() & variants.keys():
            raise RuntimeError(f"models/{module.name}.py names again: {', '.join(sorted(twice))}")
        table.update(variants)
    return table


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern, sorted: `list_models("convit*")`."""
    return sorted(fnmatch.filter(_table(), pattern))


def variant_of(name: str) -> Variant:
    """The table row of a model; a tag of weights after a dot (`vit_base_patch16_224.sam_in1k`) is not part of its name.

    Raises ModelError that names the nearest models.
    """
    name = name.split(".", 1)[0]
    if name not in _table():
        raise ModelError(f"model.name {name!r} is unknown; {nearest(name, _table())}")
    return _table()[name]


def create_model(
    name: str,
    num_classes: int = 1000,
    image_size: tuple[int, ...] | int | None = None,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    **overrides: Any,
) -> nn.Module:
    """The linen module of a published variant.

    Args:
      name: one of `list_models()`.
      num_classes: width of the head; 0 gives features instead of logits where the family says so.
      image_size: (H, W), or one number for a square; the variant's own by default. Only leaves that the family declares depend on it.
      dtype: of the computation; norms, softmax and the logits stay in float32.
      param_dtype: of the parameters.
      **overrides: any field of the module, `drop_path=0.1` for one.

    Raises:
      ModelError: an unknown name, field, or an image size that the architecture does not allow.
    """
    variant = variant_of(name)
    if image_size is None:
        image_size = variant.image_size
    image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(int(side) for side in image_size)
    fields = {**variant.settings, **overrides}
    if dataclasses.is_dataclass(variant.module):
        known = {field.name for field in dataclasses.fields(variant.module)} - {"parent", "name"}
        for key in overrides:
            if key not in known:
                raise ModelError(f"model.{key} is not a field of {name}; {nearest(key, known)}")
    return variant.module(
        num_classes=num_classes, image_size=image_size, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(param_dtype), **fields
    )


def input_channels(name: str) -> int:
    """Channels of the images that a model was published for."""
    return len(variant_of(name).mean)


def shapes_of(model: nn.Module, channels: int = 3) -> Any:
    """Shapes of all variables (a tree of ShapeDtypeStruct) of a model at its own image size; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, *model.image_size, channels), jnp.float32)
    return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)


def count_parameters(name: str, num_classes: int = 1000, image_size: tuple[int, ...] | int | None = None, **overrides: Any) -> int:
    """Number of trainable parameters, by shapes alone (no memory is used, nothing is computed)."""
    model = create_model(name, num_classes=num_classes, image_size=image_size, **overrides)
    shapes = shapes_of(model, input_channels(name))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))

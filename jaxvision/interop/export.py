"""A model as StableHLO (`jax.export`): a folder that runs wherever JAX or an OpenXLA runtime does, without this library.

The folder holds `model.stablehlo` (the serialized program, whose arguments are the weights in the order that export.json names, then the image),
`weights.safetensors`, and `export.json` (names in order, input shape and dtype, and whatever the caller adds: classes, mean and std of the input).
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import linen as nn

from jaxvision.errors import CheckpointError
from jaxvision.trees import named_leaves

PROGRAM, WEIGHTS, ABOUT = "model.stablehlo", "weights.safetensors", "export.json"


@dataclasses.dataclass(frozen=True)
class Exported:
    """A loaded program. Calling it with images (B, H, W, C), normalized float32, gives what the model gave.

    Attributes:
      call: weights and image -> outputs, as exported.
      weights: in the program's order.
      about: content of export.json.
    """

    call: Callable[..., Any]
    weights: tuple[np.ndarray, ...]
    about: Mapping[str, Any]

    def __call__(self, image: Any) -> Any:
        return self.call(self.weights, image)


def export_model(
    model: nn.Module,
    variables: Mapping[str, Any],
    path: str | os.PathLike,
    *,
    batch: str | int = "b",
    channels: int = 3,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    about: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes the inference of `model` (`model.apply(variables, image)`) into the folder `path`, and returns the folder.

    Args:
      batch: a letter leaves the batch size open, a number fixes it.
      platforms: that the program is lowered for, all in one file.
      about: JSON values to keep beside it.
    """
    folder = pathlib.Path(path).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    leaves = named_leaves(variables)
    structure = jax.tree.structure(variables)
    shape = (*jax.export.symbolic_shape(batch), *model.image_size, channels) if isinstance(batch, str) else (batch, *model.image_size, channels)
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    infer = lambda weights, image: model.apply(jax.tree.unflatten(structure, weights), image)
    specs = tuple(jax.ShapeDtypeStruct(np.shape(leaf), jnp.asarray(leaf).dtype) for leaf in leaves.values())
    program = jax.export.export(jax.jit(infer), platforms=tuple(platforms))(specs, image)
    (folder / PROGRAM).write_bytes(program.serialize())
    safetensors.numpy.save_file({name: np.ascontiguousarray(leaf) for name, leaf in leaves.items()}, folder / WEIGHTS)
    record = {"image_shape": [str(side) for side in shape], "dtype": "float32", "weights": list(leaves), "platforms": list(platforms)}
    (folder / ABOUT).write_text(json.dumps({**record, **(about or {})}, indent=1))
    return folder


def load_exported(path: str | os.PathLike) -> Exported:
    """The program in a folder that `export_model` wrote. Raises CheckpointError when it is not one, or incomplete."""
    folder = pathlib.Path(path).expanduser()
    for name in (PROGRAM, WEIGHTS, ABOUT):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is no exported model: {name} is missing")
    about = json.loads((folder / ABOUT).read_text())
    arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    if absent := [name for name in about["weights"] if name not in arrays]:
        raise CheckpointError(f"{folder / WEIGHTS} lacks {len(absent)} arrays that {ABOUT} names ({', '.join(absent[:4])})")
    program = jax.export.deserialize((folder / PROGRAM).read_bytes())
    return Exported(jax.jit(program.call), tuple(arrays[name] for name in about["weights"]), about)

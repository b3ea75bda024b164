"""`--mode=export`: a run's network as a StableHLO program, loaded back and compared with the network that it came from."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from jaxvision import interop
from jaxvision.errors import CheckpointError, ConfigError
from jaxvision.train.loading import load_run

# Largest difference, as a share of the largest output, by which program and network may differ: both are compiled apart, and round apart.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}


def export(
    workdir: str | pathlib.Path,
    *,
    output: str | pathlib.Path | None = None,
    checkpoint: str | int = "last",
    stage: str | None = None,
    report: Callable[[str], None] = print,
) -> pathlib.Path:
    """Writes the network of a checkpoint into the folder `output` (workdir/export by default), and returns the folder.

    The program takes normalized float32 images (B, H, W, C) of the run's image size, B open, and gives what the model gives (logits of a
    classifier). export.json beside it has class names by label, mean and std a channel, the evaluation crop and the image size: all that is
    needed to feed it. The averaged parameters are taken where the run keeps them.

    Raises:
      CheckpointError: there is no such run, or the reloaded program does not give the network's outputs.
      ConfigError: what the run learned is not one network.
    """
    run = load_run(workdir, checkpoint=checkpoint, stage=stage, report=report)
    if not isinstance(run.model, nn.Module):
        raise ConfigError(f"the task {run.config.task.name!r} has not one network, and cannot be exported")
    channels, size = len(run.constants["mean"]), tuple(run.config.image_size)
    about = {
        "model": run.config.model.name,
        "classes": list(run.classes),
        "image_size": list(size),
        "mean": list(run.constants["mean"]),
        "std": list(run.constants["std"]),
        "crop": run.constants["crop"],
        "step": run.step,
    }
    folder = pathlib.Path(output) if output is not None else pathlib.Path(workdir) / "export"
    folder = interop.export_model(run.model, run.variables, folder, channels=channels, about=about)
    image = np.random.RandomState(0).standard_normal((2, *size, channels)).astype(np.float32)
    difference = compare(interop.load_exported(folder)(image), jax.jit(run.model.apply)(run.variables, image))
    allowed = TOLERANCE.get(str(run.config.model.dtype), TOLERANCE["float32"])
    line = f"the reloaded program differs from the network by at most {difference:.2g} of the largest output"
    if not difference <= allowed:
        raise CheckpointError(f"{folder}: {line}; {allowed:g} is allowed")
    report(f"step {run.step} -> {folder}: {line}")
    return folder


def compare(one: Any, other: Any) -> float:
    """Largest absolute difference of two trees of arrays, as a share of the largest value of the second."""
    pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    largest = max(float(np.abs(np.asarray(b, np.float64)).max()) for _, b in pairs)
    return max(float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()) for a, b in pairs) / max(largest, 1e-30)

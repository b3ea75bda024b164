"""A run taken back into Python: its model with the trained variables, and what its inputs have to look like."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float, Num

from jaxvision.augment.normalize import normalize
from jaxvision.compress.cut import take
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem, Task
from jaxvision.train.architecture import read_change
from jaxvision.train.config import complete, run_length, with_changes
from jaxvision.train.init_from import read_checkpoint_variables
from jaxvision.train.modes import own_config
from jaxvision.train.phases import saved_phase
from jaxvision.train.stages import stage_folder


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A checkpoint of a run, ready to use: `run.model.apply(run.variables, run.normalize(images))`.

    Attributes:
      task: what the run learned.
      variables: what `model.apply` takes, numpy arrays; averaged parameters where the run keeps them.
      config: the run's, complete.
      classes: names by label; () where the run had none.
      constants: mean and std a channel, and the evaluation crop.
      step: of the checkpoint.
    """

    task: Task
    variables: Mapping[str, Any]
    config: Any
    classes: tuple[str, ...]
    constants: Mapping[str, Any]
    step: int

    @property
    def model(self) -> nn.Module:
        """The trained network."""
        return self.task.model

    def normalize(self, image: Num[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Stored pixels (uint8, say) as the floats that the model was trained on. The size has to be one that the model takes."""
        return normalize(image, self.constants["mean"], self.constants["std"])


def load_run(
    workdir: str | pathlib.Path, *, checkpoint: str | int = "last", stage: str | None = None, report: Callable[[str], Any] = print
) -> LoadedRun:
    """The model of a run and what it learned. Reads the workdir alone: neither the training data nor the file of the config has to be there.

    Args:
      workdir: where `jaxvision.fit` trained.
      checkpoint: "last", "best" or a step.
      stage: of a run of several; the last one by default.
      report: is told of a damaged checkpoint that is passed over.

    Of a run that cut its network (architecture.json) it is the smaller one, whose outputs are the same.

    Raises CheckpointError when there is no such run or checkpoint, ConfigError when it has no such stage.
    """
    folder, _ = stage_folder(own_config(None, workdir), workdir, stage)
    variables, meta = read_checkpoint_variables(folder, checkpoint, report=report)
    config, classes = complete(meta["config"]), tuple(meta["classes"])
    if (change := read_change(folder)) is not None and change["kept"] is not None and change["step"] == meta["step"]:
        config, variables = with_changes(config, {"model.architecture": change["layers"]}), take(variables, change["kept"])
    total_steps, steps_per_epoch = run_length(config, meta["train_size"])
    phase = saved_phase(config, meta)
    problem = Problem(classes, meta["channels"], meta["train_size"], total_steps, steps_per_epoch, meta["frozen"], phase.crop)
    task = make_task(phase.config(config), problem)
    return LoadedRun(task, variables, config, classes, task.constants, int(meta["step"]))

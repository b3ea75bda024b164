"""Which phase of an operation each frame of a video shows: a temporal network (models/tcn.py) on features of its frames.

The loss of a stage is the cross-entropy of the labelled frames plus 0.15 times the mean squared step of its log-probabilities from frame to frame,
cut at 16, against the frame before held constant (Farha and Gall 2019, arXiv 1903.01945); stages are added. A batch is of videos, by default one.
As in the surgical self-supervision study (Ramesh et al. 2023, arXiv 2207.00449): Adam at 7e-4, constant, without decay. Its trainer switches dropout
off after the first validation and never on again; here it stays on.

`config.model.name` says whose features the videos hold; the network trained is this task's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxvision.errors import ConfigError, nearest
from jaxvision.models.tcn import MultiStageTCN
from jaxvision.tasks.base import Task, total, weighted_mean

KEYS = ("name", "stages", "layers", "maps", "dropout", "smoothing")
MOST = 16.0  # of a squared step


def phase_loss(
    logits: Float[Array, "s b t k"], label: Int[Array, "b t"], shown: Bool[Array, "b t"], smoothing: float = 0.15
) -> Float[Array, "b"]:
    """The loss of each video; frames with a label below 0 count for the steps alone."""
    logs = jax.nn.log_softmax(logits, axis=-1)
    labelled = (label >= 0) & shown
    crossed = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label, 0)[None])
    entropy = (crossed * labelled).sum(-1) / jnp.maximum(labelled.sum(-1), 1)
    steps = jnp.minimum(jnp.square(logs[:, :, 1:] - jax.lax.stop_gradient(logs[:, :, :-1])), MOST).mean(-1)
    inside = shown[:, 1:]
    smooth = (steps * inside).sum(-1) / jnp.maximum(inside.sum(-1), 1)
    return (entropy + smoothing * smooth).sum(0)


class Phases(Task):
    """Keys of config.task: `stages` (2), `layers` (9), `maps` (64), `dropout` (0.5), `smoothing` (0.15)."""

    def __init__(self, config, problem):
        for key in config.task:
            if key not in KEYS:
                raise ConfigError(f"task.{key} is not a key of the task 'phases'; {nearest(key, KEYS)}")
        if len(problem.classes) < 2:
            raise ConfigError(f"phases need at least 2 classes, the data has {len(problem.classes)}")
        self.smoothing = float(config.task.get("smoothing", 0.15))
        super().__init__(config, problem)

    def build(self):
        fields = {key: self.config.task[key] for key in ("stages", "layers", "maps", "dropout") if key in self.config.task}
        return MultiStageTCN(len(self.problem.classes), **fields)

    def init_variables(self, key, shapes):
        return self.model.init(key, jnp.zeros((1, *shapes["features"].shape[1:])))

    def prepare(self, batch, key, *, train):
        valid = batch["valid"].astype(jnp.float32)
        return {**batch, "weight": valid / jnp.maximum(valid.mean(), 1e-9) if train else valid}

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        logits = self.model.apply({"params": params}, batch["features"], batch["shown"], train=True, rngs={"dropout": key})
        return weighted_mean(phase_loss(logits, batch["label"], batch["shown"], self.smoothing), batch["weight"]), {}

    def evaluate(self, variables, state, batch):
        logits = self.model.apply({"params": variables["params"]}, batch["features"], batch["shown"])
        loss = total(phase_loss(logits, batch["label"], batch["shown"], self.smoothing), batch["weight"])
        return {"loss": loss}, {"label": batch["label"], "predicted": logits[-1].argmax(-1)}

    def summarize(self, rows, names):
        """Means over videos of the share of frames that are right, and of F1 averaged over the phases that occur in the video or its prediction."""
        from sklearn.metrics import f1_score

        accuracies, scores = [], []
        for label, predicted in zip(rows["test"]["label"], rows["test"]["predicted"]):
            known = label >= 0
            accuracies.append((label == predicted)[known].mean())
            scores.append(f1_score(label[known], predicted[known], average="macro"))
        return {"accuracy": float(np.mean(accuracies)), "f1": float(np.mean(scores))}

    def predict(self, state, batch):
        logits = self.model.apply({"params": self.variables(state)["params"]}, batch["features"], batch["shown"])
        return {"probabilities": jax.nn.softmax(logits[-1], axis=-1)}


TASK = Phases

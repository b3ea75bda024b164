"""Supervised classification: one label (or a vector of label shares) an image."""

import functools
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvision.errors import ConfigError, DataError, nearest
from jaxvision.tasks import metrics
from jaxvision.tasks.base import Task, total, weighted_mean

# Whole score vectors are kept for summaries up to this many classes; beyond, the five best.
WHOLE_SCORES = 64


def softmax_loss(logits, target):
    return optax.softmax_cross_entropy(logits, target)


def sigmoid_loss(logits, target, positive=1.0):
    """Sum over classes of binary cross-entropies (Beyer et al. 2020, arXiv 2006.07159); `positive` weighs the presence of each class."""
    present, absent = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -(positive * target * present + (1 - target) * absent).sum(-1)


LOSSES = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}
SCORES = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}
# What config.task.metrics may name: from the rows of the test split and the number of classes.
METRICS = {
    "auc": lambda rows, classes: metrics.macro_auc(rows.get("target", np.eye(classes)[rows["label"]]) > 0.5, rows["scores"]),
    "map": lambda rows, classes: metrics.mean_average_precision(rows.get("target", np.eye(classes)[rows["label"]]) > 0.5, rows["scores"]),
    "kappa": lambda rows, classes: metrics.quadratic_kappa(rows["label"], rows["predicted"], classes),
}


class Classify(Task):
    """Keys of config.task: `loss` ("softmax" or "sigmoid"), `label_smoothing`, `metrics`, `auxiliary`, `positive_weights`.

    `positive_weights` are the sigmoid loss's, one a class: how much its presence counts where it is rare.

    `auxiliary` is the weight of the same loss on the logits that the model sows into its collection "auxiliary" (0.4 for the Inceptions).

    `metrics` adds figures of the whole test split: "auc", the area under the ROC curve, one class against the rest, mean over classes (of labels
    that do not exclude each other too); "map", the mean over classes of average precision; "kappa", Cohen's with quadratic weights, for classes
    that are ordered.
    """

    KEYS = ("name", "loss", "label_smoothing", "metrics", "auxiliary", "positive_weights")

    def __init__(self, config, problem):
        for key in config.task:
            if key not in self.KEYS:
                raise ConfigError(f"task.{key} is not a key of the task {config.task.name!r}; {nearest(key, self.KEYS)}")
        if len(problem.classes) < 2:
            raise DataError(f"classification needs at least 2 classes, the data has {len(problem.classes)}: {', '.join(problem.classes)}")
        name = config.task.get("loss", "softmax")
        if name not in LOSSES:
            raise ConfigError(f"task.loss {name!r} is unknown; {nearest(name, LOSSES)}")
        self.per_example_loss, self.score, self.label_smoothing = LOSSES[name], SCORES[name], config.task.get("label_smoothing", 0.0)
        self.auxiliary = config.task.get("auxiliary", 0.0)
        if weights := tuple(config.task.get("positive_weights", ())):
            if name != "sigmoid" or len(weights) != len(problem.classes):
                count = len(problem.classes)
                raise ConfigError(f"task.positive_weights: {len(weights)} numbers; task.loss='sigmoid' takes one for each of {count} classes")
            self.per_example_loss = functools.partial(sigmoid_loss, positive=np.asarray(weights, np.float32))
        self.metrics = tuple(config.task.get("metrics", ()))
        for metric in self.metrics:
            if metric not in METRICS:
                raise ConfigError(f"task.metrics {metric!r} is unknown; {nearest(metric, METRICS)}")
        super().__init__(config, problem)

    def prepare(self, batch: Mapping[str, Any], key: jax.Array, *, train: bool) -> dict[str, Any]:
        image_key, mix_key = jax.random.split(key)
        batch = super().prepare(batch, image_key, train=train)
        classes = len(self.problem.classes)
        target = batch["label"].astype(jnp.float32) if batch["label"].ndim == 2 else jax.nn.one_hot(batch["label"], classes)
        if train:
            # Smoothing before mixing equals mixing before smoothing: both are affine.
            target = target * (1 - self.label_smoothing) + self.label_smoothing / classes
            batch["image"], target = self.augment.mix(mix_key, batch["image"], target)
        return {**batch, "target": target}

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        variables = {"params": params, **{name: extra[name] for name in ("batch_stats",) if name in extra}}
        mutable = ["batch_stats", "auxiliary"] if self.auxiliary else ["batch_stats"]
        logits, new = self.model.apply(variables, batch["image"], train=True, rngs={"dropout": key}, mutable=mutable)
        value = weighted_mean(self.per_example_loss(logits, batch["target"]), batch["weight"])
        if self.auxiliary:
            new, sown = flax.core.pop(new, "auxiliary") if "auxiliary" in new else (new, None)
            if not sown:
                raise ConfigError("task.auxiliary weighs auxiliary logits, and the model has none: set model.auxiliary=True, or task.auxiliary=0")
            for other in jax.tree.leaves(sown):
                value += self.auxiliary * weighted_mean(self.per_example_loss(other, batch["target"]), batch["weight"])
        hit = logits.argmax(-1) == batch["target"].argmax(-1)
        return value, {"metrics": {"accuracy": weighted_mean(hit, batch["weight"])}, "extra": dict(new)}

    def evaluate(self, variables, state, batch):
        logits = self.model.apply(variables, batch["image"], train=False)
        label = batch["target"].argmax(-1)
        weight = batch["weight"]
        sums = {
            "loss": total(self.per_example_loss(logits, batch["target"]), weight),
            "accuracy": total(logits.argmax(-1) == label, weight),
        }
        if len(self.problem.classes) > 10:
            sums["top5"] = total((jax.lax.top_k(logits, 5)[1] == label[:, None]).any(-1), weight)
        rows = {"label": label, "predicted": logits.argmax(-1)}
        if len(self.problem.classes) <= WHOLE_SCORES or {"auc", "map"} & set(self.metrics):
            rows["scores"] = self.score(logits)
        if batch["label"].ndim == 2:
            rows["target"] = batch["target"]
        return sums, rows

    def summarize(self, rows, names):
        test, classes = rows["test"], len(names)
        figures = {name: METRICS[name](test, classes) for name in self.metrics}
        if classes > 200:
            return figures
        confusion = np.zeros((classes, classes), np.int64)
        np.add.at(confusion, (test["label"], test["predicted"]), 1)
        return {**figures, "confusion": confusion}

    def predict(self, state, batch):
        batch = Task.prepare(self, batch, state.key, train=False)
        return {"probabilities": self.score(self.model.apply(self.variables(state), batch["image"], train=False))}


TASK = Classify

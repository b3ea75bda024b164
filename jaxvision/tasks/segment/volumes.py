"""Segmentation of volumes, learned from patches and judged on whole scans.

The network returns logits (B, D, H, W, K), class 0 being background; where it has a method `outputs`, several of them, finest first, which are
supervised each at its own size. The loss is soft Dice over the classes plus cross entropy (Isensee et al. 2021, nnU-Net).
"""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvision.augment.volume import make_volume_augment
from jaxvision.errors import ConfigError, nearest
from jaxvision.tasks.base import Task, Windows, weighted_mean
from jaxvision.tasks.networks import build_model
from jaxvision.tasks.segment.measures import METRICS, mean_of_classes, measure_classes
from jaxvision.tasks.segment.pictures import voc_palette

SMOOTH = 1e-5
SHOWN = 6


def soft_dice(probabilities: Float[Array, "b d h w k"], truth: Float[Array, "b d h w k"]) -> Float[Array, "b"]:
    """1 - mean over the classes without background of (2 sum p g + s) / (sum p + sum g + s), of each example; s = 1e-5."""
    p, g = (x[..., 1:] for x in (probabilities, truth))
    overlap, total = (p * g).sum((1, 2, 3)), p.sum((1, 2, 3)) + g.sum((1, 2, 3))
    return 1 - ((2 * overlap + SMOOTH) / (total + SMOOTH)).mean(-1)


def nearest_mask(mask: Int[Array, "b d h w"], size: tuple[int, int, int]) -> Int[Array, "b p q r"]:
    """The mask at another size, each voxel from the middle of what it covers."""
    for axis, (old, new) in enumerate(zip(mask.shape[1:], size), 1):
        if old != new:
            mask = jnp.take(mask, jnp.asarray(np.floor((np.arange(new) + 0.5) * old / new).astype(np.int32)), axis=axis)
    return mask


class Segment(Task):
    """Keys of config.task:

    dice, cross_entropy: their weights in the loss (1 and 1).
    supervision: weight of each output, finest first, brought to sum 1; those beyond are left out. None: 1, 1/2, 1/4, …
    overlap: share that windows of `image_size` have in common when whole volumes are scored (0.5).
    mirror: axes of (D, H, W); scores are averaged over all their mirrorings (()).
    metrics: of "dice", "hd95", "hd95_pooled", "asd"; the latter three in millimetres.
    judged: names of the classes that means are taken over; () for all.
    """

    KEYS = ("name", "dice", "cross_entropy", "supervision", "overlap", "mirror", "metrics", "judged")

    def __init__(self, config, problem):
        for key in config.task:
            if key not in self.KEYS:
                raise ConfigError(f"task.{key} is not a key of the task {config.task.name!r}; {nearest(key, self.KEYS)}")
        if len(config.image_size) != 3:
            raise ConfigError(f"image_size is {tuple(config.image_size)}: patches of volumes need (depth, height, width)")
        if problem.crop:
            raise ConfigError("phases of other sizes are for pictures; give volumes one image_size")
        if not problem.classes:
            raise ConfigError("segmentation learns from masks, and the data have none")
        get = config.task.get
        self.weights = (float(get("dice", 1.0)), float(get("cross_entropy", 1.0)))
        self.metrics, self.mirror, self.judged = tuple(get("metrics", ("dice", "hd95", "asd"))), tuple(get("mirror", ())), tuple(get("judged", ()))
        for name in self.metrics:
            if name not in METRICS:
                raise ConfigError(f"task.metrics {name!r} is unknown; {nearest(name, METRICS)}")
        for name in self.judged:
            if name not in problem.classes:
                raise ConfigError(f"task.judged {name!r} is no class of the data; {nearest(name, problem.classes)}")
        if not set(self.mirror) <= {0, 1, 2}:
            raise ConfigError(f"task.mirror={self.mirror} are axes of (depth, height, width): some of 0, 1, 2")
        overlap = float(get("overlap", 0.5))
        if not 0 <= overlap < 1:
            raise ConfigError(f"task.overlap={overlap} is a share of a window's side, from 0 to below 1")
        super().__init__(config, problem)
        self.windows = Windows(tuple(config.image_size), overlap)
        self.mean, self.std = (np.asarray(self.constants[key], np.float32) for key in ("mean", "std"))

    def build(self):
        return build_model(self.config, num_classes=len(self.problem.classes) + 1)

    def make_augment(self):
        return make_volume_augment(self.config.augment, self.config.data.spacing)

    def init_variables(self, key, shapes):
        return self.model.init(key, jnp.zeros((1, *shapes["volume"].shape[1:]), jnp.float32), train=False)

    def normalized(self, volume: Float[Array, "b d h w c"]) -> Float[Array, "b d h w c"]:
        return (volume.astype(jnp.float32) - self.mean) / self.std

    def prepare(self, batch, key, *, train):
        batch, valid = dict(batch), batch["valid"].astype(jnp.float32)
        batch["volume"], batch["weight"] = self.normalized(batch["volume"]), valid
        if train:
            batch["volume"], batch["mask"] = self.augment(key, batch["volume"], batch["mask"].astype(jnp.int32), jnp.arange(len(valid)))
            batch["weight"] = valid / jnp.maximum(valid.mean(), 1e-9)
        return batch

    def supervised(self, outputs: tuple) -> list[tuple[float, Array]]:
        """(weight, logits) of the outputs that count."""
        weights = self.config.task.get("supervision", None)
        weights = [0.5**i for i in range(len(outputs))] if weights is None else list(weights)
        if not 0 < len(weights) <= len(outputs) or min(weights) < 0 or not sum(weights):
            raise ConfigError(f"task.supervision={tuple(weights)}: the network has {len(outputs)} outputs, each takes a weight of at least 0")
        return [(weight / sum(weights), logits) for weight, logits in zip(weights, outputs)]

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        variables = {"params": params, **{name: extra[name] for name in ("batch_stats",) if name in extra}}
        method = "outputs" if hasattr(self.model, "outputs") else None
        made, new = self.model.apply(variables, batch["volume"], train=True, rngs={"dropout": key}, mutable=["batch_stats"], method=method)
        value, metrics = 0.0, {}
        for number, (weight, logits) in enumerate(self.supervised(made if method else (made,))):
            mask = nearest_mask(batch["mask"], logits.shape[1:4])
            logarithms = jax.nn.log_softmax(logits.astype(jnp.float32))
            truth = jax.nn.one_hot(mask, logits.shape[-1])
            parts = soft_dice(jnp.exp(logarithms), truth), -(logarithms * truth).sum(-1).mean((1, 2, 3))
            dice, entropy = (weighted_mean(part, batch["weight"]) for part in parts)
            value = value + weight * (self.weights[0] * dice + self.weights[1] * entropy)
            if not number:
                metrics = {"soft_dice": 1 - dice, "cross_entropy": entropy}
        return value, {"metrics": metrics, "extra": dict(new)}

    def scores(self, variables: Mapping[str, Any], volume: Float[Array, "b d h w c"]) -> Float[Array, "b d h w k"]:
        """Probabilities of normalized volumes, averaged over `mirror`."""
        turns = [axes for n in range(len(self.mirror) + 1) for axes in itertools.combinations([axis + 1 for axis in self.mirror], n)]
        total = 0
        for axes in turns:
            made = jax.nn.softmax(self.model.apply(variables, jnp.flip(volume, axes), train=False).astype(jnp.float32))
            total = total + jnp.flip(made, axes)
        return total / len(turns)

    def predict(self, state, batch):
        return {"scores": self.scores(self.variables(state), self.normalized(batch["volume"]))}

    def measure(self, outputs, example):
        return measure_classes(outputs["mask"], np.asarray(example["mask"]), len(self.problem.classes), example["spacing"], self.metrics)

    def summarize(self, rows, names):
        """For each metric the mean of each class over the cases that have it ("dice_liver"), and the mean of the judged classes ("dice")."""
        figures = {}
        judged = [names.index(name) for name in self.judged] or list(range(len(names)))
        for split, table in rows.items():
            for metric in self.metrics:
                classes = mean_of_classes(table[metric])
                seen = [classes[i] for i in judged if not np.isnan(classes[i])]
                figures |= {f"{split}/{metric}_{name}": float(figure) for name, figure in zip(names, classes) if not np.isnan(figure)}
                figures[f"{split}/{metric}"] = float(np.mean(seen)) if seen else 0.0
        return figures

    def figures(self, state, batch) -> dict[str, Float[Array, "n h w c"]]:
        """Columns of a sheet for people, a row an example: the middle slice of a patch, the predicted classes and the true ones."""
        batch = self.prepare(jax.tree.map(lambda leaf: leaf[:SHOWN], dict(batch)), state.key, train=False)
        middle = batch["volume"].shape[1] // 2
        plain = batch["volume"][:, middle, :, :, :1]
        low, high = (f(plain, (1, 2, 3), keepdims=True) for f in (jnp.min, jnp.max))
        colours = jnp.asarray(voc_palette(), jnp.float32) / 255
        predicted = self.scores(self.variables(state), batch["volume"])[:, middle].argmax(-1)
        return {
            "input": (plain - low) / jnp.maximum(high - low, 1e-6),
            "predicted": colours[predicted],
            "truth": colours[batch["mask"][:, middle].astype(jnp.int32)],
        }


TASK = Segment

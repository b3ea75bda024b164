"""Clips to texts by cross entropy: a network that writes one symbol after the other, fed with the truth or with what it wrote.

A batch has `clip` (B, T, H, W, C), `length` (B,), the frames of each that are not padding, and `text` (B, L), see tasks/text/vocabulary.py. The
network is called as models/lipreader.py's is: with `text` and `taught`, and by its methods `taught_and_free` and `write`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvision.augment.clip import make_clip_augment
from jaxvision.errors import ConfigError, nearest
from jaxvision.tasks.base import Task, total, weighted_mean
from jaxvision.tasks.text.distance import error_rates, until_end
from jaxvision.tasks.text.measures import bleu
from jaxvision.tasks.text.vocabulary import END, MARKS, decode

# What config.task.metrics may name: from the texts predicted and the true ones, of a whole split.
METRICS = {"bleu": bleu}
SHOWN, STRIP = 6, (2, 4)  # examples of a sheet; rows and columns of the frames of one


class Transcribe(Task):
    """Keys of config.task:

    forcing: probability, at each step for the whole batch, that the truth is fed on rather than the network's own symbol (1); or its first and last
        value, between which it moves in proportion to the steps.
    padding: the loss counts the steps behind a text's end too, and divides by the length of the row, as the first author's baselines do (False).
    beam: texts that are kept while decoding in evaluation and prediction; 1 is greedy.
    metrics: figures of the whole test split beside cer, wer and accuracy (the share of texts without an error): "bleu".
    """

    KEYS: tuple[str, ...] = ("name", "forcing", "padding", "beam", "metrics")

    def __init__(self, config, problem):
        for key in config.task:
            if key not in self.KEYS:
                raise ConfigError(f"task.{key} is not a key of the task {config.task.name!r}; {nearest(key, self.KEYS)}")
        if tuple(problem.classes[: len(MARKS)]) != MARKS:
            raise ConfigError(f"task {config.task.name!r} learns from clips with texts, and data.source {config.data.source!r} has none; 'lips' has")
        if problem.crop:
            raise ConfigError("phases of other sizes are for pictures; give clips one image_size")
        self.forcing = self.ramp("forcing", config.task.get("forcing", 1.0))
        self.padding, self.beam = bool(config.task.get("padding", False)), config.task.get("beam", 1)
        if not isinstance(self.beam, int) or self.beam < 1:
            raise ConfigError(f"task.beam={self.beam!r} is a number of texts, at least 1")
        self.metrics = tuple(config.task.get("metrics", ()))
        for name in self.metrics:
            if name not in METRICS:
                raise ConfigError(f"task.metrics {name!r} is unknown; {nearest(name, METRICS)}")
        super().__init__(config, problem)

    def ramp(self, key: str, value: Any) -> tuple[float, float]:
        """(first, last) of a share that moves over the run. Raises ConfigError for what is neither one share nor two."""
        pair = tuple(value) if isinstance(value, Sequence) else (value, value)
        if len(pair) != 2 or not all(isinstance(end, int | float) and 0 <= end <= 1 for end in pair):
            raise ConfigError(f"task.{key}={value!r} is a share, 0..1, or its first and last value, (1.0, 0.5)")
        return float(pair[0]), float(pair[1])

    def now(self, ramp: tuple[float, float], step: Array) -> Array | float:
        first, last = ramp
        return first if first == last else first + (last - first) * jnp.minimum(step / max(1, self.problem.total_steps), 1.0)

    def make_augment(self):
        return make_clip_augment(self.config.augment, mean=self.constants["mean"], std=self.constants["std"])

    def init_variables(self, key, shapes):
        return self.model.init(key, jnp.zeros((1, *shapes["clip"].shape[1:]), jnp.float32), train=False)

    def prepare(self, batch, key, *, train):
        batch, valid = dict(batch), batch["valid"].astype(jnp.float32)
        row = jnp.arange(len(valid))
        clip = self.augment(key, batch["clip"], row) if train else self.augment.normalize(batch["clip"])
        shown = jnp.arange(clip.shape[1]) < batch["length"][:, None]
        batch["clip"] = jnp.where(shown[:, :, None, None, None], clip, 0.0)
        batch["weight"] = valid / jnp.maximum(valid.mean(), 1e-9) if train else valid
        return batch

    # --- the loss ---

    def variables_of(self, params, extra) -> dict[str, Any]:
        return {"params": params, **{name: extra[name] for name in ("batch_stats",) if name in extra}}

    def taught(self, key: Array, steps: int, step: Array) -> Array:
        """At which steps the truth is fed on; one draw a step for the whole batch."""
        return jax.random.bernoulli(key, self.now(self.forcing, step), (steps,))

    def cross_entropy(self, log_probs: Float[Array, "b l k"], target: Int[Array, "b l"]) -> Float[Array, "b"]:
        """Mean over the steps up to the end, which is included, of -log p(truth); over the whole row, its mark of the beginning counted as 0, where
        the padding counts."""
        nll = -jnp.take_along_axis(log_probs, target[..., None], axis=-1)[..., 0]
        if self.padding:
            return nll.sum(-1) / (target.shape[1] + 1)
        counted = until_end(target)
        return (nll * counted).sum(-1) / counted.sum(-1)

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        dropout, forcing = jax.random.split(key)
        target = batch["text"][:, 1:]
        log_probs, new = self.model.apply(
            self.variables_of(params, extra), batch["clip"], batch["length"], text=target,
            taught=self.taught(forcing, target.shape[1], extra["step"]), train=True, rngs={"dropout": dropout}, mutable=["batch_stats"],
        )  # fmt: skip
        return weighted_mean(self.cross_entropy(log_probs, target), batch["weight"]), {"metrics": {}, "extra": dict(new)}

    # --- use ---

    def evaluate(self, variables, state, batch):
        target, weight = batch["text"][:, 1:], batch["weight"]
        steps = target.shape[1]
        known = (variables, batch["clip"], batch["length"])
        taught, free = self.model.apply(*known, target, jnp.ones(steps, bool), None, method="taught_and_free")
        symbols = free.symbols if self.beam == 1 else self.model.apply(*known, steps, self.beam, END, method="write")[0]
        rates = error_rates(symbols, target)
        sums = {
            "loss": total(self.cross_entropy(taught.log_probs, target), weight),
            "cer": total(rates.cer, weight),
            "wer": total(rates.wer, weight),
            "accuracy": total(rates.same, weight),
        }
        return sums, {"text": symbols, "truth": target} if self.metrics else {}

    def summarize(self, rows, names):
        table = rows["test"]
        texts = {side: [decode(row, names) for row in table[side]] for side in ("text", "truth")} if self.metrics else {}
        return {name: METRICS[name](texts["text"], texts["truth"]) for name in self.metrics}

    def predict(self, state, batch):
        """`text` (B, L), symbols; `score` (B,), their mean probability in the logarithm's sense."""
        batch = self.prepare(batch, state.key, train=False)
        steps = self.config.data.text_length - 1
        symbols, mean = self.model.apply(self.variables(state), batch["clip"], batch["length"], steps, self.beam, END, method="write")
        return {"text": symbols, "score": jnp.exp(mean)}

    def figures(self, state, batch) -> dict[str, Array]:
        """A strip of frames of each example, and its texts for `captions`."""
        batch = jax.tree.map(lambda leaf: leaf[:SHOWN], dict(batch))
        made = self.predict(state, batch)
        rows, columns = STRIP
        clip, last = batch["clip"].astype(jnp.float32) / 255, batch["length"] - 1
        places = jnp.round(jnp.linspace(0, 1, rows * columns) * last[:, None]).astype(jnp.int32)
        frames = jnp.take_along_axis(clip, places[:, :, None, None, None], axis=1)
        n, _, h, w, c = frames.shape
        strip = frames.reshape(n, rows, columns, h, w, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, rows * h, columns * w, c)
        return {"frames": strip, "text": made["text"], "truth": batch["text"]}

    def captions(self, columns: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
        """What stands beneath the strips: the text that was written and the true one."""
        texts = ([decode(row, self.problem.classes) for row in columns[side]] for side in ("text", "truth"))
        return {"frames": [f"{ours or '-'} ({theirs})" for ours, theirs in zip(*texts)]}


TASK = Transcribe

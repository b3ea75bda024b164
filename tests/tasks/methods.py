"""Small methods that exercise the contracts of a task: two players, a frozen teacher with a queue, a static path."""

import jax
import jax.numpy as jnp

from jaxvision.tasks.base import Player, Task, total, weighted_mean
from jaxvision.tasks.classify import Classify


class TwoPlayers(Task):
    """A generator's mean is pulled to what a critic scores high; the critic is pulled to the images' mean. The generator moves every other step."""

    def build(self):
        return None

    def init_variables(self, key, shapes):
        return {"params": {"generator": {"mean": jnp.full((1,), 3.0)}, "critic": {"centre": jnp.zeros((1,)), "scale": jnp.ones((1,))}}}

    def make_players(self):
        return (Player("critic", self.critic_loss, ("critic",)), Player("generator", self.generator_loss, ("generator",), every=2, optim="slow"))

    def critic_loss(self, params, extra, frozen, batch, key, *, static, train):
        distance = jnp.square(params["critic"]["centre"] - batch["image"].mean((1, 2)))[:, 0]
        return weighted_mean(distance, batch["weight"]), {"metrics": {"seen": extra["turns"]}, "extra": {"turns": extra["turns"] + 1}}

    def generator_loss(self, params, extra, frozen, batch, key, *, static, train):
        # `turns` was raised by the critic in this very step.
        value = jnp.square(params["generator"]["mean"] - params["critic"]["centre"]).sum()
        return value, {"metrics": {"seen": extra["turns"]}}

    def init_extra(self, key, params, frozen):
        return {"turns": jnp.zeros(())}

    def evaluate(self, variables, state, batch):
        gap = jnp.abs(variables["params"]["generator"]["mean"] - variables["params"]["critic"]["centre"])[0]
        return {"gap": total(jnp.broadcast_to(gap, batch["weight"].shape), batch["weight"])}, {}


class Distill(Classify):
    """Learns a frozen teacher's distribution, and keeps a queue of the last scores that the teacher gave."""

    KEYS = (*Classify.KEYS, "queue")

    def init_extra(self, key, params, frozen):
        return {"queue": jnp.full((self.config.task.queue, len(self.problem.classes)), -1.0)}

    def build(self):
        if "teacher" in self.problem.frozen:
            assert self.problem.frozen["teacher"]["classes"] == list(self.problem.classes)
        return super().build()

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        logits = self.model.apply({"params": params}, batch["image"], train=True, rngs={"dropout": key})
        teacher = jax.nn.softmax(self.model.apply(frozen["teacher"], batch["image"], train=False))
        value = weighted_mean(self.per_example_loss(logits, teacher), batch["weight"])
        return value, {"outputs": {"teacher": teacher}}

    def after_update(self, params, extra, outputs, batch, step):
        queue = jnp.concatenate([outputs["teacher"], extra["queue"]])[: extra["queue"].shape[0]]
        return {**extra, "queue": queue}


class Widening(Classify):
    """Sees the left half of each image for two steps, then the whole: a static choice, an executable each."""

    statics = ("half", "whole")

    def static(self, step):
        return "half" if step < 2 else "whole"

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        image = batch["image"]
        if static == "half":
            image = image.at[:, :, image.shape[2] // 2 :].set(0)
        value, aux = super().loss(params, extra, frozen, {**batch, "image": image}, key, static=static, train=train)
        aux["metrics"]["dark"] = (image == 0).all((1, 3))[:, -1].mean()
        return value, aux

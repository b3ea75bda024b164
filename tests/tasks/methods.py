"""Small methods that exercise the contracts of a task: two players, a frozen teacher with a queue, a static path, masked patches."""

import jax
import jax.numpy as jnp

from jaxvision.nn.position import resize_position
from jaxvision.tasks.base import Player, Task, total, weighted_mean
from jaxvision.tasks.classify import Classify
from jaxvision.tasks.networks import build_model


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


class Ensemble(Distill):
    """Predicts with its teacher."""

    predict_frozen = ("teacher",)

    def predict(self, state, batch):
        batch = Task.prepare(self, batch, state.key, train=False)
        return {"probabilities": jax.nn.softmax(self.model.apply(state.frozen["teacher"], batch["image"], train=False))}


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


def _resize_positions(value, old, new):
    sides = [task.config.image_size[0] // task.model.patch for task in (old, new)]
    return resize_position(value, *((side, side) for side in sides), method="bilinear_aliased")


class Masked(Task):
    """Paints half the patches grey and reads them off tokens plus positions of a decoder: two tables that depend on the image size."""

    size_dependent = ((r"decoder/positions", _resize_positions),)

    def build(self):
        return build_model(self.config, num_classes=0)

    def init_variables(self, key, shapes):
        encoder = super().init_variables(key, shapes)["params"]
        patch, tokens = self.model.patch, encoder["pos_embed"].shape[1] - self.model.position_prefix
        ramp = jnp.linspace(-1.0, 1.0, tokens * self.model.dim).reshape(1, tokens, self.model.dim)
        return {"params": {"encoder": encoder, "decoder": {"positions": ramp, "kernel": jnp.full((self.model.dim, patch * patch), 0.01)}}}

    def _error(self, params, image, key):
        patch = self.model.patch
        batch, height, width, _ = image.shape
        patches = image[..., 0].reshape(batch, height // patch, patch, width // patch, patch).swapaxes(2, 3).reshape(batch, -1, patch * patch)
        hidden = jax.random.bernoulli(key, 0.5, patches.shape[:2]).reshape(batch, height // patch, width // patch)
        shown = jnp.where(jnp.repeat(jnp.repeat(hidden, patch, 1), patch, 2)[..., None], 0.0, image)
        tokens = self.model.apply({"params": params["encoder"]}, shown, method="tokens")[:, self.model.prefix :]
        guess = (tokens + params["decoder"]["positions"]) @ params["decoder"]["kernel"]
        return jnp.square(guess - patches).mean((1, 2))

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        return weighted_mean(self._error(params, batch["image"], key), batch["weight"]), {}

    def evaluate(self, variables, state, batch):
        return {"error": total(self._error(variables["params"], batch["image"], state.key), batch["weight"])}, {}

"""DINO (Caron et al. 2021, arXiv 2104.14294): a student's views predict what a slow average of the student says about two large views.

The teacher's scores are centred by their running mean, which keeps one prototype from taking all, and sharpened by a low temperature, which keeps
them from becoming uniform. State of the method: `extra["ema"]`, the teacher, which is what evaluation and later stages use, with batch statistics
of its own passes; `extra["center"]`. Its momentum rises to 1 along half a cosine. The last layer stands still for the first steps.

A loss that rests at ln(prototypes) is uniform targets; views then must correlate by more than teacher / student temperature for anything to grow,
as in swav.py: 0.4, and 0.7 after the published warm-up.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.errors import ConfigError
from jaxvision.nn.projector import Prototypes
from jaxvision.optim.ema import ema_update
from jaxvision.optim.schedules import to_steps
from jaxvision.tasks.ssl.pretrain import Pretrain, kept, statistics
from jaxvision.tasks.ssl.swav import share_of_entropy

GLOBAL = 2  # views that the teacher sees


def distilled(
    student: Float[Array, "b v p"],
    teacher: Float[Array, "b t p"],
    center: Float[Array, "p"],
    *,
    student_temperature: float | Array = 0.1,
    teacher_temperature: float | Array = 0.04,
) -> tuple[Float[Array, "b"], Float[Array, "b t p"]]:
    """The cross-entropy of the student's softmax against the teacher's centred one, mean over pairs of different views; and the latter."""
    logs = jax.nn.log_softmax(student / student_temperature, axis=-1)
    target = jax.lax.stop_gradient(jax.nn.softmax((teacher - center) / teacher_temperature, axis=-1))
    crossed = -jnp.einsum("btp,bvp->btv", target, logs, precision="highest")
    seen, views = crossed.shape[1:]
    return (crossed * (1 - jnp.eye(seen, views))).sum((1, 2)) / (seen * (views - 1)), target


class DINO(Pretrain):
    """Keys of config.task beside Pretrain's: `prototypes` (65536), `gain` (whether the last layer's lengths are trained), `momentum` (0.996),
    `student_temperature` (0.1), `teacher_temperature` ((0.04, 0.07): from, to), `warmup` (steps, a share or epochs of that rise, linear),
    `center_momentum` (0.9; None: no centring, which collapses), `freeze` (steps, a share or epochs in which the last layer stands still).

    The first two views are those that the teacher sees too. Metrics: `entropy`, of the mean target, as a share of the largest possible.
    """

    KEYS = ("prototypes", "gain", "momentum", "student_temperature", "teacher_temperature", "warmup", "center_momentum", "freeze")
    HEAD = "dino"
    HEAD_INIT = "dino"

    def __init__(self, config, problem):
        get = config.task.get
        length = lambda key, default: to_steps(key, get(key, default), total_steps=problem.total_steps, steps_per_epoch=problem.steps_per_epoch)
        self.warmup, self.freeze = length("warmup", 0), length("freeze", "1ep")
        self.momentum, self.center_momentum = float(get("momentum", 0.996)), get("center_momentum", 0.9)
        self.student_temperature, self.teacher_temperature = float(get("student_temperature", 0.1)), tuple(get("teacher_temperature", (0.04, 0.07)))
        if len(self.teacher_temperature) != 2 or not min(*self.teacher_temperature, self.student_temperature) > 0:
            raise ConfigError("task.teacher_temperature takes (first, last), and task.student_temperature a number, all above 0")
        if config.optim.ema is not None:
            raise ConfigError("optim.ema: the teacher of 'ssl/dino' is the average already, task.momentum is its decay; leave optim.ema out")
        super().__init__(config, problem)

    def build_prototypes(self):
        get = self.config.task.get
        return Prototypes(get("prototypes", 65536), "gain" if get("gain", False) else "fixed", self.head_init, self.config.model.param_dtype)

    def init(self, key, shapes, given):
        state = super().init(key, shapes, given)
        teacher = {"params": state.params, **kept(statistics(state.extra))}
        return state.replace(extra={**state.extra, "ema": teacher})

    def init_extra(self, key, params, frozen):
        return {"center": jnp.zeros(self.model.prototypes.count)}

    def temperature_at(self, step) -> Array:
        first, last = self.teacher_temperature
        return first + (last - first) * jnp.clip(step / max(1, self.warmup), 0, 1) if self.warmup else jnp.float32(last)

    def momentum_at(self, step) -> Array:
        return 1 - (1 - self.momentum) * (jnp.cos(jnp.pi * step / max(1, self.problem.total_steps)) + 1) / 2

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        still = jax.lax.stop_gradient(params["prototypes"])
        moving = jax.tree.map(lambda a, b: jnp.where(extra["step"] < self.freeze, a, b), still, params["prototypes"])
        _, scores, stats = self.project({**params, "prototypes": moving}, statistics(extra), batch["views"], key)
        slow = jax.lax.stop_gradient(extra["ema"])
        _, seen, slow_stats = self.project(slow["params"], statistics(slow), batch["views"][:GLOBAL], key)
        seen = jax.lax.stop_gradient(seen)
        temperatures = {"student_temperature": self.student_temperature, "teacher_temperature": self.temperature_at(extra["step"])}
        each, target = distilled(scores, seen, extra["center"], **temperatures)
        new = {**kept(stats), "ema": {**extra["ema"], **kept(slow_stats)}}
        if self.center_momentum is not None:
            new["center"] = self.center_momentum * extra["center"] + (1 - self.center_momentum) * seen.mean((0, 1))
        return (each * batch["weight"]).mean(), {"metrics": {"entropy": share_of_entropy(target)}, "extra": new}

    def after_update(self, params, extra, outputs, batch, step):
        teacher = {**extra["ema"], "params": ema_update(extra["ema"]["params"], params, self.momentum_at(step), step)}
        return {**extra, "ema": teacher}


TASK = DINO

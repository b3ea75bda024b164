"""OFTSR (Zhu et al. 2024, "One-Step Flow for Image Super-Resolution with Tunable Fidelity-Realism Trade-offs", arXiv 2412.09465).

A teacher learns the rectified flow from the perturbed, enlarged small picture to the large one, under the condition of the enlarged one. A student of
the same kind learns, without clean pictures, the states of the teacher's trajectory from its start in one call: t chooses between fidelity (0) and
realism (1) when it is used. The flow itself is in flow.py. Where we differ: the teacher runs without dropout while it teaches (the published code
leaves it on); at evaluation the noise belongs to the example, and in prediction to the place in the picture, so tiles meet without seams.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxvision.augment.rows import row_keys
from jaxvision.errors import ConfigError, nearest
from jaxvision.kernels.block_resize import repeat_pixels
from jaxvision.nn.resize import resize
from jaxvision.tasks.base import total, weighted_mean
from jaxvision.tasks.restore import flow
from jaxvision.tasks.restore.supervised import METRICS, SHOWN, Restore, pixels

ENLARGE = {
    "bicubic": lambda low, scale: resize(low, (low.shape[1] * scale, low.shape[2] * scale), border="cut"),
    "repeat": repeat_pixels,
}
ROLES = ("teacher", "student")
LOSSES = {"l1": jnp.abs, "l2": jnp.square}
STEPS_SHOWN = (1, 10, 100)


class OFTSR(Restore):
    """Keys of config.task beside those of restore/supervised (`color` is always "rgb"; `loss` is the teacher's):

    role: "teacher", or "student", which needs frozen.teacher. scale: by how much the picture grows.
    enlarge: "bicubic" (antialiased, borders cut) or "repeat". strength: of the perturbation of the start.
    sampler, steps: how a teacher is evaluated and used: "euler", "midpoint", "ralston", "heun", "rk45". t: the student's knob when it is used.
    times: at which a student is measured, "psnr@<t>", and drawn. dt: of the pairs (t, t + dt). t_min, t_max: their range.
    solver: of the teacher's step, "midpoint", "ralston", "heun" or "euler". weights: of the trajectory, boundary and alignment losses.
    """

    OWN = ("role", "scale", "enlarge", "strength", "sampler", "steps", "t", "times", "dt", "t_min", "t_max", "solver", "weights")
    # Its losses compare velocities, not pictures.
    KEYS = (*(key for key in Restore.KEYS if key not in ("frequency", "supervise")), *OWN)

    def __init__(self, config, problem):
        get = config.task.get
        solvers = {"euler": None, **flow.RATIOS}
        choices = {"role": ROLES, "enlarge": ENLARGE, "loss": LOSSES, "solver": solvers}
        for key, known in choices.items():
            if key in config.task and get(key) not in known:
                raise ConfigError(f"task.{key} {get(key)!r} is unknown; {nearest(get(key), known)}")
        self.role, self.enlarge = get("role", "teacher"), ENLARGE[get("enlarge", "bicubic")]
        if get("color", "rgb") != "rgb":
            raise ConfigError("task.color: a flow restores all colours; leave it out")
        if self.role == "student" and "teacher" not in config.frozen:
            raise ConfigError("task.role='student' needs its teacher: set frozen.teacher.source, 'stage:<name>' or a workdir")
        super().__init__(config, problem)
        if min(config.image_size) % self.scale or not 0 <= get("strength", 0.1) <= 1:
            raise ConfigError(f"task.scale={self.scale} must divide image_size {tuple(config.image_size)}, and task.strength lie in 0..1")
        self.strength, self.t, self.times = get("strength", 0.1), get("t", 0.99), tuple(get("times", (0.01, 0.25, 0.5, 0.75, 0.99)))
        self.dt, self.t_min, self.t_max = get("dt", 0.05), get("t_min", 0.01), get("t_max", 0.99)
        if not 0 < self.t_min < self.t_max <= 1 or self.dt <= 0:
            raise ConfigError(f"task.t_min={self.t_min}, task.t_max={self.t_max} and task.dt={self.dt} need 0 < t_min < t_max <= 1 and dt > 0")
        self.ratio, self.weights = solvers[get("solver", "midpoint")], tuple(get("weights", (1.0, 0.1, 0.01)))
        self.sampler = flow.make_sampler(get("sampler", "rk45"), get("steps", 10))

    def init_variables(self, key, shapes):
        side = (self.patch,) * 2 if self.patch else shapes["image"].shape[1:3]
        return self.model.init(key, jnp.zeros((1, *side, len(self.mean)), jnp.float32), train=False)

    def prepare(self, batch, key, *, train):
        noise_key, time_key, key = jax.random.split(key, 3)
        batch = super().prepare(batch, key, train=train)
        row = jnp.arange(len(batch["clean"])) if train else batch["index"]
        shape = batch["clean"].shape[1:]
        batch["noise"] = jax.vmap(lambda k: jax.random.normal(k, shape))(row_keys(noise_key, row))
        batch["time"] = jax.vmap(jax.random.uniform)(row_keys(time_key, row))
        return batch

    # --- the flow in normalized pixels ---

    def condition(self, low: Float[Array, "b h w c"]) -> Float[Array, "b p q c"]:
        return (self.enlarge(low, self.scale) - self.mean) / self.std

    def velocity(self, variables, condition, **keys):
        """The network as a function (x, t); of its outputs the first C are the velocity."""
        channels = condition.shape[-1]

        def call(x, t):
            return self.model.apply(variables, x, time=t, condition=condition, **keys)[..., :channels]

        return call

    def start(self, condition, noise):
        return flow.perturb(condition, noise, self.strength)

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        condition, weight = self.condition(batch["image"]), batch["weight"]
        x0 = self.start(condition, batch["noise"])
        if self.role == "teacher":
            net = self.velocity({"params": params}, condition, train=train, rngs={"dropout": key})
            x1 = (batch["clean"] - self.mean) / self.std
            t = flow.EPS + batch["time"] * (1 - flow.EPS)
            error = LOSSES[self.config.task.get("loss", "l1")](net(flow.interpolate(x0, x1, t), t) - (x1 - x0))
            return weighted_mean(error.mean((1, 2, 3)), weight), {}
        student = self.velocity({"params": params}, condition, train=train, rngs={"dropout": key})
        teacher = self.velocity(frozen["teacher"], condition, train=False)
        t = self.t_min + batch["time"] * (self.t_max - self.t_min)
        s = jnp.minimum(t + self.dt, self.t_max)
        losses = flow.distil(student, teacher, x0, t, s, first=self.t_min, ratio=self.ratio)
        metrics = {name: weighted_mean(value, weight) for name, value in losses._asdict().items()}
        return sum(w * metrics[name] for w, name in zip(self.weights, metrics, strict=True)), {"metrics": metrics}

    # --- its use ---

    def made(self, net, x0, t: float | None = None) -> Float[Array, "b p q c"]:
        """The restored picture in 0..1: the student's in one step, at its knob or at `t`; the teacher's by its sampler."""
        x1 = flow.one_step(net, x0, self.t if t is None else t) if self.role == "student" else self.sampler(net, x0)
        return x1 * self.std + self.mean

    def evaluate(self, variables, state, batch):
        condition = self.condition(batch["image"])
        net, x0 = self.velocity(variables, condition, train=False), self.start(condition, batch["noise"])
        sums, rows = self.judge(self.made(net, x0), state, batch)
        points = {f"psnr@{t:g}": self.made(net, x0, t) for t in self.times} if self.role == "student" else {}
        if self.role == "teacher":
            points["psnr_one_step"] = flow.one_step(net, x0, flow.EPS) * self.std + self.mean
        sums |= {name: total(METRICS["psnr"](made, batch["clean"], self.border), batch["weight"]) for name, made in points.items()}
        return sums, rows

    def figures(self, state, batch):
        """Damaged; a student at its times; its teacher (or a teacher itself) in STEPS_SHOWN steps; clean."""
        batch = self.prepare(jax.tree.map(lambda leaf: leaf[:SHOWN], dict(batch)), state.key, train=False)
        condition = self.condition(batch["image"])
        x0 = self.start(condition, batch["noise"])
        columns = {"input": condition * self.std + self.mean}
        if self.role == "student":
            net = self.velocity(self.variables(state), condition, train=False)
            columns |= {f"t = {t:g}": self.made(net, x0, t) for t in self.times}
        teacher = self.velocity(state.frozen["teacher"] if self.role == "student" else self.variables(state), condition, train=False)
        for steps in STEPS_SHOWN:
            x1 = flow.one_step(teacher, x0, flow.EPS) if steps == 1 else flow.euler(teacher, x0, steps)
            columns[f"teacher, {steps} step{'s' * (steps > 1)}"] = x1 * self.std + self.mean
        return {**columns, "truth": batch["clean"]}

    def curves(self, metrics):
        """PSNR against t, of a student."""
        points = {t: metrics[f"test/psnr@{t:g}"] for t in self.times if f"test/psnr@{t:g}" in metrics}
        return {"psnr_versus_t": (list(points), list(points.values()), ("t", "PSNR, dB"))} if points else {}

    def predict(self, state, batch):
        condition = self.condition(pixels(batch["image"]))
        noise = noise_at(state.key, batch["corner"] * self.scale, condition.shape[1:])
        return {"image": self.made(self.velocity(self.variables(state), condition, train=False), self.start(condition, noise))}


def noise_at(key: Array, corner: Int[Array, "b 2"], shape: tuple[int, int, int]) -> Float[Array, "b h w c"]:
    """Normal noise that belongs to places: windows of one endless field whose corners are at `corner`, (row, column)."""
    height, width, channels = shape

    def pixel(row, column):
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, row), column), (channels,))

    def window(corner):
        rows, columns = corner[0] + jnp.arange(height), corner[1] + jnp.arange(width)
        return jax.vmap(lambda r: jax.vmap(lambda c: pixel(r, c))(columns))(rows)

    return jax.vmap(window)(corner)


TASK = OFTSR

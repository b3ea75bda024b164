"""SwAV (Caron et al. 2020, arXiv 2006.09882): the cluster of one view is predicted from the others, clusters kept equally large.

Scores of a view against the prototypes become soft codes by three Sinkhorn-Knopp iterations over the global batch, which shares the pictures out
evenly; the cross-entropy of the other views' scores against these codes is the loss. Prototypes are brought to length 1 after every update and
stand still for the first steps. `extra["queue"]` holds earlier projections (crop, row, width) that take part in the sharing-out once it is full.

A loss that rests at ln(prototypes) means that all pictures have come to one projection. From there what two views of a picture share grows again
only where it correlates by more than epsilon / temperature between them (tests/tasks/ssl/test_clusters.py), 0.5 as published: a network whose first
features do not, since the views differ too much, stays there. The public code's advice is the same: a smaller epsilon, softer views.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.errors import ConfigError
from jaxvision.nn.projector import Prototypes, unit
from jaxvision.optim.schedules import to_steps
from jaxvision.tasks.ssl.pretrain import Pretrain, kept, statistics


def sinkhorn(scores: Float[Array, "b p"], epsilon: float = 0.05, iterations: int = 3) -> Float[Array, "b p"]:
    """Codes of a batch: exp(scores / epsilon), scaled in turn so that prototypes get b / p pictures each and pictures sum to 1, the latter last.

    In float32 (or wider), shifted by the largest score first: at epsilon 0.05 the exponential of a cosine of 1 is e^20.
    """
    codes = jnp.exp((scores - scores.max()) / epsilon)
    codes = codes / codes.sum()
    for _ in range(iterations):
        codes = codes / (codes.sum(0, keepdims=True) * codes.shape[1])
        codes = codes / (codes.sum(1, keepdims=True) * codes.shape[0])
    return codes / codes.sum(1, keepdims=True)


def swapped(scores: Float[Array, "b v p"], codes: Float[Array, "b a p"], temperature: float) -> Float[Array, "b"]:
    """The cross-entropy of softmax(scores / temperature) of each view that is not a against the codes of view a, mean over these and a = 0, 1, …."""
    logs = jax.nn.log_softmax(scores / temperature, axis=-1)
    crossed = -jnp.einsum("bap,bvp->bav", codes, logs, precision="highest")
    assigned, views = crossed.shape[1:]
    other = 1 - jnp.eye(assigned, views)
    return (crossed * other).sum((1, 2)) / (assigned * (views - 1))


class SwAV(Pretrain):
    """Keys of config.task beside Pretrain's: `prototypes` (3000), `temperature` (0.1), `epsilon` (0.05), `iterations` (3; 0 leaves softmax codes,
    which collapse), `freeze` (313 steps in which prototypes stand still), `queue` (0 rows), `queue_start` ("15ep": steps, a share or epochs).

    The first two views are those whose codes are computed. Metrics: `entropy`, of the mean code, as a share of the largest possible.
    """

    KEYS = ("prototypes", "temperature", "epsilon", "iterations", "freeze", "queue", "queue_start")
    HEAD = "swav"
    ASSIGNED = 2

    def __init__(self, config, problem):
        get = config.task.get
        self.temperature, self.epsilon, self.iterations = float(get("temperature", 0.1)), float(get("epsilon", 0.05)), get("iterations", 3)
        self.freeze, self.queue = get("freeze", 313), get("queue", 0)
        self.queue_start = to_steps(
            "queue_start", get("queue_start", "15ep"), total_steps=problem.total_steps, steps_per_epoch=problem.steps_per_epoch
        )
        if self.queue % config.batch_size or (self.queue and config.optim.accumulate > 1):
            raise ConfigError(f"task.queue={self.queue} is not a multiple of batch_size={config.batch_size}, or stands beside optim.accumulate > 1")
        if not (self.temperature > 0 and self.epsilon > 0):
            raise ConfigError(f"task.temperature={self.temperature:g} and task.epsilon={self.epsilon:g} must be above 0")
        super().__init__(config, problem)

    def build_prototypes(self):
        return Prototypes(self.config.task.get("prototypes", 3000), "unit", self.head_init, self.config.model.param_dtype)

    def init(self, key, shapes, given):
        state = super().init(key, shapes, given)
        return state.replace(params=self.constrain(state.params))

    def init_extra(self, key, params, frozen):
        return {"queue": jnp.zeros((self.ASSIGNED, self.queue, self.layers[-1][0]))} if self.queue else {}

    def constrain(self, params):
        kernel = params["prototypes"]["kernel"]
        return {**params, "prototypes": {"kernel": unit(kernel.T).T.astype(kernel.dtype)}}

    def codes(self, scores: Float[Array, "b p"]) -> Float[Array, "b p"]:
        return sinkhorn(scores, self.epsilon, self.iterations)

    def assign(self, scores, params, extra):
        """Codes (b, 2, p) of the first two views, without gradient."""
        scores, found = jax.lax.stop_gradient(scores), []
        for view in range(self.ASSIGNED):
            mine = scores[:, view]
            if not self.queue:
                found.append(self.codes(mine))
                continue
            earlier = jnp.matmul(extra["queue"][view], jax.lax.stop_gradient(params["prototypes"]["kernel"]), precision="highest")
            both = lambda mine, earlier: self.codes(jnp.concatenate([earlier, mine]))[-len(mine) :]
            full = (extra["queue"][view, -1] != 0).any()
            found.append(jax.lax.cond(full, both, lambda mine, earlier: self.codes(mine), mine, earlier))
        return jnp.stack(found, axis=1)

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        still = jax.lax.stop_gradient(params["prototypes"])
        moving = jax.tree.map(lambda a, b: jnp.where(extra["step"] < self.freeze, a, b), still, params["prototypes"])
        z, scores, stats = self.project({**params, "prototypes": moving}, statistics(extra), batch["views"], key)
        codes = self.assign(scores, params, extra)
        value = (swapped(scores, codes, self.temperature) * batch["weight"]).mean()
        outputs = {"z": jax.lax.stop_gradient(z[:, : self.ASSIGNED])} if self.queue else {}
        return value, {"metrics": {"entropy": share_of_entropy(codes)}, "extra": kept(stats), "outputs": outputs}

    def after_update(self, params, extra, outputs, batch, step):
        if not self.queue:
            return extra
        rows = jnp.swapaxes(outputs["z"], 0, 1)
        moved = jnp.concatenate([rows, extra["queue"]], axis=1)[:, : self.queue]
        return {**extra, "queue": jnp.where(step >= self.queue_start, moved, extra["queue"])}


def share_of_entropy(codes: Float[Array, "b a p"]) -> Float[Array, ""]:
    """Entropy of the mean code as a share of log p: 1 where prototypes are used evenly, 0 where all pictures have one."""
    mean = codes.mean((0, 1))
    return -(mean * jnp.log(jnp.maximum(mean, 1e-30))).sum() / jnp.log(mean.size)


TASK = SwAV

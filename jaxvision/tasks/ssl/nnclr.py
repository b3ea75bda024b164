"""NNCLR (Dwibedi et al. 2021, arXiv 2104.14548): a picture's positive is not its other view, but what is most like it among earlier pictures.

A support set holds the last `queue` projections of first views. The projection of one view asks it for its nearest neighbour, which is compared
with what a predictor makes of the other view; the predictions for the other pictures of the batch are the negatives. Both directions count.
State of the method: `extra["queue"]`, the support set, and `extra["at"]`, where the next projections go.

`decoupled=True` leaves the positive out of the denominator (DCL, Yeh et al. 2022, arXiv 2110.06848). No code was released with the paper:
perceptrons, size of the support set and temperature are those of its section 4.
"""

import jax
import jax.numpy as jnp

from jaxvision.errors import ConfigError
from jaxvision.nn.projector import read_layers, unit
from jaxvision.tasks.ssl.contrastive import against_batch, coupling, decoupled, enqueue, info_nce, nearest_rows
from jaxvision.tasks.ssl.pretrain import Pretrain, kept, log_of, statistics


class NNCLR(Pretrain):
    """Keys of config.task beside Pretrain's: `queue` (98304 projections), `temperature` (0.1), `decoupled`, and `predictor`, layers as `head`'s.

    Metrics of a step: `coupling`, the mean of q (see contrastive.py), and `nearness`, the mean cosine of a projection and its neighbour.
    """

    KEYS = ("queue", "temperature", "decoupled", "predictor")
    HEAD = "nnclr"
    MOST_VIEWS = 2

    def __init__(self, config, problem):
        get = config.task.get
        self.queue, self.temperature = get("queue", 98304), float(get("temperature", 0.1))
        self.anchor = decoupled if get("decoupled", False) else info_nce
        if self.queue % config.batch_size:
            raise ConfigError(f"task.queue={self.queue} is not a multiple of batch_size={config.batch_size}")
        if not self.temperature > 0:
            raise ConfigError(f"task.temperature is {self.temperature:g}; it must be above 0")
        self.predictor = read_layers(get("predictor", "nnclr_predictor"), "predictor")
        super().__init__(config, problem)
        if self.predictor[-1][0] != self.layers[-1][0]:
            raise ConfigError(f"task.predictor ends at width {self.predictor[-1][0]}, what it is compared with at {self.layers[-1][0]}")

    def init_extra(self, key, params, frozen):
        return {"queue": unit(jax.random.normal(key, (self.queue, self.layers[-1][0]))), "at": jnp.zeros((), jnp.int32)}

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        z, predicted, stats = self.project(params, statistics(extra), batch["views"], key)
        z = jax.lax.stop_gradient(z)
        neighbour = nearest_rows(z, extra["queue"])
        terms = against_batch(neighbour, unit(predicted)[:, ::-1], self.temperature)
        metrics = {"loss": self.anchor(terms), "coupling": coupling(terms), "nearness": (neighbour * z).sum(-1)}
        metrics = log_of(metrics, batch["weight"])
        return metrics.pop("loss"), {"metrics": metrics, "extra": kept(stats), "outputs": {"z": z[:, 0]}}

    def after_update(self, params, extra, outputs, batch, step):
        queue, at = enqueue(extra["queue"], extra["at"], outputs["z"])
        return {**extra, "queue": queue, "at": at}


TASK = NNCLR

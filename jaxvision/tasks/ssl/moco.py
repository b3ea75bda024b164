"""MoCo v2 (He et al. 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297): a query against its key and a queue of earlier keys.

Keys come from a slow copy of the network, an average of its parameters over steps; the queue holds the last `queue` of them. State of the method:
`extra["key"]`, the slow copy with batch statistics of its own, `extra["queue"]` and `extra["at"]`, where the next keys go.

Where batch norm has groups (model.norm_groups), pictures are shuffled between them before the key network and back after it, so that statistics
do not tell a query which key is its own; with statistics of the global batch there is nothing to tell. `decoupled=True` leaves the key out of the
denominator (DCL, Yeh et al. 2022, arXiv 2110.06848). The average is taken after the optimizer's step instead of before the next key: the same.
"""

import jax
import jax.numpy as jnp

from jaxvision.errors import ConfigError
from jaxvision.nn.projector import unit
from jaxvision.optim.ema import ema_update
from jaxvision.tasks.ssl.contrastive import against_queue, coupling, decoupled, enqueue, info_nce
from jaxvision.tasks.ssl.pretrain import Pretrain, kept, log_of, statistics


class MoCo(Pretrain):
    """Keys of config.task beside Pretrain's: `queue` (65536 keys), `momentum` (0.999), `temperature` (0.2), `decoupled`."""

    KEYS = ("queue", "momentum", "temperature", "decoupled")
    HEAD = "moco_v2"
    MOST_VIEWS = 2

    def __init__(self, config, problem):
        get = config.task.get
        self.queue, self.momentum, self.temperature = get("queue", 65536), float(get("momentum", 0.999)), float(get("temperature", 0.2))
        self.anchor = decoupled if get("decoupled", False) else info_nce
        if self.queue % config.batch_size:
            raise ConfigError(f"task.queue={self.queue} is not a multiple of batch_size={config.batch_size}")
        if not (self.temperature > 0 and 0 <= self.momentum <= 1):
            raise ConfigError(f"task.temperature={self.temperature:g} must be above 0, and task.momentum={self.momentum:g} in 0..1")
        super().__init__(config, problem)
        self.shuffled = getattr(self.model.backbone, "norm_groups", 1) > 1

    def init(self, key, shapes, given):
        state = super().init(key, shapes, given)
        slow = {"params": state.params, **kept(statistics(state.extra))}
        return state.replace(extra={**state.extra, "key": slow})

    def init_extra(self, key, params, frozen):
        width = self.layers[-1][0]
        return {"queue": unit(jax.random.normal(key, (self.queue, width))), "at": jnp.zeros((), jnp.int32)}

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        query, _, stats = self.project(params, statistics(extra), batch["views"][:1], key)
        positive, key_stats = self.keys(extra["key"], batch["views"][1], key)
        terms = against_queue(query[:, 0], positive, extra["queue"], self.temperature)
        metrics = log_of({"loss": self.anchor(terms), "coupling": coupling(terms)}, batch["weight"])
        slow = {**extra["key"], **kept(key_stats)}
        return metrics.pop("loss"), {"metrics": metrics, "extra": {**kept(stats), "key": slow}, "outputs": {"key": positive}}

    def keys(self, slow, view, key):
        """(keys of length 1 without gradient, the slow network's new batch statistics)."""
        slow = jax.lax.stop_gradient(slow)
        if self.shuffled:
            order = jax.random.permutation(jax.random.fold_in(key, 1), view.shape[0])
            z, _, stats = self.project(slow["params"], statistics(slow), (view[order],), key)
            return jax.lax.stop_gradient(z[jnp.argsort(order), 0]), stats
        z, _, stats = self.project(slow["params"], statistics(slow), (view,), key)
        return jax.lax.stop_gradient(z[:, 0]), stats

    def after_update(self, params, extra, outputs, batch, step):
        slow = {**extra["key"], "params": ema_update(extra["key"]["params"], params, self.momentum, step)}
        queue, at = enqueue(extra["queue"], extra["at"], outputs["key"])
        return {**extra, "key": slow, "queue": queue, "at": at}


TASK = MoCo

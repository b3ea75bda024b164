"""Linear probe: only the classifier learns, on features of a backbone that stays as `init_from` brought it.

The backbone sees training pictures as it sees test pictures: no dropout, no drop path, and batch norm by its running statistics, which do not move.
Its parameters stay in the state, without optimizer slots and without a backward pass, so that a probe's checkpoint is a whole classifier: it
predicts, exports, and can be what fine-tuning starts from ("linear probing, then fine-tuning", Kumar et al. 2022, arXiv 2202.10054).

The features are those that the head receives: what `num_classes=0` gives, pooled as the model pools (class token, mean of tokens, global mean),
after its last norm. They are not normalized further; MAE's probe puts a batch norm without parameters there, DINO's concatenates four layers.
"""

import re

import jax

from jaxvision.errors import ConfigError
from jaxvision.models.rules import HEAD
from jaxvision.tasks.base import weighted_mean
from jaxvision.tasks.classify import Classify
from jaxvision.trees import map_named, named_leaves

BACKBONE = rf"^(?!{HEAD})"  # as optim.freeze takes it


class Probe(Classify):
    """Keys of config.task are those of "classify"."""

    def __init__(self, config, problem):
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.optim.freeze = (BACKBONE, *config.optim.freeze)
        super().__init__(config, problem)

    def init_variables(self, key, shapes):
        variables = super().init_variables(key, shapes)
        names = named_leaves(variables["params"])
        if not any(re.fullmatch(HEAD, name) for name in names):
            raise ConfigError(f"{self.config.model.name} has no head that a probe could train; its last parameter is {list(names)[-1]}")
        return variables

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        params = map_named(lambda name, leaf: leaf if re.fullmatch(HEAD, name) else jax.lax.stop_gradient(leaf), params)
        variables = {"params": params, **{name: extra[name] for name in ("batch_stats",) if name in extra}}
        logits = self.model.apply(variables, batch["image"], train=False)
        value = weighted_mean(self.per_example_loss(logits, batch["target"]), batch["weight"])
        hit = logits.argmax(-1) == batch["target"].argmax(-1)
        return value, {"metrics": {"accuracy": weighted_mean(hit, batch["weight"])}}


TASK = Probe

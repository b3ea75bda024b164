"""Decoupled contrastive learning (Yeh et al. 2022, arXiv 2110.06848): SimCLR without the positive in the denominator.

InfoNCE's gradient is the decoupled one times q, which vanishes where the positive is easy or the batch small; leaving the positive out removes
the factor, so that small batches learn. DCLW also weighs positives by 2 - a von Mises-Fisher density of their cosine, of mean 1.

The two directions are added as in the paper (lightly takes their mean, `directions="mean"`). Gradients flow through the weights of DCLW as in the
public re-implementation; with `detach=True` they are constants, as in lightly. The paper is silent on that.
"""

import jax

from jaxvision.errors import ConfigError, nearest
from jaxvision.tasks.ssl.contrastive import decoupled, info_nce, von_mises_fisher
from jaxvision.tasks.ssl.simclr import SimCLR

LOSSES = ("dcl", "dclw", "info_nce")


class DCL(SimCLR):
    """Keys of config.task beside SimCLR's: `loss`, "dcl", "dclw" or "info_nce", its baseline; `sigma` (0.5) and `detach` of DCLW."""

    KEYS = (*SimCLR.KEYS, "loss", "sigma", "detach")
    HEAD = "dcl"

    def __init__(self, config, problem):
        get = config.task.get
        self.kind, self.sigma = get("loss", "dcl"), float(get("sigma", 0.5))
        if self.kind not in LOSSES:
            raise ConfigError(f"task.loss {self.kind!r} is unknown; {nearest(self.kind, LOSSES)}")
        if not self.sigma > 0:
            raise ConfigError(f"task.sigma is {self.sigma:g}; it must be above 0")
        self.detach = bool(get("detach", False))
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.task.directions = get("directions", "sum")
        super().__init__(config, problem)

    def anchors(self, terms, z):
        if self.kind == "info_nce":
            return info_nce(terms)
        if self.kind == "dcl":
            return decoupled(terms)
        weight = von_mises_fisher(terms.positive * self.temperature, self.sigma)
        return decoupled(terms, jax.lax.stop_gradient(weight) if self.detach else weight)


TASK = DCL

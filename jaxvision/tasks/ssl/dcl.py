"""Decoupled contrastive learning (Yeh et al. 2022, arXiv 2110.06848): SimCLR without the positive in the denominator.

InfoNCE's gradient is the decoupled one times q, which vanishes where the positive is easy or the batch small; leaving the positive out removes
the factor, so that small batches learn. DCLW also weighs positives by 2 - a von Mises-Fisher density of their cosine, of mean 1.

As in the public re-implementation the two directions are added, and gradients flow through the weights of DCLW; the paper is silent on the latter.
`halves=True` and `detach=True` are what lightly computes instead: a logarithm for each half of the negatives, weights held constant.
"""

import jax

from jaxvision.errors import ConfigError, nearest
from jaxvision.tasks.ssl.contrastive import decoupled, decoupled_apart, info_nce, von_mises_fisher
from jaxvision.tasks.ssl.simclr import SimCLR

LOSSES = ("dcl", "dclw", "info_nce")


class DCL(SimCLR):
    """Keys of config.task beside SimCLR's: `loss`, "dcl", "dclw" or "info_nce", its baseline; `sigma` (0.5) of DCLW; `halves`, `detach`."""

    KEYS = (*SimCLR.KEYS, "loss", "sigma", "halves", "detach")
    HEAD = "dcl"

    def __init__(self, config, problem):
        get = config.task.get
        self.kind, self.sigma = get("loss", "dcl"), float(get("sigma", 0.5))
        if self.kind not in LOSSES:
            raise ConfigError(f"task.loss {self.kind!r} is unknown; {nearest(self.kind, LOSSES)}")
        if not self.sigma > 0:
            raise ConfigError(f"task.sigma is {self.sigma:g}; it must be above 0")
        self.detach, self.decoupled = bool(get("detach", False)), decoupled_apart if get("halves", False) else decoupled
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.task.directions = get("directions", "sum")
        super().__init__(config, problem)

    def anchors(self, terms, z):
        if self.kind == "info_nce":
            return info_nce(terms)
        if self.kind == "dcl":
            return self.decoupled(terms)
        weight = von_mises_fisher(terms.positive * self.temperature, self.sigma)
        return self.decoupled(terms, jax.lax.stop_gradient(weight) if self.detach else weight)


TASK = DCL

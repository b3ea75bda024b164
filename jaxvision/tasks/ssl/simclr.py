"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of a picture are each other's positive, both views of all other pictures are negatives.

The loss is the mean over the 2 B anchors of InfoNCE, as in vissl; Google's code adds the two directions, `directions="sum"`, which is twice that.
Negatives are of the whole global batch, with gradients through them, unless `groups` cuts it: the surgical study (Ramesh et al. 2023, arXiv
2207.00449) compares the pictures of one device of four, `groups=4`.
"""

from jaxvision.errors import ConfigError, nearest
from jaxvision.tasks.ssl.contrastive import coupling, info_nce, pairs
from jaxvision.tasks.ssl.pretrain import Pretrain, kept, log_of, statistics

DIRECTIONS = {"mean": 1.0, "sum": 2.0}


class SimCLR(Pretrain):
    """Keys of config.task beside Pretrain's: `temperature` (0.1), `groups` (1), `directions` ("mean").

    Metrics of a step: `coupling`, the mean of q (see contrastive.py).
    """

    KEYS = ("temperature", "groups", "directions")
    HEAD = "simclr"
    MOST_VIEWS = 2

    def __init__(self, config, problem):
        get = config.task.get
        self.temperature, self.groups = float(get("temperature", 0.1)), get("groups", 1)
        directions = get("directions", "mean")
        if directions not in DIRECTIONS:
            raise ConfigError(f"task.directions {directions!r} is unknown; {nearest(directions, DIRECTIONS)}")
        if not self.temperature > 0:
            raise ConfigError(f"task.temperature is {self.temperature:g}; it must be above 0")
        self.factor = DIRECTIONS[directions]
        super().__init__(config, problem)

    def anchors(self, terms, z):
        """The loss of each anchor, (b, 2)."""
        return info_nce(terms)

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        z, _, stats = self.project(params, statistics(extra), batch["views"], key)
        terms = pairs(z, self.temperature, self.groups)
        metrics = log_of({"loss": self.anchors(terms, z), "coupling": coupling(terms)}, batch["weight"])
        return self.factor * metrics.pop("loss"), {"metrics": metrics, "extra": kept(stats)}


TASK = SimCLR

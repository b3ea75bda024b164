"""Only-Train-Once v2 (Chen et al. 2023, arXiv 2303.06862): one training that ends with a smaller network, for any network, without fine-tuning.

The zero-invariant groups of config.model's network are found in its traced program (compress/graph.py); dual half-space projected gradient
(optim/dhspg.py), around the optimizer that config.optim names, brings a share of them exactly to zero while the rest is trained. What is dead is then
cut: the smaller network has the same outputs. architecture.json says which network that is and which entries of the checkpoint are its own, so
`--mode=export`, `load_run` and a next stage (`model.architecture`, `init_from`) take the small one.
"""

from jaxvision.compress import cut
from jaxvision.compress.architecture import describe, prunable
from jaxvision.compress.change import Change
from jaxvision.compress.zero_invariant import alive, partition
from jaxvision.errors import ConfigError, ModelError, nearest
from jaxvision.models.registry import shapes_of
from jaxvision.optim.dhspg import DECAY_NORMS, PENALTIES, dhspg, make_parts, zero_share
from jaxvision.optim.schedules import to_steps
from jaxvision.tasks.classify import Classify


class OTO(Classify):
    """Keys of config.task beside those of "classify":

    target: share of the groups to bring to zero. tolerance: how much more are penalized.
    start: when, in steps, a share of the run, or epochs ("50ep"); `project`, by default at the same time, and `gentle`, by default 0, likewise.
    epsilon, weight, amplify, largest, divisible, fixed, most, decay_norm: of `optim.dhspg`; the released code's for the optimizer's kind where they
    are left out.
    """

    KEYS = (
        *Classify.KEYS, "target", "tolerance", "start", "project", "gentle", "epsilon", "weight", "amplify", "largest", "divisible", "fixed", "most",
        "decay_norm",
    )  # fmt: skip
    changes_architecture = True

    def __init__(self, config, problem):
        super().__init__(config, problem)
        for key, none in (("ema", None), ("freeze", ()), ("layer_decay", 1.0)):
            if config.optim.get(key, none) != none:
                raise ConfigError(f"optim.{key} has no meaning where groups are brought to zero exactly: leave it out")
        get = config.task.get
        target = get("target", 0.5)
        if not 0 < target < 1:
            raise ConfigError(f"task.target is a share of the groups, above 0 and below 1; got {target!r}")
        if not 0 < (most := float(get("most", 1.0))) <= 1:
            raise ConfigError(f"task.most is the share of a layer's groups that may go, above 0 and at most 1; got {most:g}")
        if (decay_norm := get("decay_norm", "l2")) not in DECAY_NORMS:
            raise ConfigError(f"task.decay_norm {decay_norm!r} is unknown; {nearest(decay_norm, DECAY_NORMS)}")
        self.graph = prunable(self.model, problem.channels)
        if not self.graph.components and not config.model.get("architecture"):
            raise ModelError(f"{config.model.name} has no channels that could be cut")
        self.groups = partition(self.graph, shapes_of(self.model, problem.channels)["params"])
        when = lambda key, value: to_steps(key, value, total_steps=problem.total_steps, steps_per_epoch=problem.steps_per_epoch)
        start = when("start", get("start", 0.2))
        weight, amplify, largest = PENALTIES["adam" if "adam" in config.optim.name else "sgd"]
        (player,) = self.players
        direction, decay = make_parts(self._optim_section(player))
        self.transforms[player.name] = dhspg(
            direction,
            self.schedules[player.name],
            self.groups,
            target=target,
            start=start,
            tolerance=get("tolerance", 0.05),
            weight=get("weight", weight),
            amplify=get("amplify", amplify),
            largest=get("largest", largest),
            epsilon=get("epsilon", 0.95),
            divisible=get("divisible", 1),
            project=when("project", get("project", start)),
            gentle=when("gentle", get("gentle", 0)),
            fixed=bool(get("fixed", True)),
            most=most,
            decay=decay,
            decay_norm=decay_norm,
        )

    def loss(self, params, extra, frozen, batch, key, *, static, train):
        value, aux = super().loss(params, extra, frozen, batch, key, static=static, train=train)
        return value, {**aux, "metrics": {**aux["metrics"], "zero_share": zero_share(params, self.groups)}}

    def evaluate(self, variables, state, batch):
        sums, rows = super().evaluate(variables, state, batch)
        count = batch["weight"].sum()
        return {**sums, "zero_share": (zero_share(variables["params"], self.groups) * count, count)}, rows

    def architecture(self, variables) -> Change:
        """The network without its dead groups, and which entries of the variables it has."""
        keep = alive(variables, self.graph)
        kept = {name: int(mask.sum()) for name, mask in keep.items()}
        layers = describe(self.model, self.graph, kept, self.problem.channels)
        figures = {"groups": float(self.graph.units), "groups_cut": float(self.graph.units - sum(kept.values()))}
        return Change(layers, cut.kept_entries(self.graph, variables, keep), figures)


TASK = OTO

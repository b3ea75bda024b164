"""Greedy calibration of an augmentation policy: transforms are added one at a time, and kept where the validation metric rises.

The procedure with which "A ResNet is All You Need?" (Castilla et al. 2022, arXiv 2210.03180) tunes its augmentation of retinal photographs, whose
details it leaves open. It serves every task with a key `task.policy`. The history is the table to report: a line a policy with its metrics. The test
split of the config is what is validated on, so it must not be the one that is reported in the end.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxvision.augment.fundus import TRANSFORMS, check_policy
from jaxvision.errors import ConfigError, nearest
from jaxvision.train.config import with_changes

# Keys of config.search with their defaults.
KEYS: dict[str, Any] = {
    "name": "policy",
    "candidates": TRANSFORMS,  # in the order in which they are tried
    "metric": "test/auc",  # larger is better
    "margin": 0.0,  # by how much it has to rise
}


class Calibration:
    """propose(history): the config's own policy first, then one more candidate at a time."""

    def __init__(self, config: Any):
        for key in config.search:
            if key not in KEYS:
                raise ConfigError(f"search.{key} is not a key of the search 'policy'; {nearest(key, KEYS)}")
        self.settings = {**KEYS, **dict(config.search)}
        if "policy" not in config.task:
            raise ConfigError(f"the search 'policy' needs a task with the key task.policy; {config.task.name!r} has none")
        self.base = with_changes(config, {"search": {"name": ""}})
        self.start = check_policy(config.task.policy)
        self.candidates = [name for name in self.settings["candidates"] if name not in self.start]
        check_policy(self.candidates)

    def _walk(self, results: Iterator[float]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
        """(policy kept so far, policy to try next or None)."""
        kept, best = self.start, next(results, None)
        if best is None:
            return kept, kept
        for name in self.candidates:
            trial = check_policy((*kept, name))
            reached = next(results, None)
            if reached is None:
                return kept, trial
            if reached > best + self.settings["margin"]:
                kept, best = trial, reached
        return kept, None

    def _results(self, history: list[Mapping[str, Any]]) -> Iterator[float]:
        metric = self.settings["metric"]
        for line in history:
            if metric not in line["metrics"]:
                raise ConfigError(f"search.metric {metric!r} is none that the children report; {nearest(metric, line['metrics'])}")
            yield line["metrics"][metric]

    def _config(self, policy: tuple[str, ...]) -> Any:
        return with_changes(self.base, {"task.policy": policy})

    def __call__(self, history: list[Mapping[str, Any]]) -> Any | None:
        _, trial = self._walk(self._results(history))
        return None if trial is None else self._config(trial)

    def found(self, history: list[Mapping[str, Any]]) -> Any:
        """The config with the policy that the history settled on."""
        return self._config(self._walk(self._results(history))[0])


make_search = Calibration

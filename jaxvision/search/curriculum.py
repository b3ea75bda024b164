"""EfficientTrain's greedy search for a schedule of sizes (Wang et al. 2023, arXiv 2211.09703, section 4.3).

The run is cut into stages of equal numbers of epochs, all at the full size at first. In order, each stage takes the smallest size at which the whole
run still reaches the accuracy of the run without a curriculum; earlier stages stay as found, sizes never fall. The last stage keeps the full size.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxvision.errors import ConfigError, nearest
from jaxvision.train.config import with_changes

# Keys of config.search with their defaults.
KEYS: dict[str, Any] = {
    "name": "curriculum",
    "sizes": (96, 128, 160, 192, 224),  # candidates; the full size is image_size
    "stages": 5,
    "tolerance": 0.0,  # how far below the baseline's metric a run may stay
    "metric": "test/accuracy",  # larger is better
    "crop": "spectrum",
}


class Greedy:
    """propose(history); see the module."""

    def __init__(self, config: Any):
        for key in config.search:
            if key not in KEYS:
                raise ConfigError(f"search.{key} is not a key of the search 'curriculum'; {nearest(key, KEYS)}")
        self.settings = {**KEYS, **dict(config.search)}
        self.base = with_changes(config, {"search": {"name": ""}, "phases": ()})
        if config.epochs is None:
            raise ConfigError("the search 'curriculum' cuts a run into stages of epochs: give its length as config key 'epochs'")
        self.full = config.image_size[0]
        self.sizes = sorted(size for size in self.settings["sizes"] if size < self.full)
        if not self.sizes or not isinstance(self.settings["stages"], int) or self.settings["stages"] < 2:
            raise ConfigError(f"search: sizes {self.settings['sizes']} need one below image_size={self.full}, and stages to be 2 or more")

    def config(self, sizes: tuple[int, ...]) -> Any:
        """The child whose stages have these sizes."""
        if set(sizes) == {self.full}:
            return self.base
        ends = [f"{self.base.epochs * (stage + 1) / len(sizes):g}ep" for stage in range(len(sizes))]
        phases = tuple({"until": end, "size": size, "crop": self.settings["crop"]} for end, size in zip(ends, sizes))
        return with_changes(self.base, {"phases": phases})

    def _trace(self, results: Iterator[float]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """(sizes settled so far, sizes to try next or None): the search, walked through with the results there are."""
        settled = (self.full,) * self.settings["stages"]
        baseline = next(results, None)
        if baseline is None:
            return settled, settled
        for stage in range(len(settled) - 1):
            smallest = settled[stage - 1] if stage else 0
            for size in [size for size in self.sizes if size >= smallest]:
                trial = (*settled[:stage], size, *settled[stage + 1 :])
                reached = next(results, None)
                if reached is None:
                    return settled, trial
                if reached >= baseline - self.settings["tolerance"]:
                    settled = trial
                    break
            if settled[stage] == self.full:
                break
        return settled, None

    def _results(self, history: list[Mapping[str, Any]]) -> Iterator[float]:
        name = self.settings["metric"]
        for line in history:
            if name not in line["metrics"]:
                raise ConfigError(f"search.metric {name!r} is none that the children report; {nearest(name, line['metrics'])}")
            yield line["metrics"][name]

    def __call__(self, history: list[Mapping[str, Any]]) -> Any | None:
        _, trial = self._trace(self._results(history))
        return None if trial is None else self.config(trial)

    def found(self, history: list[Mapping[str, Any]]) -> Any:
        """The config of the schedule that the history settled on."""
        return self.config(self._trace(self._results(history))[0])


make_search = Greedy

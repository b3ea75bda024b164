"""Classification that is also judged under occlusion (Lee et al. 2023, arXiv 2306.17848): a curve of accuracy for each way of hiding the picture.

Beside the metrics of `classify`, an evaluation reports, in per cent of the patches, `replaced_30` (patches of one image of another class),
`scattered_30` (each patch of another one), `dropped_30`, `permuted_2` (shuffled 2x2 tiles) and `superimposed`. The label stays the picture's own.
With one foreign image the two pictures trade places at 50 %, so `replaced` means nothing from there on.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxvision.augment.occlusion import drop_patches, permute_tiles, replace_patches, strangers, superimpose
from jaxvision.errors import ConfigError
from jaxvision.tasks.base import total
from jaxvision.tasks.classify import Classify


class Occlusion(Classify):
    """Keys of config.task beside those of `classify`: `grid` (patches a side, 7), `shares` ((0.1, 0.2, 0.3, 0.4)), `tiles` ((2, 4)) a side."""

    KEYS = (*Classify.KEYS, "grid", "shares", "tiles")

    def __init__(self, config: Any, problem: Any):
        super().__init__(config, problem)
        grid = config.task.get("grid", 7)
        self.shares, self.tiles = tuple(config.task.get("shares", (0.1, 0.2, 0.3, 0.4))), tuple(config.task.get("tiles", (2, 4)))
        if not (isinstance(grid, int) and grid > 0 and all(0 < share <= 1 for share in self.shares)):
            raise ConfigError(f"task.grid takes a number of patches a side and task.shares numbers in 0..1, got {grid!r} and {self.shares!r}")
        self.grid = (grid, grid)

    def occluded(self, batch: Any) -> dict[str, jax.Array]:
        """{name of the benchmark: the images of a prepared batch, hidden so}."""
        image, row, label = batch["image"], batch["index"], batch["target"].argmax(-1)
        keys = jax.random.split(jax.random.key(0), 5)  # not the run's: the benchmark is the same for every network
        one = strangers(keys[0], row, label, batch["valid"])
        many = strangers(keys[1], row, label, batch["valid"], self.grid[0] * self.grid[1])
        views = {}
        for share in self.shares:
            views |= {
                f"replaced_{100 * share:g}": replace_patches(keys[2], image, row, one, self.grid, share),
                f"scattered_{100 * share:g}": replace_patches(keys[2], image, row, many, self.grid, share),
                f"dropped_{100 * share:g}": drop_patches(keys[2], image, row, self.grid, share),
            }
        views |= {f"permuted_{side}": permute_tiles(keys[3], image, row, side) for side in self.tiles}
        return views | {"superimposed": superimpose(keys[4], image, row, one[:, 0])}

    def evaluate(self, variables, state, batch):
        sums, rows = super().evaluate(variables, state, batch)
        views = self.occluded(batch)
        # One pass over all of them: the network is compiled once more, not once a benchmark.
        logits = self.model.apply(variables, jnp.concatenate(list(views.values())), train=False)
        hit = logits.reshape(len(views), *batch["target"].shape).argmax(-1) == batch["target"].argmax(-1)
        return {**sums, **{name: total(own, batch["weight"]) for name, own in zip(views, hit)}}, rows


TASK = Occlusion

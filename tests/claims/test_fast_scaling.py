"""Paper 45, small: at four times the multiply-adds the run time follows activations, which width raises least."""

import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from jaxvision.models.complexity import complexity
from jaxvision.models.regnet import RegNet
from jaxvision.models.scaling import FAST, factors, scale_regnet, scale_side
from jaxvision.train.config import load_config

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "fast_scaling.py"
STRATEGIES = {"d": "d", "wg": "wg", "r": "r", "uniform": "d1_w1_g1_r1", "fast": FAST}
SMALL = {"se": 0.25, "depths": (2, 2), "widths": (48, 96), "group_widths": (24, 24)}


def small(strategy: str | None) -> RegNet:
    by = factors(strategy, 4) if strategy else factors("d", 1)
    side = scale_side(32, by)
    return RegNet(**scale_regnet(SMALL, by), num_classes=10, image_size=(side, side))


def test_the_config_s_small_networks_are_what_the_scaler_makes():
    for name, strategy in {"base": None, **STRATEGIES}.items():
        model, config = small(strategy), load_config(f"{CONFIG}:demo,{name}")
        assert (model.depths, model.widths, model.group_widths) == tuple(config.model[key] for key in ("depths", "widths", "group_widths")), name
        assert model.image_size == config.image_size


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_a_training_step_of_equal_cost_takes_longest_where_activations_are_most():
    steps, costs = {}, {}
    for name, strategy in STRATEGIES.items():
        model, costs[name] = small(strategy), complexity(small(strategy), 1)
        image = jnp.ones((16, *model.image_size, 1))
        variables = jax.jit(model.init)(jax.random.key(0), image)

        def loss(params, variables, image, model=model):
            logits, _ = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
            return jnp.square(logits).mean()

        steps[name] = functools.partial(jax.jit(jax.grad(loss)), variables["params"], variables, image)
        jax.block_until_ready(steps[name]())
    seconds = {name: [] for name in steps}
    for _ in range(5):
        for name, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step())
            seconds[name].append(time.perf_counter() - start)
    times = {name: float(np.median(values)) for name, values in seconds.items()}
    activations, flops = ([getattr(costs[name], field) for name in times] for field in ("activations", "flops"))
    by_activations, by_flops = (float(spearmanr(list(times.values()), values).statistic) for values in (activations, flops))
    print({name: round(value / times["fast"], 2) for name, value in times.items()}, "rank correlation", by_activations, by_flops)
    print({name: (cost.flops, cost.activations) for name, cost in costs.items()})
    assert max(times["wg"], times["fast"]) < min(times["d"], times["r"])
    assert by_activations > by_flops and by_activations > 0.6

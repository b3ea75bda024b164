"""Dual half-space projected gradient: as the released optimizer step by step, groups exactly zero, the target met and no more."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvision.optim.dhspg import Partition, capped, dhspg, make_parts, penalty, select, zero_share

GOLDEN = np.load(pathlib.Path(__file__).resolve().parents[1] / "golden" / "dhspg.npz")
STEPS = (0, 4, 11, 19, 29, 44, 59)
PARTITION = Partition({"a": (0, np.arange(8)), "a_bias": (0, np.arange(8)), "b": (0, 8 + np.arange(5))}, (8, 5))
RUNS = {
    "sgd": (optax.add_decayed_weights(1e-3), {"target": 0.5, "start": 10, "epsilon": 0.95, "weight": 0.6}),
    "momentum": (optax.trace(0.9), {"target": 0.4, "start": 5, "epsilon": 0.9, "weight": 0.15, "largest": 100}),
    "divisible": (optax.identity(), {"target": 0.5, "start": 3, "epsilon": 0.9, "weight": 0.8, "largest": 50, "divisible": 2}),
    "l1": (
        optax.stateless(lambda gradients, _: jax.tree.map(lambda g: g / (jnp.abs(g) + 1e-8), gradients)),  # AdamW without memory
        {"target": 0.5, "start": 5, "epsilon": 0.9, "weight": 0.6, "decay": optax.add_decayed_weights(0.3), "decay_norm": "l1"},
    ),
    "apart": (
        make_parts({"name": "sgd", "momentum": 0.9, "dampening": 0.5})[0],
        {"target": 0.5, "start": 4, "project": 20, "gentle": 13, "epsilon": 0.9, "weight": 0.5, "fixed": False},
    ),
}
RATES = {"l1": 0.02}


def problem():
    """(parameters, gradients of 60 steps), as the golden run had them."""
    random = np.random.RandomState(0)
    params = {"a": random.randn(8, 6) * 0.5, "a_bias": random.randn(8) * 0.2, "b": random.randn(5, 10) * 0.4, "c": random.randn(4, 3)}
    params = {name: value.astype(np.float32) for name, value in params.items()}
    return params, [{name: (random.randn(*p.shape) * 0.3).astype(np.float32) for name, p in params.items()} for _ in range(60)]


def trained(transform, params, gradients):
    state, step = transform.init(params), jax.jit(transform.update)
    trail = []
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
        trail.append(params)
    return trail, state


@pytest.mark.parametrize("name", RUNS)
def test_sixty_steps_are_those_of_the_released_optimizer(name):
    direction, settings = RUNS[name]
    params, gradients = problem()
    if name == "apart":  # a group that is zero before the first projection comes back to life
        params["a"][2], params["a_bias"][2] = 0, 0
    trail, _ = trained(dhspg(direction, lambda step: RATES.get(name, 0.05), PARTITION, **settings), params, gradients)
    for row, step in enumerate(STEPS):
        for leaf in params:
            np.testing.assert_allclose(trail[step][leaf], GOLDEN[f"{name}/{leaf}"][row], atol=2e-6, err_msg=f"{leaf} after step {step}")
    shares = [float(zero_share(each, PARTITION)) for each in trail]
    np.testing.assert_allclose(shares, GOLDEN[f"{name}/share"], atol=1e-6)
    assert shares[-1] > 0.3 and shares == sorted(shares)


def test_a_component_loses_no_more_than_its_share_and_the_furthest_gone_first():
    params, gradients = problem()
    settings = {"target": 0.8, "start": 3, "weight": 2.0, "largest": 100.0, "divisible": 1}
    zeros = lambda tree, name: int((jnp.square(tree[name]).sum(1) == 0).sum())
    free = trained(dhspg(optax.identity(), lambda step: 0.05, PARTITION, **settings), params, gradients)[0][-1]
    held = trained(dhspg(optax.identity(), lambda step: 0.05, PARTITION, most=0.5, **settings), params, gradients)[0][-1]
    assert zeros(free, "a") > 4 and zeros(free, "b") > 2
    assert zeros(held, "a") == 4 and zeros(held, "b") == 2
    gone, dead = jnp.asarray([True, True, True, False] + [False] * 9), jnp.arange(13) == 3
    ratio = jnp.asarray([0.3, -0.2, 0.1, 0.0] + [1.0] * 9)
    assert np.flatnonzero(capped(gone, dead, ratio, PARTITION, 0.4)).tolist() == [1, 2]


def test_groups_reach_exactly_zero_stop_at_the_target_and_never_come_back():
    params, gradients = problem()
    transform = dhspg(optax.trace(0.9), lambda step: 0.05, PARTITION, target=0.35, start=3, weight=2.0, largest=100.0)
    trail, state = trained(transform, params, gradients * 3)
    share = float(zero_share(trail[-1], PARTITION))
    assert 0.35 <= share <= 0.4 and int(state.penalized.sum()) == 5
    reached = next(i for i, each in enumerate(trail) if float(zero_share(each, PARTITION)) >= 0.35)
    assert reached < 100 and float(zero_share(trail[reached], PARTITION)) == share
    plain, _ = trained(optax.sgd(0.05, 0.9), params, gradients * 3)
    np.testing.assert_allclose(trail[-1]["c"], plain[-1]["c"], atol=1e-5)  # what is in no group only follows the base optimizer


def test_within_its_bounds_a_penalized_step_descends_the_loss_and_the_norm():
    random = np.random.RandomState(0)
    x, v = random.standard_normal((2, 40, 6))
    xx, vv, xv = (x * x).sum(1), (v * v).sum(1), (x * v).sum(1)
    weight = np.asarray(penalty(xx, vv, xv, 1e-2, 2.0, 1e3))
    low, high = -xv / np.sqrt(xx), -vv * np.sqrt(xx) / xv
    inside = (xv < 0) & (weight > low * (1 + 1e-6)) & (weight < high * (1 - 1e-6))
    assert inside.sum() > 8 and (low <= high * (1 + 1e-9))[xv < 0].all()
    step = v + weight[:, None] * x / np.sqrt(xx)[:, None]
    assert ((step * v).sum(1) > 0)[inside].all() and ((step * x).sum(1) > 0)[inside].all()
    np.testing.assert_allclose(weight[xv >= 0], 1e-2, rtol=1e-6)


def test_every_component_keeps_a_multiple_of_its_groups():
    score = jnp.asarray(np.r_[np.full(8, 2.0) + np.arange(8), np.arange(5) * 0.01])
    kept = ~np.asarray(select(score, PARTITION, 0.9, 1))
    assert kept[:8].sum() == 1 and kept[0] and kept[8:].sum() == 2
    assert (~np.asarray(select(score, PARTITION, 0.9, 4)))[:8].sum() == 4

import math

import numpy as np
import optax
import pytest

from jaxvision.errors import ConfigError
from jaxvision.optim import make_schedule

RUN = dict(total_steps=100, steps_per_epoch=10, batch_size=512)


def rates(run=RUN, **config):
    schedule = make_schedule({"lr": 0.8, **config}, **run)
    return np.asarray([float(schedule(step)) for step in range(run["total_steps"] + 1)])


def progress(warmup):
    return np.clip((np.arange(101) - warmup) / (100 - warmup), 0, 1)


def test_warm_up_is_linear_from_lr_start_and_then_the_cosine_begins():
    got = rates(schedule="cosine", warmup=20, lr_start=0.1, lr_end=0.05)
    np.testing.assert_allclose(got[:20], 0.1 + 0.7 * np.arange(20) / 20, rtol=1e-6)
    np.testing.assert_allclose(got[20:], (0.05 + 0.75 * 0.5 * (1 + np.cos(math.pi * progress(20))))[20:], rtol=1e-5)


def test_cosine_with_warm_up_is_optax_one():
    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.8, 20, 100, 0.05)
    np.testing.assert_allclose(rates(schedule="cosine", warmup=20, lr_end=0.05), [float(theirs(s)) for s in range(101)], rtol=1e-6)


def test_a_warm_up_means_the_same_in_steps_as_a_share_and_in_epochs():
    in_steps = rates(warmup=30)
    for same in (0.3, "3ep", 30.0):
        np.testing.assert_array_equal(rates(warmup=same), in_steps)


def test_linear_polynomial_and_constant_follow_their_formulas():
    np.testing.assert_allclose(rates(schedule="linear", lr_end=0.2), 0.8 - 0.6 * progress(0), rtol=1e-6)
    np.testing.assert_allclose(rates(schedule="polynomial", power=2.0), 0.8 * (1 - progress(0)) ** 2, atol=1e-7)
    np.testing.assert_allclose(rates(schedule="constant", warmup=10)[10:], 0.8, rtol=1e-6)


def test_steps_fall_at_milestones_counted_from_the_beginning_of_the_run():
    got = rates(schedule="step", milestones=(0.5, "8ep"), warmup=10)
    np.testing.assert_allclose(got[[10, 49, 50, 79, 80, 100]], [0.8, 0.8, 0.08, 0.08, 0.008, 0.008], rtol=1e-6)


def test_exponential_decay_falls_in_stairs_of_epochs_to_its_floor():
    got = rates(schedule="exponential", decay_every="2ep", decay_factor=0.5, lr_end=0.15)
    np.testing.assert_allclose(got[[0, 19, 20, 40, 60, 99]], [0.8, 0.8, 0.4, 0.2, 0.15, 0.15], rtol=1e-6)


def test_wsd_is_constant_and_then_linear_over_the_cool_down():
    got = rates(schedule="wsd", warmup=10, cooldown="3ep", lr_end=0.2)
    np.testing.assert_allclose(got[10:71], 0.8, rtol=1e-6)
    np.testing.assert_allclose(got[70:], 0.8 - 0.6 * np.arange(31) / 30, rtol=1e-6)


def test_rsqrt_falls_with_the_root_after_warm_up_and_ends_in_a_cool_down():
    got = rates(schedule="rsqrt", warmup=10, timescale=10, cooldown=20)
    np.testing.assert_allclose(got[10:81], 0.8 / np.sqrt(1 + np.arange(71) / 10), rtol=1e-5)
    np.testing.assert_allclose(got[[80, 90, 100]], got[80] * np.asarray([1, 0.5, 0]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scaling, factor", [("linear", 2.0), ("sqrt", 2**0.5)])
def test_the_rate_grows_with_the_batch_where_it_is_given_for_one(scaling, factor):
    np.testing.assert_allclose(rates(schedule="constant", lr_batch=256, lr_scaling=scaling), 0.8 * factor, rtol=1e-6)


@pytest.mark.parametrize(
    "config, message",
    [
        (dict(schedule="cosin"), "optim.schedule='cosin' is unknown; did you mean 'cosine'?"),
        (dict(warmup=100), "optim.warmup=100 is 100 steps, but the whole run has 100"),
        (dict(warmup="20ep"), "optim.warmup='20ep' is 200 steps"),
        (dict(warmup=-1), "optim.warmup takes steps (500), a share of the run (0.05) or epochs ('5ep'), got -1"),
        (dict(warmup="5 weeks"), "optim.warmup takes steps"),
        (dict(lr=-1.0), "optim.lr takes a number of at least 0, got -1.0"),
        (dict(lr_end=2.0), "optim.lr_end=2 is above the highest rate, 0.8"),
        (dict(schedule="step", milestones=(50, 20)), "optim.milestones takes increasing steps"),
        (dict(schedule="wsd", warmup=60, cooldown=50), "optim.cooldown is 50 steps, but only 40"),
    ],
)
def test_what_makes_no_schedule_is_one_clear_line(config, message):
    with pytest.raises(ConfigError) as error:
        rates(**config)
    assert message in str(error.value)

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ConfigError
from jaxvision.optim import ema_update

NEW = {"w": jnp.full(3, 2.0), "count": jnp.int32(7)}
OLD = {"w": jnp.zeros(3), "count": jnp.int32(1)}


def test_the_average_moves_by_one_minus_decay_and_integers_are_taken_over():
    moved = ema_update(OLD, NEW, 0.9, 1000)
    np.testing.assert_allclose(moved["w"], 0.2, rtol=1e-6)
    assert moved["count"] == 7


def test_decay_zero_copies_exactly():
    np.testing.assert_array_equal(ema_update({"w": jnp.asarray([0.1])}, {"w": jnp.asarray([0.3])}, 0.0, 0)["w"], jnp.asarray([0.3]))


@pytest.mark.parametrize("warmup, step, keep", [("tf", 0, 0.1), ("tf", 90, 0.91), ("tf", 10**6, 0.99), ("power", 0, 0.0), ("power", 7, 0.75)])
def test_warm_ups_lower_the_decay_at_first(warmup, step, keep):
    np.testing.assert_allclose(ema_update(OLD, NEW, 0.99, step, warmup=warmup)["w"], 2 * (1 - keep), rtol=1e-5)


def test_the_arithmetic_is_float32_and_the_dtype_the_averages_own():
    moved = ema_update({"w": jnp.ones(1, jnp.float32)}, {"w": jnp.full(1, 1.5, jnp.bfloat16)}, 0.999, 0)
    assert moved["w"].dtype == jnp.float32
    np.testing.assert_allclose(moved["w"], 1.0005, rtol=1e-6)


def test_an_unknown_warm_up_is_an_error():
    with pytest.raises(ConfigError, match="did you mean 'power'"):
        ema_update(OLD, NEW, 0.9, 0, warmup="powr")

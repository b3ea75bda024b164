"""SwAV's codes and DINO's targets in float64, against the public implementations (tests/golden/ssl_losses.npz)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.tasks.ssl.dino import distilled
from jaxvision.tasks.ssl.swav import share_of_entropy, sinkhorn, swapped
from tests.tasks.ssl.arrays import normal, unit

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / "golden" / "ssl_losses.npz")


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def scores():
    return jnp.asarray(unit(normal("embedding", 9, 8)) @ unit(normal("prototypes", 5, 8)).T)


def test_codes_equal_the_public_ones_and_pictures_sum_to_one():
    codes = sinkhorn(scores())
    np.testing.assert_allclose(codes, GOLDEN["sinkhorn"], atol=1e-9)
    np.testing.assert_allclose(codes.sum(1), 1, rtol=1e-12)


def test_prototypes_share_the_pictures_evenly_at_the_fixed_point():
    few, many = (np.abs(np.asarray(sinkhorn(scores(), 1.0, n).sum(0)) - 9 / 5).max() for n in (3, 50))
    assert many < 1e-9 < few
    assert share_of_entropy(sinkhorn(scores(), 1.0, 50)[:, None]) > 0.999999
    assert share_of_entropy(sinkhorn(scores(), 0.05, 0)[:, None]) < 0.995


def test_the_shift_of_scores_is_free_and_codes_are_whole_in_float32():
    np.testing.assert_allclose(sinkhorn(scores() + 50), sinkhorn(scores()), atol=1e-9)
    small = sinkhorn(jnp.asarray(scores() + 5, jnp.float32))
    assert small.dtype == jnp.float32 and np.abs(small - sinkhorn(scores())).max() < 1e-4


def test_the_swapped_prediction_equals_the_public_loop_over_four_views():
    views = jnp.asarray(np.stack([unit(normal(f"view{v}", 9, 8)) for v in range(4)], 1) @ unit(normal("prototypes", 5, 8)).T)
    codes = jnp.stack([sinkhorn(views[:, a]) for a in (0, 1)], axis=1)
    np.testing.assert_allclose(swapped(views, codes, 0.1).mean(), GOLDEN["swav"], rtol=1e-9)


def dino(student, teacher, center):
    temperature = float(GOLDEN["dino/temperature"])
    return distilled(student, teacher, center, teacher_temperature=temperature)[0].mean()


def test_dino_equals_the_public_loss_with_a_fixed_centre():
    student, teacher, center = jnp.asarray(normal("student", 7, 4, 12)), jnp.asarray(normal("teacher", 7, 2, 12)), 0.1 * normal("center", 12)
    value, gradient = jax.value_and_grad(dino)(student, teacher, center)
    np.testing.assert_allclose(value, GOLDEN["dino"], rtol=1e-9)
    np.testing.assert_allclose(gradient, GOLDEN["dino/grad"], atol=1e-9)
    np.testing.assert_allclose(0.9 * center + 0.1 * teacher.mean((0, 1)), GOLDEN["dino/center"], rtol=1e-9)


def test_pairs_of_the_same_view_are_left_out_and_the_teacher_has_no_gradient():
    student, teacher, center = jnp.asarray(normal("student", 7, 2, 12)), jnp.asarray(normal("teacher", 7, 2, 12)), jnp.zeros(12)
    turned = dino(student, teacher.at[:, 0].set(teacher[:, 1]), center)
    by_hand = -(jax.nn.softmax(teacher[:, 1] / GOLDEN["dino/temperature"]) * jax.nn.log_softmax(student / 0.1).sum(1)).sum(-1).mean() / 2
    np.testing.assert_allclose(turned, by_hand, rtol=1e-9)
    assert not np.any(jax.grad(dino, argnums=1)(student, teacher, center))


def test_both_losses_are_the_same_on_eight_devices():
    student, teacher, center = (jnp.asarray(normal(name, *shape)) for name, shape in (("s", (8, 4, 12)), ("t", (8, 2, 12)), ("c", (12,))))
    mesh = Mesh(np.asarray(jax.devices()[:8]), ("data",))
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

    def both(student, teacher):
        codes = jnp.stack([sinkhorn(jax.lax.stop_gradient(student[:, a])) for a in (0, 1)], axis=1)
        return jnp.stack([dino(student, teacher, center), swapped(student, codes, 0.1).mean()])

    cut = jax.jit(both, in_shardings=(rows, rows), out_shardings=everywhere)(*jax.device_put((student, teacher), rows))
    np.testing.assert_allclose(cut, both(student, teacher), rtol=1e-12)


@pytest.mark.parametrize("ratio", [0.4, 0.7])
def test_small_scores_grow_where_views_correlate_by_more_than_the_ratio_of_temperatures(ratio):
    def growth(correlation):
        """Minus the derivative of both losses by the scale of the student's scores, where these are close to 0."""
        shared, *own = (normal(name, 2048, 6) for name in ("shared", "one", "other"))
        small = 1e-4 * jnp.stack([correlation**0.5 * shared + (1 - correlation) ** 0.5 * noise for noise in own], axis=1)
        codes = jnp.stack([sinkhorn(small[:, a], 0.1 * ratio) for a in (0, 1)], axis=1)
        losses = (
            lambda scale: swapped(scale * small, codes, 0.1).mean(),
            lambda scale: distilled(scale * small, small, small.mean((0, 1)), teacher_temperature=0.1 * ratio)[0].mean(),
        )
        return np.array([-jax.grad(loss)(1.0) for loss in losses])

    assert (growth(ratio - 0.1) < 0).all() and (growth(ratio + 0.1) > 0).all()

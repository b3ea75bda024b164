"""The contrastive losses in float64: what they have in common, and what the public implementations compute (tests/golden/ssl_losses.npz)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ConfigError
from jaxvision.tasks.ssl import contrastive as c
from tests.tasks.ssl.arrays import normal, unit

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / "golden" / "ssl_losses.npz")
TAU = 0.1


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def pairs_of(n):
    return jnp.asarray(unit(normal(f"pairs{n}", n, 2, 16)))


def dcl(z):
    return c.decoupled(c.pairs(z, TAU)).sum(1).mean()


def dclw(z, detach=False):
    terms = c.pairs(z, TAU)
    weight = c.von_mises_fisher(terms.positive * TAU, 0.5)
    return c.decoupled(terms, jax.lax.stop_gradient(weight) if detach else weight).sum(1).mean()


def close(function, z, name, grad):
    value, gradient = jax.value_and_grad(function)(z)
    np.testing.assert_allclose(value, GOLDEN[name], rtol=1e-9)
    np.testing.assert_allclose(gradient[..., : grad.shape[-1]], grad, atol=1e-9)


@pytest.mark.parametrize("n", [2, 8, 33])
@pytest.mark.parametrize("name, function", [("dcl", dcl), ("dclw", dclw)])
def test_dcl_and_dclw_equal_the_public_implementation_with_gradients(n, name, function):
    close(function, pairs_of(n), f"{name}/{n}", GOLDEN[f"{name}/{n}/grad"])


@pytest.mark.parametrize("name, function", [("lightly_dcl", dcl), ("lightly_dclw", lambda z: dclw(z, detach=True))])
def test_half_of_it_with_constant_weights_is_lightlys(name, function):
    z = pairs_of(8)
    value, gradient = jax.value_and_grad(function)(z)
    np.testing.assert_allclose(value / 2, GOLDEN[name], rtol=1e-9)
    # lightly normalizes its inputs: its gradients lie in the tangent planes.
    flat = gradient - (gradient * z).sum(-1, keepdims=True) * z
    np.testing.assert_allclose(flat[..., :4] / 2, GOLDEN[f"{name}/grad"], atol=1e-9)


@pytest.mark.parametrize("n", [2, 8, 33])
def test_the_gradient_of_infonce_is_q_times_the_decoupled_one_for_every_anchor(n):
    z = pairs_of(n)
    terms = c.pairs(z, TAU)
    ordinary, decoupled = (jax.jacrev(lambda z, f=f: f(c.pairs(z, TAU)))(z) for f in (c.info_nce, c.decoupled))
    q = c.coupling(terms)
    assert 0 < float(q.min()) and float(q.max()) < 1
    np.testing.assert_allclose(ordinary, q[..., None, None, None] * decoupled, atol=1e-10)


def test_there_are_2n_minus_2_negatives_and_the_positive_is_none():
    for n in (2, 5):
        same = jnp.tile(jnp.eye(4)[0], (n, 2, 1))
        np.testing.assert_allclose(jnp.exp(c.pairs(same, 1.0).negative - 1), 2 * n - 2, rtol=1e-12)


@pytest.mark.parametrize("groups", [1, 4])
def test_infonce_of_a_group_is_what_vissl_computes_from_its_own_pictures(groups):
    value = c.info_nce(c.pairs(pairs_of(8), TAU, groups)).mean()
    np.testing.assert_allclose(value, GOLDEN[f"simclr/groups{groups}"], rtol=1e-9)


def test_the_queue_s_infonce_is_moco_s_with_its_gradient():
    query, key, queue = (jnp.asarray(unit(normal(name, n, 16))) for name, n in (("query", 6), ("key", 6), ("queue", 24)))
    close(lambda q: c.info_nce(c.against_queue(q, key, queue, 0.2)).mean(), query, "moco", GOLDEN["moco/grad"])


def test_weights_of_positives_have_mean_one_and_vanish_as_sigma_grows():
    z = pairs_of(33)
    cosine = c.pairs(z, TAU).positive * TAU
    np.testing.assert_allclose(c.von_mises_fisher(cosine, 0.5).mean(0), 1, rtol=1e-12)
    np.testing.assert_allclose(c.von_mises_fisher(cosine, 1e9), 1, atol=1e-8)
    assert float(c.von_mises_fisher(cosine, 0.5).std()) > 0.1


@pytest.mark.parametrize("function", [dcl, dclw, lambda z: c.info_nce(c.pairs(z, TAU)).mean()])
def test_the_order_of_the_batch_and_the_number_of_devices_change_nothing(function):
    z = pairs_of(8)
    value, gradient = jax.value_and_grad(function)(z)
    order = np.random.RandomState(0).permutation(8)
    np.testing.assert_allclose(function(z[order]), value, rtol=1e-12)
    mesh = Mesh(np.asarray(jax.devices()[:8]), ("data",))
    rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    cut = jax.jit(jax.value_and_grad(function), in_shardings=(rows,), out_shardings=(everywhere, rows))(jax.device_put(z, rows))
    np.testing.assert_allclose(cut[0], value, rtol=1e-12)
    np.testing.assert_allclose(cut[1], gradient, atol=1e-12)


def test_groups_do_depend_on_the_cut_and_have_to_divide_it():
    z = pairs_of(8)
    whole, cut = (c.info_nce(c.pairs(z, TAU, groups)).mean() for groups in (1, 4))
    assert float(whole - cut) > 0.5
    for groups in (3, 8):
        with pytest.raises(ConfigError, match="does not cut 8 pictures"):
            c.pairs(z, TAU, groups)


@pytest.mark.parametrize("n", [2, 8, 33])
def test_nearest_neighbours_against_the_other_pictures_of_the_batch_are_what_the_definition_says(n):
    z, key, support = (np.asarray(unit(normal(name, *shape))) for name, shape in (("z", (n, 2, 16)), ("key", (n, 2, 16)), ("queue", (24, 16))))
    ordinary, without = np.zeros((n, 2)), np.zeros((n, 2))
    for i in range(n):
        for view in range(2):
            neighbour = max(support, key=lambda row, i=i, view=view: row @ z[i, view])
            positive, *rest = (neighbour @ key[j, view] / TAU for j in (i, *(j for j in range(n) if j != i)))
            ordinary[i, view] = -positive + np.log(np.exp(positive) + np.sum(np.exp(rest)))
            without[i, view] = -positive + np.log(np.sum(np.exp(rest)))
    query = c.nearest_rows(jnp.asarray(z), jnp.asarray(support))
    np.testing.assert_allclose(c.info_nce(c.against_batch(query, jnp.asarray(key), TAU)), ordinary, rtol=1e-9)
    np.testing.assert_allclose(c.decoupled(c.against_batch(query, jnp.asarray(key), TAU)), without, rtol=1e-9)
    with pytest.raises(ConfigError, match="a batch of 1 has no negatives"):
        c.against_batch(query[:1], jnp.asarray(key[:1]), TAU)


def test_the_queue_holds_the_last_keys_after_it_has_wrapped():
    queue, at = jnp.full((6, 2), -1.0), jnp.zeros((), jnp.int32)
    push = jax.jit(c.enqueue)
    for step in range(4):  # K / B + 1 steps
        queue, at = push(queue, at, jnp.full((2, 2), float(step)))
    assert queue[:, 0].tolist() == [3, 3, 1, 1, 2, 2] and int(at) == 2
    with pytest.raises(ConfigError, match="not a multiple of the batch of 4"):
        c.enqueue(queue, at, jnp.zeros((4, 2)))

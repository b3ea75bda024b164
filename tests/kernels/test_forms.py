"""Ops of several forms: derivatives of every order and mapped calls are those of the form that runs, and no other form is in the program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ModelError
from jaxvision.kernels.choice import VARIABLE
from jaxvision.kernels.forms import Forms


def plain(x, w, power):
    return jnp.sin(x) * w**power


def other(x, w, power):
    """The same numbers by other operations: an exponential, which the plain form has not."""
    return jnp.imag(jnp.exp(1j * x.astype(jnp.complex64))) * w**power


OP = Forms("two_forms", {"reference": plain, "other": other}, {"tpu": "other"})
X, W = jnp.linspace(0.5, 2.0, 6).reshape(2, 3), jnp.array([0.5, 1.0, 2.0])


def run(x, w):
    return OP(x, w, power=3)


def expected(x, w):
    return plain(x, w, 3)


def test_both_modes_to_the_second_order():
    moved = (jnp.ones_like(X), 2 * W)
    for ours, theirs in zip(jax.jvp(run, (X, W), moved), jax.jvp(expected, (X, W), moved)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    loss = lambda f, x, w: jnp.square(f(x, w)).sum()
    for order in (jax.jacfwd, jax.jacrev):
        hessians = [order(jax.grad(functools.partial(loss, f), (0, 1)), (0, 1))(X, W) for f in (run, expected)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *hessians)


def test_a_gradient_transposes_into_a_directional_derivative():
    pull = jax.vjp(run, X, W)[1]
    push = jax.linear_transpose(pull, X)
    np.testing.assert_allclose(push((X, 2 * W))[0], jax.jvp(expected, (X, W), (X, 2 * W))[1], rtol=1e-6)


@pytest.mark.parametrize("axes", [(0, None), (1, 0), (None, 0)])
def test_mapped_calls_and_their_gradients(axes):
    arrays = [jnp.stack([v, 2 * v], axis) if axis is not None else v for v, axis in zip((X[0], W), axes)]
    for f in (run, jax.grad(lambda x, w: run(x, w).sum(), (0, 1))):
        g = expected if f is run else jax.grad(lambda x, w: expected(x, w).sum(), (0, 1))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), jax.vmap(f, axes)(*arrays), jax.vmap(g, axes)(*arrays))


@pytest.mark.parametrize("what", ["value", "tangent", "gradient"])
def test_a_program_has_the_form_of_its_platform_alone(what):
    function = {
        "value": run,
        "tangent": lambda x, w: jax.jvp(run, (x, w), (x, w)),
        "gradient": jax.grad(lambda x, w: run(x, w).sum(), (0, 1)),
    }[what]
    traced = jax.jit(function).trace(X, W)
    text = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda", "tpu")}
    assert "complex" in text["tpu"] and "complex" not in text["cpu"] + text["cuda"]


def test_the_caller_or_the_environment_may_name_the_form(monkeypatch):
    lowered = lambda **how: jax.jit(lambda x, w: OP(x, w, power=1, **how)).trace(X, W).lower(lowering_platforms=("tpu",)).as_text()
    assert "complex" in lowered() and "complex" not in lowered(implementation="reference")
    monkeypatch.setenv(VARIABLE, "reference")
    assert "complex" not in lowered()
    with pytest.raises(ModelError, match="two_forms has no implementation 'othr'; did you mean 'other'"):
        OP(X, W, power=1, implementation="othr")


def test_what_a_shard_map_shares_gets_the_gradient_of_all_shards():
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("data",))

    def of_shard(w, x):
        return jax.grad(lambda w: run(x, w).sum())(w)

    ours = jax.jit(jax.shard_map(of_shard, mesh=mesh, in_specs=(P(), P("data")), out_specs=P()))(W, X)
    np.testing.assert_allclose(ours, jax.grad(lambda w: expected(X, w).sum())(W), rtol=1e-6)

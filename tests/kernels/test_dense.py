import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.kernels.dense import dense


def normal(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("features", [3, 9], ids=["to fewer", "to more"])
def test_both_forms_agree_in_all_derivatives_and_under_vmap(features):
    x, w, v = normal(0, 2, 4, 5, 6), normal(1, 6, features), normal(2, 6, features)

    def everything(implementation):
        loss = lambda w, x: jnp.square(jnp.tanh(dense(x, w, implementation=implementation))).sum()
        gradient = jax.grad(loss, (0, 1))
        by_example = jax.vmap(gradient, (None, 0))
        return jax.jit(lambda w, x: (gradient(w, x), by_example(w, x), jax.jvp(lambda w: gradient(w, x), (w,), (v,))[1]))(w, x)

    for ours, theirs in zip(jax.tree.leaves(everything("cpu")), jax.tree.leaves(everything("reference")), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6 * float(jnp.abs(theirs).max()))


def test_the_gradient_of_the_kernel_copies_no_transposed_input():
    x, w = jax.ShapeDtypeStruct((4, 49, 64), jnp.float32), jax.ShapeDtypeStruct((64, 32), jnp.float32)

    def compiled(implementation):
        layer = functools.partial(dense, implementation=implementation)
        return jax.jit(jax.grad(lambda w, x: jnp.square(layer(jax.nn.relu(x), w)).sum())).lower(w, x).compile().as_text()

    assert "f32[64,4,49]" in compiled("reference") and "f32[64,4,49]" not in compiled("cpu") and "f32[64,4,49]" not in compiled(None)


def test_wrong_shapes_are_one_clear_line():
    with pytest.raises(ModelError, match=r"kernel \(c, d\), not shapes \(2, 5\) and \(6, 3\)"):
        dense(jnp.zeros((2, 5)), jnp.zeros((6, 3)))

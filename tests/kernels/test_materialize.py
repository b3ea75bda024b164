"""A stored value is the value, its cotangent is stored too, and only programs for CPUs contain anything of it."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.kernels.materialize import materialize
from jaxvision.nn.residual import residual


def stream(x, weights, add):
    """A residual network whose blocks normalize, multiply and bend."""
    for w in weights:
        x = add(x, jnp.tanh((x - x.mean(-1, keepdims=True)) @ w))
    return jnp.square(x).sum()


def longest(depth: int, add) -> int:
    """Lines of the longest fusion in the compiled gradient."""
    arguments = jax.ShapeDtypeStruct((64, 16), jnp.float32), jax.ShapeDtypeStruct((depth, 16, 16), jnp.float32)
    text = jax.jit(jax.grad(lambda x, w: stream(x, w, add))).lower(*arguments).compile().as_text()
    return max(part.count("\n") for part in text.split("\n\n") if not part.startswith("ENTRY"))


def test_derivatives_and_mapped_calls_are_those_of_the_identity():
    x, w = jax.random.normal(jax.random.key(0), (3, 4)), jax.random.normal(jax.random.key(1), (2, 4, 4))
    plain, stored = (lambda x, add=add: stream(x, w, add) for add in (jnp.add, residual))
    np.testing.assert_allclose(jax.jit(jax.grad(stored))(x), jax.grad(plain)(x), rtol=1e-5)
    v = jnp.ones_like(x)
    np.testing.assert_allclose(jax.jvp(jax.grad(stored), (x,), (v,))[1], jax.jvp(jax.grad(plain), (x,), (v,))[1], rtol=1e-4)
    np.testing.assert_array_equal(jax.jit(jax.vmap(materialize, 1, 1))(x), x)
    half = x.astype(jnp.bfloat16)
    assert jax.jit(materialize)(half).dtype == jnp.bfloat16 and bool((materialize(half) == half).all())


def test_no_fusion_of_a_residual_network_grows_with_its_depth():
    stored, plain = ([longest(depth, add) for depth in (6, 12)] for add in (residual, jnp.add))
    print({"stored": stored, "plain": plain})
    assert stored[0] == stored[1]
    assert plain[1] > 1.3 * plain[0]


def test_programs_for_other_platforms_contain_nothing_of_it():
    program = jax.jit(jax.grad(lambda x: materialize(jnp.sin(x)).sum())).trace(jax.ShapeDtypeStruct((8, 8), jnp.float32))
    assert "while" in program.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("tpu", "cuda"):
        text = program.lower(lowering_platforms=(platform,)).as_text()
        assert "while" not in text and "barrier" not in text

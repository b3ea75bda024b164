import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.nn.mlp import gelu


def test_gelu_and_its_first_two_derivatives_are_those_of_the_exact_function():
    x = jnp.linspace(-6, 6, 241)
    exact = lambda x: jax.nn.gelu(x, approximate=False)
    for ours, theirs in ((gelu, exact), (jax.grad(gelu), jax.grad(exact)), (jax.grad(jax.grad(gelu)), jax.grad(jax.grad(exact)))):
        np.testing.assert_allclose(jax.vmap(ours)(x), jax.vmap(theirs)(x), atol=2e-6)


def test_gelu_of_bfloat16_is_rounded_once():
    x = jnp.linspace(-4, 4, 161).astype(jnp.bfloat16)
    wide = gelu(x.astype(jnp.float32))
    assert gelu(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(gelu(x), wide.astype(jnp.bfloat16))

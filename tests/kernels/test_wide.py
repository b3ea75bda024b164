"""Vectors of parameters on maps of 16 bits."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.kernels.wide import add_bias, scale_by
from jaxvision.nn.pointwise import Dense


def test_sum_and_product_are_rounded_once_to_the_map_s_dtype():
    x = jax.random.normal(jax.random.key(0), (4, 64)).astype(jnp.bfloat16)
    v = jax.random.normal(jax.random.key(1), (64,))
    for ours, exact in ((add_bias, jnp.add), (scale_by, jnp.multiply)):
        assert ours(x, v).dtype == jnp.bfloat16
        np.testing.assert_array_equal(ours(x, v), exact(x.astype(jnp.float32), v).astype(jnp.bfloat16))
        np.testing.assert_array_equal(ours(x.astype(jnp.float32), v), exact(x.astype(jnp.float32), v))


def test_gradient_of_a_bias_in_a_16_bit_layer_is_summed_in_float32():
    net, x = Dense(2, dtype=jnp.bfloat16), jnp.ones((4096, 1), jnp.bfloat16)
    variables = net.init(jax.random.key(0), x)
    of = jax.grad(lambda v: net.apply(v, x).astype(jnp.float32).sum())
    # Beyond 256 a sum of ones does not grow in bfloat16.
    np.testing.assert_array_equal(of(variables)["params"]["bias"], [4096.0, 4096.0])
    sums = [each for each in jax.make_jaxpr(of)(variables).eqns if each.primitive.name == "reduce_sum"]
    assert sums and all(each.outvars[0].aval.dtype == jnp.float32 for each in sums)

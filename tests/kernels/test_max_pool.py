import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.kernels.max_pool import max_pool

CASES = {
    "3x3 / 2": ((3, 3), (2, 2), ((1, 1), (1, 1))),
    "2x2 / 2, odd sides": ((2, 2), (2, 2), ((0, 0), (0, 0))),
    "3x3 / 1": ((3, 3), (1, 1), ((1, 1), (1, 1))),
    "incomplete windows": ((3, 2), (2, 3), ((0, 1), (1, 2))),
    "windows apart": ((1, 2), (3, 4), ((0, 0), (0, 0))),
}


@pytest.mark.parametrize("window, strides, padding", CASES.values(), ids=CASES)
def test_the_derivative_is_that_of_the_definition_in_both_modes_and_at_ties_the_first_pixel_has_it(window, strides, padding):
    random = np.random.RandomState(0)
    ties, apart, dx = (jnp.asarray(v, jnp.float32) for v in (random.randint(0, 3, (2, 7, 9, 3)), *random.standard_normal((2, 2, 7, 9, 3))))

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(implementation):
        pool = functools.partial(max_pool, window=window, strides=strides, padding=padding, implementation=implementation)
        gradient = jax.grad(lambda x: jnp.square(pool(x)).sum())
        return gradient(ties), *jax.jvp(pool, (apart,), (dx,)), *jax.jvp(gradient, (apart,), (dx,))

    for ours, theirs in zip(derivatives(None), derivatives("reference")):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_platform_of_the_lowering_chooses():
    x = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))).sum()))
    text = lambda platform: jax.export.export(gradient, platforms=(platform,))(x).mlir_module()
    assert "select_and_scatter" in text("tpu") and "select_and_scatter" not in text("cpu")
    with pytest.raises(ModelError, match="max_pool has no implementation 'tpu'"):
        max_pool(jnp.zeros((1, 4, 4, 1)), (2, 2), (2, 2), ((0, 0), (0, 0)), implementation="tpu")


def test_a_pixel_wins_in_every_window_of_an_image_that_the_compiler_may_compute_twice():
    z, slope = (np.random.RandomState(0).standard_normal((4, 16, 16, 8)).astype(np.float32) for _ in range(2))

    def gradient(implementation):
        def loss(z, gain):
            normal = (z - z.mean((0, 1, 2))) * (jax.lax.rsqrt(z.var((0, 1, 2)) + 1e-5) * gain) + 0.1
            return (max_pool(jax.nn.relu(normal), (3, 3), (2, 2), ((1, 1), (1, 1)), implementation=implementation) * slope[:, :8, :8]).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(z, jnp.full(8, 1.7))

    for ours, theirs in zip(gradient(None), gradient("reference")):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)

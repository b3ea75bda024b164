import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.nn.norm import BatchNorm, LayerNorm, normalize


def normal(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), jnp.float32)


def plainly(x, gain, shift, axes, epsilon):
    """The same by JAX's own rules."""
    mean = x.mean(axes, keepdims=True)
    variance = jnp.square(x - mean).mean(axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + epsilon) * gain + shift, mean, variance


def close(ours, theirs, tolerance=3e-6):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * float(jnp.abs(b).max()))


@pytest.mark.parametrize("axes, gain", [((1, 2), (1, 1, 1, 5)), ((3,), (1, 1, 1, 1))], ids=["batch", "layer"])
def test_the_closed_form_has_the_derivatives_of_the_definition_to_second_order(axes, gain):
    arguments = normal(0, 2, 3, 4, 5) * 3 + 1, normal(1, *gain), normal(2, *gain)
    direction = normal(3, 2, 3, 4, 5), normal(4, *gain), normal(5, *gain)

    def derivatives(function):
        run = functools.partial(function, axes=axes, epsilon=1e-3)

        def loss(*arguments):
            y, mean, variance = run(*arguments)
            return jnp.tanh(y + 0.3).sum() + (mean * variance).sum()

        gradient = jax.grad(loss, (0, 1, 2))
        twice = jax.grad(lambda *a: sum(jnp.vdot(u, v) for u, v in zip(gradient(*a), direction)), (0, 1, 2))
        return jax.jit(lambda: (run(*arguments), jax.jvp(run, arguments, direction)[1], gradient(*arguments),
                                jax.jvp(gradient, arguments, direction)[1], twice(*arguments)))()  # fmt: skip

    close(derivatives(lambda x, gain, shift, axes, epsilon: normalize(x, gain, shift, axes, epsilon)), derivatives(plainly), 1e-5)


def test_the_gradient_reads_the_map_fewer_times_than_what_jax_derives():
    x, gain, shift = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 4, 28, 28, 64), (1, 1, 1, 1, 64), (1, 1, 1, 1, 64)))

    def bytes_read(function):
        gradient = lambda x, gain, shift, dy: jax.vjp(lambda *a: function(*a, (1, 2, 3), 1e-5)[0], x, gain, shift)[1](dy)
        return jax.jit(gradient).lower(x, gain, shift, x).compile().cost_analysis()["bytes accessed"]

    assert bytes_read(normalize) < 0.8 * bytes_read(plainly)


def test_batch_norm_does_not_depend_on_the_devices_of_the_batch_and_groups_have_statistics_of_their_own():
    x, dy = normal(0, 16, 3, 3, 4) + 2, normal(1, 16, 3, 3, 4)
    mesh = Mesh(np.asarray(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, P("data"))
    layer = BatchNorm(groups=2)
    variables = layer.init(jax.random.key(0), x, train=True)

    @jax.jit
    def run(x, dy):
        def forward(params, x):
            return layer.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])

        y, pull, updated = jax.vjp(forward, variables["params"], x, has_aux=True)
        return y, pull(dy), updated

    whole = run(x, dy)
    close(run(jax.device_put(x, split), jax.device_put(dy, split)), whole, 1e-6)
    np.testing.assert_allclose(whole[0][8:], plainly(x[8:], 1, 0, (0, 1, 2), 1e-5)[0], atol=1e-5)
    expected = 0.9 + 0.1 * np.mean([np.var(part, (0, 1, 2), ddof=1) for part in (x[:8], x[8:])], 0)
    np.testing.assert_allclose(whole[2]["batch_stats"]["var"], expected, rtol=1e-5)


def test_layer_norm_in_half_precision_has_float32_statistics():
    x = (jnp.zeros((1, 4096)).at[0, 0].set(1.0) + 100).astype(jnp.bfloat16)
    layer = LayerNorm(dtype=jnp.bfloat16, use_bias=False, use_scale=False)
    y = layer.apply({}, x)
    assert y.dtype == jnp.bfloat16 and abs(float(y[0, 0]) - 4095**0.5) < 1

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.kernels.block_resize import average_pool, repeat_pixels


def both(run, *arrays):
    return [jax.jit(lambda *arrays, i=i: run(i, *arrays))(*arrays) for i in ("tpu", "reference")]


@pytest.mark.parametrize("scale", [2, 3, 5])
@pytest.mark.parametrize("dtype, near", [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_windows_agree_with_reshapes_in_value_and_gradient(scale, dtype, near):
    """5 is beyond what windows are used for."""
    random = np.random.RandomState(0)
    small, large = (jnp.asarray(random.standard_normal((2, scale * i, i * scale * 2, 3)), dtype) for i in (1, scale))
    for op, x, y in ((average_pool, large, small), (repeat_pixels, small, large)):
        ours, theirs = both(lambda i, x, y, op=op: jax.vjp(lambda x: op(x, scale, implementation=i), x)[1](y), x, y)
        assert ours[0].dtype == x.dtype and ours[0].shape == x.shape
        np.testing.assert_allclose(np.float32(ours[0]), np.float32(theirs[0]), atol=near * scale**2)
        ours, theirs = both(lambda i, x, op=op: op(x, scale, implementation=i), x)
        assert ours.dtype == x.dtype and ours.shape == y.shape
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), atol=near if op is average_pool else 0)


def test_repetition_keeps_integers_and_what_is_not_finite():
    x = jnp.asarray([[[[1.0], [jnp.inf]], [[jnp.nan], [-3.0]]]])
    for value in (x, jnp.asarray([[[[7], [2**24 + 1]]]], jnp.int32)):
        np.testing.assert_array_equal(*both(lambda i, x: repeat_pixels(x, 2, implementation=i), value))


def test_the_platform_of_the_lowering_chooses_and_derivatives_of_it_are_chosen_too():
    x = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
    run = jax.jit(jax.grad(lambda x: (average_pool(x, 2) ** 2).sum() + (repeat_pixels(x, 2) ** 2).sum()))
    text = lambda platform: jax.export.export(run, platforms=(platform,))(x).mlir_module()
    # Two windows forward; one back of the repetition, one of the mean.
    assert text("tpu").count("stablehlo.reduce_window") == 4 and "reduce_window" not in text("cpu")


def test_repetition_of_many_examples_a_device_is_left_to_the_compiler():
    x = jax.ShapeDtypeStruct((16, 8, 8, 4), jnp.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    run = jax.jit(lambda x: repeat_pixels(x, 2))
    text = lambda: jax.export.export(run, platforms=("tpu",))(x).mlir_module()
    assert "reduce_window" not in text()
    with jax.set_mesh(mesh):  # 2 a device
        x = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, jax.P("data")))
        assert "reduce_window" in run.trace(x).lower(lowering_platforms=("tpu",)).as_text()


def test_what_is_asked_for_must_exist_and_divide():
    with pytest.raises(ModelError, match="block_mean has no implementation 'gpu'"):
        average_pool(jnp.zeros((1, 4, 4, 4)), 2, implementation="gpu")
    with pytest.raises(ModelError, match="3 x 4 pixels do not divide into blocks of 2 x 2"):
        average_pool(jnp.zeros((1, 3, 4, 4)), 2)


@pytest.mark.parametrize("op", [average_pool, repeat_pixels])
def test_second_derivatives_and_mapped_calls_agree(op):
    x = jnp.asarray(np.random.RandomState(1).standard_normal((3, 1, 4, 4, 2)), jnp.float32)

    def curvature(i, x):
        loss = lambda x: (jax.vmap(lambda x: op(x, 2, implementation=i))(x) ** 3).sum()
        return jax.jvp(jax.grad(loss), (x,), (jnp.ones_like(x),))[1]

    np.testing.assert_allclose(*both(curvature, x), rtol=1e-5)

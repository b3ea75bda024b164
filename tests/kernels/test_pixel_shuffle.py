import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.kernels.pixel_shuffle import pixel_shuffle


@pytest.mark.parametrize("colours, scale, width, order", [(1, 3, 5, "torch"), (3, 2, 130, "paper"), (16, 2, 4, "torch")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_the_matrix_of_zeros_and_ones_gives_the_very_numbers(colours, scale, width, order, dtype):
    """130 pixels are two blocks of 65; from 16 colours on, and for integers, it is the reference that runs."""
    x = jnp.asarray(1e3 * np.random.RandomState(0).standard_normal((2, 3, width, colours * scale**2)), dtype)
    ours, theirs = (jax.jit(lambda x, i=i: pixel_shuffle(x, scale, order=order, implementation=i))(x) for i in ("tpu", "reference"))
    assert ours.dtype == x.dtype and ours.shape == (2, 3 * scale, width * scale, colours)
    np.testing.assert_array_equal(ours, theirs)


def test_its_gradient_is_the_shuffle_back():
    x, y = (jnp.asarray(np.random.RandomState(n).standard_normal(s), jnp.float32) for n, s in enumerate([(2, 3, 5, 12), (2, 6, 10, 3)]))
    ours, theirs, chosen = (
        jax.jit(jax.grad(lambda x, i=i: (pixel_shuffle(x, 2, implementation=i) * y).sum()))(x) for i in ("tpu", "reference", None)
    )
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(chosen, theirs)


def test_the_platform_of_the_lowering_chooses():
    x = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
    text = lambda platform: jax.export.export(jax.jit(lambda x: pixel_shuffle(x, 2)), platforms=(platform,))(x).mlir_module()
    assert "dot_general" in text("tpu") and "dot_general" not in text("cpu")
    with pytest.raises(ModelError, match="pixel_shuffle has no implementation 'gpu'"):
        pixel_shuffle(jnp.zeros((1, 4, 4, 4)), 2, implementation="gpu")

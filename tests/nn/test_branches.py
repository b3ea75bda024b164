import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.models.inception_v4 import conv_unit
from jaxvision.nn.branches import MAX, MEAN, Branches, Step, valid


def test_branches_stand_side_by_side_in_the_order_of_the_table():
    unit = conv_unit(jnp.float32, jnp.float32, 0.9, 1)
    x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 7, 9, 3)), jnp.float32)
    model = Branches(((MAX,), (Step(1, 1, 4), valid(3, 3, 5, 2)), (valid(3, 3, 2, 2),)), unit)
    variables, out = jax.jit(lambda x: model.init_with_output(jax.random.key(0), x, False)[::-1])(x)
    assert out.shape == (2, 3, 4, 3 + 5 + 2)
    assert set(variables["params"]) == {"branch1_0", "branch1_1", "branch2"}
    np.testing.assert_array_equal(out[0, 0, 0, :3], np.asarray(x)[0, :3, :3].max((0, 1)))


def test_the_mean_leaves_padding_out():
    np.testing.assert_allclose(MEAN.run(jnp.full((1, 3, 3, 1), 5.0)), 5.0)

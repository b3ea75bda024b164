import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.nn.standardized_conv import StandardizedConv


def test_shifting_and_scaling_a_filter_changes_nothing():
    x = jnp.asarray(np.random.RandomState(0).standard_normal((1, 6, 6, 3)), jnp.float32)
    model = StandardizedConv(4, 3, 2)

    @jax.jit
    def run(x):
        kernel = model.init(jax.random.key(0), x)["params"]["kernel"]
        return [model.apply({"params": {"kernel": k}}, x) for k in (kernel, 3 * kernel + 2, kernel.at[0, 0, 0].add(1.0))]

    plain, moved, changed = run(x)
    assert plain.shape == (1, 3, 3, 4)
    np.testing.assert_allclose(moved, plain, atol=1e-4)
    assert np.abs(changed - plain).max() > 0.1

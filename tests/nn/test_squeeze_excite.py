import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.nn.squeeze_excite import SqueezeExcite


def test_every_channel_is_scaled_by_a_gate_of_all_channel_means():
    x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 3, 5, 4)), jnp.float32)
    model = SqueezeExcite(2, names=("conv_reduce", "conv_expand"))
    variables, out = jax.jit(lambda x: model.init_with_output(jax.random.key(0), x)[::-1])(x)
    reduce, expand = (np.asarray(variables["params"][name]["kernel"])[0, 0] for name in ("conv_reduce", "conv_expand"))
    gate = 1 / (1 + np.exp(-np.maximum(np.asarray(x).mean((1, 2)) @ reduce, 0) @ expand))
    np.testing.assert_allclose(out, x * gate[:, None, None, :], rtol=1e-5, atol=1e-6)

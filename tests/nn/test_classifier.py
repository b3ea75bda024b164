import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.nn.classifier import Classifier


def test_logits_are_float32_and_start_within_torch_s_bounds():
    x = jnp.ones((2, 400), jnp.bfloat16)
    model = Classifier(64, param_dtype=jnp.bfloat16)
    logits, variables = jax.jit(lambda x: model.init_with_output(jax.random.key(0), x))(x)
    assert logits.shape == (2, 64) and logits.dtype == jnp.float32
    for leaf in (variables["params"]["kernel"], variables["params"]["bias"]):
        size = np.abs(np.asarray(leaf, np.float32))
        assert 0.9 / 20 < size.max() < 1.01 / 20
        assert abs(size.mean() - 0.5 / 20) < 0.1 / 20

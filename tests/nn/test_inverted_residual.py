import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxvision.nn.conv import Conv
from jaxvision.nn.inverted_residual import DepthwiseSeparable, InvertedResidual, round_width
from jaxvision.nn.norm import BatchNorm

DTYPES = {"dtype": jnp.float32, "param_dtype": jnp.float32}
LAYERS = {"conv": functools.partial(Conv, use_bias=False, **DTYPES), "norm": functools.partial(BatchNorm, **DTYPES), "activation": nn.relu6}


def test_widths_round_to_multiples_of_8_but_never_lose_over_a_tenth():
    assert [round_width(width) for width in (3, 12, 11.9, 36, 35.2, 44, 320 * 0.35)] == [8, 16, 16, 40, 32, 48, 112]
    assert round_width(10) == 16  # 8 would lose a fifth


@pytest.mark.parametrize(
    "block", [DepthwiseSeparable(8, 3, 1, **LAYERS), InvertedResidual(8, 16, 5, 1, **LAYERS, reduced=2), InvertedResidual(8, 16, 3, 2, **LAYERS)]
)
def test_a_block_whose_last_norm_is_silent_is_the_identity_where_shapes_allow(block):
    x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 5, 5, 8)), jnp.float32)
    last = "bn2" if isinstance(block, DepthwiseSeparable) else "bn3"

    @jax.jit
    def run(x):
        variables = block.init(jax.random.key(0), x, False)
        params = {**variables["params"], last: jax.tree.map(jnp.zeros_like, variables["params"][last])}
        return block.apply({**variables, "params": params}, x, False)

    np.testing.assert_allclose(run(x), x if block.strides == 1 else np.zeros((2, 3, 3, 8)), atol=1e-6)

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.nn.group_norm import GroupNorm


def test_each_group_of_each_example_is_normalized_over_pixels_and_channels():
    x = np.random.RandomState(0).standard_normal((2, 3, 4, 6)).astype(np.float32) * 3 + 1
    scale, bias = np.arange(6, dtype=np.float32), np.full(6, 0.5, np.float32)
    y = GroupNorm(2, epsilon=0.1).apply({"params": {"scale": scale, "bias": bias}}, x)
    for n in range(2):
        for channels in (slice(0, 3), slice(3, 6)):
            part = x[n, ..., channels]
            expected = (part - part.mean()) / np.sqrt(part.var() + 0.1) * scale[channels] + 0.5
            np.testing.assert_allclose(y[n, ..., channels], expected, atol=1e-5)


def test_statistics_are_float32_in_half_precision_and_groups_must_divide_the_channels():
    x = jnp.full((1, 64, 64, 2), 100.0, jnp.bfloat16).at[0, 0, 0].set(101.0)
    y = GroupNorm(1, use_bias=False, dtype=jnp.bfloat16).apply({"params": {"scale": jnp.ones(2)}}, x)
    assert y.dtype == jnp.bfloat16 and abs(float(y[0, 0, 0, 0]) - 4095**0.5) < 4
    with pytest.raises(ModelError, match="6 channels do not divide into 4 groups"):
        GroupNorm(4).apply({"params": {"scale": jnp.ones(6), "bias": jnp.ones(6)}}, jnp.ones((1, 2, 2, 6)))

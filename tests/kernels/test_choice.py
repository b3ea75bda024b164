"""One variable takes all ops back to plain XLA code."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision.errors import ConfigError
from jaxvision.kernels.attention import self_attention
from jaxvision.kernels.choice import VARIABLE
from jaxvision.kernels.depthwise_conv import depthwise_conv


def programs(**how):
    qkv, image, kernel = jnp.zeros((128, 16, 192), jnp.bfloat16), jnp.zeros((128, 56, 56, 16), jnp.bfloat16), jnp.zeros((7, 7, 1, 16), jnp.bfloat16)
    lower = lambda function, *arrays: jax.jit(function).trace(*arrays).lower(lowering_platforms=("tpu",)).as_text()
    return (
        lower(lambda x: self_attention(x, 2, **how), qkv),
        lower(lambda x, w: depthwise_conv(x, w, **how), image, kernel),
    )


def test_the_environment_takes_every_op_to_plain_code(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    kernels = programs()
    monkeypatch.setenv(VARIABLE, "reference")
    plain = programs()
    assert all("tpu_custom_call" in text for text in kernels)
    assert not any("custom_call" in text for text in plain)
    # What the caller names goes before.
    assert all("tpu_custom_call" in text for text in programs(implementation="tpu"))


def test_another_value_is_one_clear_line(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ConfigError, match="JAXVISION_KERNELS='fast' in the environment: the only choice for all ops is 'reference'"):
        programs()

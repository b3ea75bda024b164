"""Every op, forward and with gradients, is lowered for NVIDIA GPUs and for TPUs on a machine that has neither."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision.train.bench import cases_of, ops_with_cases, passes

# Examples: as many as fill a TPU's lanes, so that its kernels are asked for too. Nothing is computed.
BATCH = 128


def lowered(op: str, platform: str) -> str:
    case = cases_of(op)[0]
    arguments = case.arguments(BATCH, jnp.dtype("bfloat16"))
    *_, (_, build) = passes(case)
    return jax.jit(build(None)).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("op", ops_with_cases())
def test_for_gpus_an_op_is_code_that_xla_compiles_and_never_a_tpu_s_kernel(op):
    text = lowered(op, "cuda")
    assert "stablehlo." in text and "tpu_custom_call" not in text


@pytest.mark.parametrize("op, kernels", [("attention", 2), ("deform_conv", 2), ("depthwise_conv", 2), ("im2win_conv", 3)])
def test_for_tpus_the_ops_with_kernels_take_them_in_both_passes(op, kernels):
    assert lowered(op, "tpu").count("tpu_custom_call") >= kernels

"""Attention by code that others wrote: JAX's flash attention for long sequences on TPUs, cuDNN on NVIDIA GPUs."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.experimental.pallas import tpu as pltpu

from jaxvision.kernels.attention import gpu, op, self_attention, tpu_flash, triton
from jaxvision.kernels.attention.call import Call
from tests.kernels.test_attention import maps, normal, worst


@pytest.mark.parametrize("tokens", [256, 150], ids=["whole blocks", "a block and a part of one"])
def test_flash_attention_agrees_with_the_reference_forward_and_in_its_gradients(monkeypatch, tokens):
    monkeypatch.setattr(tpu_flash, "BLOCK", 128)
    qkv, call = normal(0, 1, tokens, 2 * 3 * 16), Call(2, True, False, False)
    slope = normal(9, 1, tokens, 2 * 16, dtype=jnp.bfloat16).astype(jnp.float32)
    assert tpu_flash.covers(call, qkv)
    with pltpu.force_tpu_interpret_mode():
        ours = tpu_flash.forward(call, qkv), tpu_flash.backward(call, (0,), slope, qkv)
    expected, gradients = maps(self_attention, (qkv,), None, None, 2, "reference")
    assert worst(ours[0], expected) < 2e-5
    assert worst(ours[1][0], gradients[0][0]) < 2e-4


def test_gpus_take_cudnn_for_16_bits_without_bias_and_another_kernel_elsewhere(monkeypatch):
    """As on a machine that has JAX's plugin for CUDA and its cuDNN; nothing is compiled."""
    monkeypatch.setattr(gpu, "PLUGINS", ("jax",))
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    qkv, bias = jax.ShapeDtypeStruct((2, 50, 3 * 128), jnp.bfloat16), jax.ShapeDtypeStruct((1, 2, 50, 50), jnp.float32)

    def lowered(function, *arguments):
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()

    run = functools.partial(lambda qkv, *bias, dtype=jnp.bfloat16: self_attention(qkv.astype(dtype), 2, *bias).astype(jnp.float32).sum())
    assert "__cudnn$fmhaSoftmax" in lowered(run, qkv)
    assert "__cudnn$fmhaSoftmaxBackward" in lowered(jax.grad(run), qkv)
    for other in (lowered(run, qkv, bias), lowered(functools.partial(run, dtype=jnp.float32), qkv)):
        assert "__cudnn$" not in other and "xla.gpu.triton" in other
    monkeypatch.setattr(gpu, "PLUGINS", ())
    assert op.kernel_of("cuda", Call(2, True, False, False), [qkv]) is triton

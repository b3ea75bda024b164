"""Attention on NVIDIA GPUs: cuDNN's fused kernel through `jax.nn.dot_product_attention`, for 16-bit numbers without bias and dropout."""

import importlib.util

import jax
import jax.numpy as jnp

from jaxvision.kernels.attention.call import Call

PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def covers(call: Call, *operands) -> bool:
    # A program may be exported for GPUs where JAX does not know which cuDNN there will be; it gets plain XLA code.
    if not any(map(importlib.util.find_spec, PLUGINS)):
        return False
    dims = {operands[0].shape[2] // 3} if call.packed else {x.shape[2] for x in operands[:3]}
    width = max(dims) // call.heads
    # cuDNN's backward pass takes even numbers of tokens alone, as JAX calls it.
    if any(x.shape[1] % 2 for x in operands[: call.arrays]):
        return False
    return len(dims) == 1 and operands[0].dtype in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= 128 and not (call.bias or call.dropout)


def _attend(call: Call, *operands):
    parts = (x.reshape(*x.shape[:2], call.heads, x.shape[2] // call.heads) for x in call.parts(operands))
    y = jax.nn.dot_product_attention(*parts, implementation="cudnn")
    return y.reshape(*y.shape[:2], -1)


def forward(call: Call, *operands):
    return _attend(call, *operands)


def backward(call: Call, which: tuple[int, ...], cotangent, *operands):
    gradients = jax.vjp(lambda *operands: _attend(call, *operands), *operands)[1](cotangent)
    return tuple(gradients[i] for i in which)

"""Attention on NVIDIA GPUs: cuDNN's fused kernel through `jax.nn.dot_product_attention`, for 16-bit numbers without bias and dropout."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from jaxvision.kernels.attention.call import Call

PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


@functools.cache
def recent() -> bool:
    """Whether the GPU of this machine has compute capability 8.0, which cuDNN's kernel and Triton's compiler want; true where there is none, for a
    program that is compiled for one elsewhere."""
    try:
        return float(jax.local_devices(backend="cuda")[0].compute_capability) >= 8.0
    except RuntimeError:
        return True


def covers(call: Call, *operands) -> bool:
    # A program may be exported for GPUs where JAX does not know which cuDNN there will be; it gets plain XLA code.
    if not any(map(importlib.util.find_spec, PLUGINS)):
        return False
    dims = {operands[0].shape[2] // 3} if call.packed else {x.shape[2] for x in operands[:3]}
    width = max(dims) // call.heads
    known = operands[0].dtype in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= 128
    return len(dims) == 1 and known and not (call.bias or call.dropout) and recent()


def _attend(call: Call, *operands):
    parts = [x.reshape(*x.shape[:2], call.heads, x.shape[2] // call.heads) for x in call.parts(operands)]
    lengths = [x.shape[1] for x in parts[:2]]
    options = {}
    if any(n % 2 for n in lengths):
        # cuDNN's backward pass takes even numbers of tokens alone, as JAX calls it: one more, which nothing looks at.
        parts = [jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in parts]
        counts = [jnp.full(parts[0].shape[:1], n, jnp.int32) for n in lengths]
        options = dict(zip(("query_seq_lengths", "key_value_seq_lengths"), counts))
    y = jax.nn.dot_product_attention(*parts, implementation="cudnn", **options)[:, : lengths[0]]
    return y.reshape(*y.shape[:2], -1)


def _alone(call: Call, run):
    """`run` inside a `shard_map` of one device where no mesh is around: outside of one, JAX wants to know the devices, which it does not when it
    lowers for a platform that is not there."""
    if call.cut.mesh is not None:
        return run
    mesh = AbstractMesh((1,), ("device",), axis_types=(AxisType.Auto,))
    return jax.shard_map(run, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)


def forward(call: Call, *operands):
    return _alone(call, lambda *operands: _attend(call, *operands))(*operands)


def backward(call: Call, which: tuple[int, ...], cotangent, *operands):
    def run(cotangent, *operands):
        gradients = jax.vjp(lambda *operands: _attend(call, *operands), *operands)[1](cotangent)
        return tuple(gradients[i] for i in which)

    return _alone(call, run)(cotangent, *operands)

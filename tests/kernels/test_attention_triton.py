"""Attention's kernels for NVIDIA GPUs by Triton, interpreted, and what GPUs take for a call."""

import jax
import jax.export
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from jaxvision.kernels.attention import attention, gpu, op, self_attention, triton, triton_heads
from jaxvision.kernels.attention.call import Call
from tests.kernels.test_attention import maps, normal, worst

CALL = "__gpu$xla.gpu.triton"
# (batch, tokens, heads, width), number of biases, dtype, limit
EACH = {
    "windows with biases of their own, several a program": ((6, 17, 2, 24), 3, jnp.float32, 2e-6),
    "two blocks, keys in two tiles, a bias for all": ((2, 81, 1, 24), 1, jnp.bfloat16, 2**-6),
}


@pytest.mark.parametrize("shape, biases, dtype, limit", EACH.values(), ids=EACH)
def test_the_kernels_agree_with_the_reference_forward_and_in_all_gradients_with_dropout(monkeypatch, shape, biases, dtype, limit):
    """The reference in float32, of what the kernels are given. A program takes all examples that share a bias."""
    b, t, heads, width = shape
    monkeypatch.setattr(triton_heads, "PROGRAMS", 1)
    given = (normal(0, b, t, 3 * heads * width, dtype=dtype),), normal(2, 3 * heads * width, dtype=dtype)
    bias, seed = normal(1, biases, heads, t, t), jnp.arange(b, dtype=jnp.uint32) * 77
    (operands, offset), (wide, wide_offset) = given, jax.tree.map(lambda x: x.astype(jnp.float32), given)
    expected = maps(self_attention, wide, bias, seed, heads, "reference", 0.2, wide_offset)
    assert worst(maps(self_attention, operands, bias, seed, heads, "triton", 0.2, offset), expected) < limit


def test_gradients_mapped_over_groups_of_more_queries_than_keys_with_a_bias_for_all_heads():
    q, k, bias = normal(0, 2, 2, 70, 2, 16), normal(1, 2, 19, 2, 16), normal(2, 1, 1, 70, 19)

    def mapped(implementation):
        loss = lambda q, k, bias: jnp.square(attention(q, k, k, bias, implementation=implementation)).sum()
        return jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2)), (0, None, None)))(q, k, bias)

    assert worst(mapped("triton"), mapped("reference")) < 2e-6


@pytest.mark.parametrize("tokens, expected", [
    (16, [(0, 16)]), (49, [(0, 64)]), (75, [(0, 64), (64, 16)]), (144, [(0, 128), (128, 16)]), (197, [(0, 128), (128, 64), (192, 16)]),
])  # fmt: skip
def test_keys_are_held_as_powers_of_two(tokens, expected):
    assert triton_heads.tiles(tokens) == expected


@pytest.mark.parametrize("tokens, heads, width, biases, dropout, kernel", [
    (49, 3, 32, 64, 0.0, triton), (144, 16, 32, 1, 0.0, triton), (197, 12, 64, 1, 0.0, triton), (197, 12, 64, 0, 0.1, triton),
    (256, 6, 30, 16, 0.0, triton), (197, 12, 64, 0, 0.0, gpu), (577, 12, 64, 0, 0.0, gpu), (577, 12, 64, 1, 0.0, None),
    (8, 4, 32, 1, 0.0, None), (49, 4, 8, 1, 0.0, None),
])  # fmt: skip
def test_what_gpus_take_for_a_sequence(monkeypatch, tokens, heads, width, biases, dropout, kernel):
    """As on a machine that has JAX's plugin for CUDA: cuDNN wherever it can, then Triton, then plain XLA code."""
    monkeypatch.setattr(gpu, "PLUGINS", ("jax",))
    operands = [jax.ShapeDtypeStruct((64, tokens, 3 * heads * width), jnp.bfloat16)]
    operands += [jax.ShapeDtypeStruct((biases, heads, tokens, tokens), jnp.float32)] if biases else []
    operands += [jax.ShapeDtypeStruct((64,), jnp.uint32)] if dropout else []
    assert op.kernel_of("cuda", Call(heads, True, False, bool(biases), dropout), operands) is kernel


def test_gpus_that_triton_does_not_compile_for_take_plain_code(monkeypatch):
    class Old:
        compute_capability = "7.5"

    monkeypatch.setattr(jax, "local_devices", lambda backend: [Old()])
    gpu.recent.cache_clear()
    assert not triton.covers(Call(2, True, False, False), jax.ShapeDtypeStruct((4, 49, 192), jnp.bfloat16))
    gpu.recent.cache_clear()


# Of windows of 49 in two rounds of two biases, for each of four devices.
KINDS = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((16, 49, 192), (192,), (2, 2, 49, 49))]


def gradients():
    """Traced anew: what a mesh around a trace was is part of it."""
    return jax.jit(jax.grad(lambda x, offset, bias: jnp.square(self_attention(x, 2, bias, offset=offset)).sum(), (0, 1, 2)))


def test_windows_are_lowered_to_tritons_kernels_on_a_machine_without_a_gpu_and_exported_as_plain_code():
    text = gradients().trace(*KINDS).lower(lowering_platforms=("cuda",)).as_text()
    # All products and the softmax are inside of the two.
    assert text.count(f"@{CALL}(") == 2 and "stablehlo.dot" not in text and "stablehlo.exp" not in text
    exported = jax.export.export(gradients(), platforms=("cuda",))(*KINDS).mlir_module()
    assert CALL not in exported and "stablehlo.dot" in exported


def test_a_batch_that_is_cut_along_a_mesh_stays_where_it_is_and_gradients_of_what_is_shared_are_summed():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        text = gradients().trace(*KINDS).lower(lowering_platforms=("cuda",)).as_text()
    calls = [line for line in text.splitlines() if f"@{CALL}(" in line]
    assert len(calls) == 2 and all("tensor<4x49x3x2x32xf32>" in line for line in calls)
    assert "all_reduce" in text and "all_gather" not in text

"""Depthwise, dense and grouped convolution: the CPU's code against plain `lax`, derivatives, and how they are compiled and sharded."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ModelError
from jaxvision.kernels.conv import conv
from jaxvision.kernels.depthwise_conv import cpu, depthwise_conv
from jaxvision.kernels.grouped_conv import grouped_conv
from jaxvision.nn.conv import convolve


@pytest.fixture(autouse=True)
def small_convolutions_are_covered_too(monkeypatch):
    monkeypatch.setattr(cpu, "SMALLEST", 0)


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), dtype)


def maps(op, x, kernel, implementation):
    """(y, dx, dkernel) in float32, jitted as one program."""

    @jax.jit
    def run(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: op(x, kernel, implementation=implementation), x, kernel)
        return y, *pull(normal(2, *y.shape, dtype=y.dtype))

    return [value.astype(jnp.float32) for value in run(x, kernel)]


def worst(ours, theirs):
    """The largest error over (y, dx, dkernel), each relative to its largest value."""
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(ours, theirs))


DEPTHWISE = {
    "3x3": ((3, 3), dict()),
    "7x7": ((7, 7), dict(padding=3)),
    "band 1x11": ((1, 11), dict()),
    "band 11x1, valid": ((11, 1), dict(padding="VALID")),
    "even sides": ((4, 2), dict(padding=((2, 1), (0, 3)))),
    "stride 2": ((3, 3), dict(strides=2, padding=1)),
    "stride 2 as TensorFlow pads": ((5, 5), dict(strides=2)),
    "stride beyond the kernel": ((2, 1), dict(strides=(3, 2), padding=0)),
    "dilation": ((3, 3), dict(dilation=(2, 3))),
    "stride and dilation": ((3, 5), dict(strides=(2, 3), dilation=(3, 2), padding=(4, 2))),
    "padding beyond the kernel's reach": ((3, 3), dict(padding=4)),
}


@pytest.mark.parametrize("kernel, options", DEPTHWISE.values(), ids=DEPTHWISE)
def test_depthwise_agrees_with_lax_forward_and_in_both_gradients(kernel, options):
    x, w = normal(0, 2, 13, 17, 5), normal(1, *kernel, 1, 5)
    op = functools.partial(depthwise_conv, **options)
    assert worst(maps(op, x, w, "cpu"), maps(op, x, w, "reference")) < 2e-6


@pytest.mark.parametrize("options", [dict(), dict(strides=2, padding=((2, 3), (3, 1))), dict(dilation=(1, 2), padding=5)], ids=str)
def test_the_kernel_s_gradient_of_small_images_comes_from_products_of_pixels_and_agrees(options):
    x, w = normal(0, 3, 5, 6, 4), normal(1, 5, 7, 1, 4)
    op = functools.partial(depthwise_conv, **options)
    products = maps(op, x, w, "cpu")
    assert worst(products, maps(op, x, w, "reference")) < 2e-6
    assert jax.jit(jax.grad(lambda w: op(x, w, implementation="cpu").sum())).lower(w).as_text().count("stablehlo.dot_general") == 1


def test_the_sum_over_taps_is_computed_once_for_all_of_its_readers():
    """Batch norm and an activation read a convolution's output many times over; fused into each, EfficientNet-B0's steps took twice as long."""
    x, w = jax.ShapeDtypeStruct((2, 12, 14, 8), jnp.float32), jax.ShapeDtypeStruct((5, 5, 1, 8), jnp.float32)

    def readers(x, w):
        y = depthwise_conv(x, w, implementation="cpu")
        return jax.nn.silu((y - y.mean((0, 1, 2))) * jax.lax.rsqrt(y.var((0, 1, 2))))

    text = jax.jit(readers).lower(x, w).compile().as_text()
    assert 25 <= text.count(" multiply(") < 2 * 25


def test_large_kernels_and_wide_images_go_in_pieces_and_agree(monkeypatch):
    monkeypatch.setattr(cpu, "MOST_TAPS", 20)
    x, w = normal(0, 2, 12, 64, 3), normal(1, 9, 9, 1, 3)
    assert worst(maps(depthwise_conv, x, w, "cpu"), maps(depthwise_conv, x, w, "reference")) < 5e-6


def test_the_sums_of_a_31x31_kernel_are_not_all_unrolled():
    x, w = jax.ShapeDtypeStruct((1, 64, 64, 8), jnp.float32), jax.ShapeDtypeStruct((31, 31, 1, 8), jnp.float32)
    gradients = jax.grad(lambda x, w: depthwise_conv(x, w).sum(), (0, 1))
    assert jax.jit(gradients).lower(x, w).as_text().count("stablehlo.multiply") < 3 * 2 * cpu.MOST_TAPS


CASES = {
    "1x1": (conv, (1, 1, 6, 5), dict()),
    "1x1 stride 2": (conv, (1, 1, 6, 5), dict(strides=2, padding=0)),
    "patches": (conv, (4, 3, 6, 5), dict(strides=(4, 3), padding=0)),
    "3x3": (conv, (3, 3, 6, 5), dict(strides=2, padding=1)),
    "groups of 3": (functools.partial(grouped_conv, groups=2), (3, 3, 3, 8), dict(strides=2, padding=1)),
    "two features a channel": (functools.partial(grouped_conv, groups=6), (3, 3, 1, 12), dict()),
}


@pytest.mark.parametrize("op, kernel, options", CASES.values(), ids=CASES)
def test_dense_and_grouped_agree_with_lax_forward_and_in_both_gradients(op, kernel, options):
    x, w = normal(0, 2, 9, 10, 6), normal(1, *kernel)
    op = functools.partial(op, **options)
    assert worst(maps(op, x, w, "cpu"), maps(op, x, w, "reference")) < 2e-6


def test_grouped_gradients_have_no_array_of_seven_dimensions():
    """A sum over one of them ended the process in whole training steps, on processors with AVX2 and without AVX-512 (jaxlib 0.10.2)."""
    x, w = jax.ShapeDtypeStruct((2, 9, 10, 32), jnp.float32), jax.ShapeDtypeStruct((3, 3, 8, 32), jnp.float32)
    gradients = jax.grad(lambda x, w: grouped_conv(x, w, groups=4, implementation="cpu").sum(), (0, 1))
    shapes = re.findall(r"tensor<((?:\d+x)+)", jax.jit(gradients).lower(x, w).as_text())
    assert max(shape.count("x") for shape in shapes) == 5


@pytest.mark.parametrize("groups, count", [(32, 4), (2, 2), (1, 1)])
def test_groups_are_merged_into_blocks_of_32_channels(groups, count):
    """128 channels: of width 4, eight to a block; of width 64, none merged; dense, one convolution."""
    x, w = jax.ShapeDtypeStruct((1, 8, 8, 128), jnp.float32), jax.ShapeDtypeStruct((3, 3, 128 // groups, 128), jnp.float32)
    text = jax.jit(lambda x, w: convolve(x, w, 1, 1, 1, groups, implementation="cpu")).lower(x, w).as_text()
    assert text.count("stablehlo.convolution") == count and "feature_group_count = 1 " in text


@pytest.mark.parametrize("kernel, groups", [((5, 5, 1, 8), 8), ((1, 1, 8, 8), 1)])
def test_bfloat16_is_summed_in_float32(kernel, groups):
    x, w = normal(0, 4, 32, 32, 8, dtype=jnp.bfloat16), normal(1, *kernel, dtype=jnp.bfloat16)
    op = lambda x, w, implementation: convolve(x, w, 1, "SAME", 1, groups, implementation=implementation)
    wide = maps(op, x.astype(jnp.float32), w.astype(jnp.float32), "reference")
    # The cotangent is rounded too; a sum of 4096 products in bfloat16 would be wrong in the first digit.
    assert worst(maps(op, x, w, "cpu"), wide) < 2**-7


@pytest.mark.parametrize("kernel, groups", [((3, 3, 1, 4), 4), ((1, 1, 4, 6), 1), ((3, 3, 2, 4), 2)], ids=["depthwise", "dense", "grouped"])
class TestDerivatives:
    def loss(self, w, x, groups, implementation):
        return jnp.square(jnp.tanh(convolve(x, w, 1, "SAME", 1, groups, implementation=implementation))).sum()

    def test_hessian_vector_products_forward_over_reverse_and_reverse_over_reverse(self, kernel, groups):
        x, w, v = normal(0, 2, 6, 5, 4), normal(1, *kernel), normal(2, *kernel)

        @functools.partial(jax.jit, static_argnums=0)
        def forward_over_reverse(implementation, w, v):
            return jax.jvp(jax.grad(lambda w: self.loss(w, x, groups, implementation)), (w,), (v,))[1]

        @jax.jit
        def reverse_over_reverse(w, v):
            return jax.grad(lambda w: jnp.vdot(jax.grad(lambda w: self.loss(w, x, groups, "cpu"))(w), v))(w)

        expected = forward_over_reverse("reference", w, v)
        for product in (forward_over_reverse("cpu", w, v), reverse_over_reverse(w, v)):
            np.testing.assert_allclose(product, expected, atol=5e-6 * float(jnp.abs(expected).max()))

    def test_gradients_mapped_over_groups_of_examples_with_shared_and_with_own_kernels(self, kernel, groups):
        x, shared, own = normal(0, 3, 2, 6, 5, 4), normal(1, *kernel), normal(1, 3, *kernel)
        for w, axis in ((shared, None), (own, 0)):
            mapped = lambda implementation: jax.jit(
                jax.vmap(jax.grad(lambda w, x: self.loss(w, x, groups, implementation), (0, 1)), (axis, 0), axis_size=3)
            )(w, x)
            for ours, theirs in zip(mapped("cpu"), mapped("reference")):
                np.testing.assert_allclose(ours, theirs, atol=5e-6 * float(jnp.abs(theirs).max()))

    def test_mapped_twice_and_recomputed(self, kernel, groups):
        x, w = normal(0, 2, 3, 2, 6, 5, 4), normal(1, 2, *kernel)

        def gradients(implementation, remat):
            loss = lambda w, x: self.loss(w, x, groups, implementation)
            inner = jax.vmap(jax.grad(jax.checkpoint(loss) if remat else loss), (None, 0))
            return jax.jit(jax.vmap(inner))(w, x)

        ours, theirs = gradients("cpu", True), gradients("reference", False)
        np.testing.assert_allclose(ours, theirs, atol=5e-6 * float(jnp.abs(theirs).max()))


SHARDED = {
    "depthwise": ((3, 3, 1, 16), 1, 16),
    "depthwise stride 2": ((3, 3, 1, 16), 2, 16),
    "depthwise in pieces": ((7, 3, 1, 16), 1, 16),
    "1x1": ((1, 1, 16, 8), 2, 1),
    "grouped": ((3, 3, 4, 16), 1, 4),
}


@pytest.mark.parametrize("kernel, strides, groups", SHARDED.values(), ids=SHARDED)
def test_a_sharded_batch_stays_where_it_is(monkeypatch, kernel, strides, groups):
    monkeypatch.setattr(cpu, "MOST_TAPS", 10)
    mesh = Mesh(np.asarray(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    x = jax.ShapeDtypeStruct((16, 16, 16, 16), jnp.float32, sharding=split)
    w = jax.ShapeDtypeStruct(kernel, jnp.float32, sharding=whole)
    loss = lambda w, x: jnp.square(convolve(x, w, strides, "SAME", 1, groups, implementation="cpu")).sum()
    compiled = jax.jit(jax.grad(loss, (0, 1)), out_shardings=(whole, split)).lower(w, x).compile().as_text()
    found = re.findall(r" (all-gather|all-to-all|all-reduce|collective-permute)(?:-start)?\(", compiled)
    assert len(jax.devices()) == 8 and found == ["all-reduce"]


@pytest.mark.parametrize("checked", [True, False])
def test_a_kernel_shared_inside_shard_map_gets_the_gradient_of_all_shards(checked):
    mesh = Mesh(np.asarray(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    x, w = normal(0, 8, 6, 5, 4), normal(1, 3, 3, 1, 4)
    loss = lambda w, x: jnp.square(jnp.tanh(depthwise_conv(x, w))).sum()
    if checked:
        spread = jax.shard_map(lambda w, x: jax.lax.psum(loss(w, x), "data"), mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
        ours = jax.jit(jax.grad(spread))(w, x)
    else:
        part = lambda w, x: jax.lax.psum(jax.grad(loss)(w, x), "data")
        ours = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False))(w, x)
    np.testing.assert_allclose(ours, jax.grad(loss)(w, x), rtol=2e-5)


def test_the_platform_of_the_lowering_chooses_not_the_one_that_traces():
    x, w = jax.ShapeDtypeStruct((2, 16, 16, 8), jnp.float32), jax.ShapeDtypeStruct((3, 3, 1, 8), jnp.float32)
    step = jax.jit(jax.grad(lambda x, w: depthwise_conv(x, w).sum(), (0, 1)))
    count = lambda *platforms: export.export(step, platforms=platforms)(x, w).mlir_module().count("stablehlo.convolution")
    plain = jax.jit(jax.grad(lambda x, w: depthwise_conv(x, w, implementation="reference").sum(), (0, 1)))
    on_tpu = export.export(plain, platforms=("tpu",))(x, w).mlir_module().count("stablehlo.convolution")
    assert (count("cpu"), count("tpu"), count("cuda"), count("cpu", "tpu")) == (0, on_tpu, on_tpu, on_tpu) and on_tpu >= 2


def test_a_short_convolution_is_left_to_the_compiler(monkeypatch):
    monkeypatch.undo()
    text = lambda side: jax.jit(depthwise_conv).lower(jnp.zeros((1, side, side, 8)), jnp.zeros((3, 3, 1, 8))).as_text()
    assert "stablehlo.convolution" in text(8) and "stablehlo.convolution" not in text(64)


def test_an_exported_program_takes_any_batch_and_any_size():
    batch, side = export.symbolic_shape("b, s")
    w, x = normal(1, 7, 7, 1, 8), normal(0, 3, 9, 9, 8)
    for shape in ((batch, 9, 9, 8), (batch, side, side, 8)):
        exported = export.export(jax.jit(lambda x: depthwise_conv(x, w, padding=3)))(jax.ShapeDtypeStruct(shape, jnp.float32))
        np.testing.assert_allclose(exported.call(x), depthwise_conv(x, w, implementation="reference"), atol=1e-4)


def test_a_kernel_that_does_not_fit_gives_an_empty_map():
    assert depthwise_conv(jnp.ones((2, 3, 3, 4)), jnp.ones((5, 5, 1, 4)), padding=0).shape == (2, 0, 0, 4)
    assert conv(jnp.ones((2, 3, 3, 4)), jnp.ones((4, 4, 4, 4)), 4, 0).shape == (2, 0, 0, 4)


def test_wrong_shapes_and_implementations_are_one_clear_line():
    x = jnp.zeros((1, 8, 8, 4))
    with pytest.raises(ModelError, match=r"of 4 channels has shape \(kh, kw, 1, 4\), not \(3, 3, 1, 8\)"):
        depthwise_conv(x, jnp.zeros((3, 3, 1, 8)))
    with pytest.raises(ModelError, match=r"in 1 groups reads 5 channels .* but the image has 4 channels"):
        conv(x, jnp.zeros((3, 3, 5, 8)))
    with pytest.raises(ModelError, match="conv has no implementation 'cup'; did you mean 'cpu'"):
        conv(x, jnp.zeros((3, 3, 4, 8)), implementation="cup")

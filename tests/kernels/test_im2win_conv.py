"""Convolution by windows of rows: the layout, agreement with `lax` of both forms and all gradients, and the memory of the paper's table."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ModelError
from jaxvision.kernels.geometry import geometry
from jaxvision.kernels.im2win_conv import im2col, im2win, im2win_conv, of_strips, tpu, window_order
from jaxvision.kernels.im2win_conv.bench import LAYERS
from tests.kernels.slices import slice_mesh
from tests.kernels.test_convolutions import normal, worst

CASES = {
    "3x3": ((2, 7, 9, 4), (3, 3, 4, 6), {}),
    "bands": ((1, 8, 9, 3), (1, 4, 3, 5), {"padding": (0, 2)}),
    "a stride beyond the kernel": ((2, 11, 10, 3), (2, 3, 3, 4), {"strides": (3, 4)}),
    "padded unevenly, dilated": ((1, 9, 8, 4), (3, 2, 4, 8), {"padding": ((2, 1), (0, 3)), "dilation": (2, 3)}),
    "stride 2": ((2, 9, 10, 3), (3, 3, 3, 4), {"strides": 2, "padding": 1}),
    "1x1, stride 2": ((1, 5, 6, 3), (1, 1, 3, 4), {"strides": 2}),
}


def plain(x, w, strides=1, padding=0, dilation=1, groups=1):
    where = geometry(x, w, strides, padding, dilation, groups)
    return jax.lax.conv_general_dilated(
        x, w, where.strides, where.padding, rhs_dilation=where.dilation, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        precision="highest",
    )  # fmt: skip


def maps(op, x, w):
    """The result and both gradients in a seeded direction."""
    value, pull = jax.vjp(op, x, w)
    return (value, *pull(normal(2, *value.shape, dtype=value.dtype)))


@pytest.mark.parametrize("image, kernel, options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("implementation", ["reference", "tpu"])
def test_both_forms_agree_with_lax_forward_and_in_both_gradients(implementation, image, kernel, options):
    x, w = normal(0, *image), normal(1, *kernel)
    ours = functools.partial(im2win_conv, **{"padding": 0, **options}, implementation=implementation)
    assert tpu.covers(x, w, geometry(x, w, options.get("strides", 1), options.get("padding", 0), options.get("dilation", 1), 1))
    expected = jax.jit(functools.partial(maps, functools.partial(plain, **options)))(x, w)
    assert worst(jax.jit(functools.partial(maps, ours))(x, w), expected) < 3e-6


def test_half_precision_sums_in_float32():
    x, w = normal(0, 1, 6, 7, 32, dtype=jnp.bfloat16), normal(1, 3, 3, 32, 16, dtype=jnp.bfloat16)
    ours = jax.jit(functools.partial(maps, functools.partial(im2win_conv, implementation="tpu")))(x, w)
    assert worst(ours, maps(plain, x.astype(jnp.float32), w.astype(jnp.float32))) < 2**-7


def test_groups_are_convolutions_of_their_own():
    x, w = normal(0, 1, 5, 6, 8), normal(1, 3, 3, 4, 6)
    np.testing.assert_allclose(im2win_conv(x, w, groups=2), plain(x, w, groups=2), atol=1e-5)
    with pytest.raises(ModelError, match="reads 12 channels"):
        im2win_conv(x, w, groups=3)


def test_the_next_window_is_the_same_memory_a_stride_of_columns_further_on():
    x = jnp.arange(2 * 6 * 7 * 3, dtype=jnp.float32).reshape(2, 6, 7, 3)
    kernel = jax.ShapeDtypeStruct((3, 2, 3, 1), jnp.float32)
    where = geometry(x, kernel, (2, 2), 0, 1, 1)
    strips = im2win(x, where)
    assert strips.shape == (2, 2, 7, 9)
    windows = im2col(x, where).reshape(2, 2, 3, 3, 2, 3)  # rows and columns of outputs, then of taps, then channels
    for j in range(3):
        window = strips.reshape(2, 2, -1)[..., j * 2 * 9 : j * 2 * 9 + 18].reshape(2, 2, 2, 3, 3)
        np.testing.assert_array_equal(window.swapaxes(2, 3), windows[:, :, j])


def test_strips_take_the_memory_of_the_paper_s_table():
    """Numbers of one image, and the share of unrolled windows."""
    published = {1: 412_005, 2: 426_888, 3: 529_137, 4: 10_938_368, 5: 230_400, 6: 92_160, 7: 447_552, 8: 2_365_440, 9: 580_608, 10: 279_552,
                 11: 129_024, 12: 53_760}  # fmt: skip
    for number, (channels, side, _, kernel, stride) in enumerate(LAYERS, 1):
        x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
        where = geometry(x, jax.ShapeDtypeStruct((kernel, kernel, channels, 1), jnp.float32), stride, 0, 1, 1)
        strips, windows = (jax.eval_shape(lambda x, make=make, where=where: make(x, where), x).size for make in (im2win, im2col))
        assert strips == published[number]
        assert strips / windows == pytest.approx(side / (kernel * where.output[1]))


@pytest.mark.parametrize("number", [5, 12])
def test_a_compiled_layer_needs_less_temporary_memory_than_with_unrolled_windows(number):
    channels, side, features, kernel, stride = LAYERS[number - 1]
    x, w = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32), jax.ShapeDtypeStruct((kernel, kernel, channels, features), jnp.float32)
    where = geometry(x, w, stride, 0, 1, 1)
    by_strips = lambda x, w: of_strips(jax.lax.optimization_barrier(im2win(x, where)), w, stride)
    by_windows = lambda x, w: jax.lax.optimization_barrier(im2col(x, where)) @ w
    ordered, matrix = jax.eval_shape(window_order, w), jax.ShapeDtypeStruct((kernel * kernel * channels, features), jnp.float32)
    ours, theirs = (jax.jit(f).lower(x, k).compile().memory_analysis().temp_size_in_bytes for f, k in ((by_strips, ordered), (by_windows, matrix)))
    assert ours < 0.6 * theirs


def test_a_batch_cut_along_the_context_mesh_stays_where_it_is_and_agrees():
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    x, w = normal(0, 4, 5, 6, 8), normal(1, 3, 3, 8, 4)
    loss = lambda w, x, implementation: jnp.square(jnp.tanh(im2win_conv(x, w, implementation=implementation))).sum()
    with jax.set_mesh(mesh):
        grad = jax.jit(jax.grad(functools.partial(loss, implementation="tpu"), (0, 1)), in_shardings=(whole, split), out_shardings=(whole, split))
        ours, text = grad(w, x), grad.lower(w, x).compile().as_text()
    assert worst(ours, jax.grad(functools.partial(loss, implementation="reference"), (0, 1))(w, x)) < 1e-5
    assert not re.findall(r" (all-gather|all-to-all)(?:-start)?\(", text)


@pytest.mark.aot
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number, dtype", [(5, jnp.bfloat16), (8, jnp.float32), (1, jnp.bfloat16)])
def test_layers_compile_for_tpus_with_their_gradients_and_cut_along_the_batch(number, dtype):
    channels, side, features, kernel, stride = LAYERS[number - 1]
    for chips in ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"):
        mesh = slice_mesh(chips)
        split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
        x = jax.ShapeDtypeStruct((2 * mesh.size, side, side, channels), dtype)
        w = jax.ShapeDtypeStruct((kernel, kernel, channels, features), dtype)
        loss = lambda w, x: jnp.square(im2win_conv(x, w, stride).astype(jnp.float32)).sum()
        with jax.set_mesh(mesh):
            jitted = jax.jit(jax.grad(loss, (0, 1)), in_shardings=(whole, split), out_shardings=(whole, split))
            text = jitted.trace(w, x).lower(lowering_platforms=("tpu",)).compile().as_text()
        assert text.count("tpu_custom_call") >= 2, chips
        assert not re.findall(r" (all-gather|all-to-all)(?:-start)?\(", text), chips

"""Depthwise convolution as banded matrix products: the kernels interpreted against `lax`, how they are cut, and that they compile for TPUs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from jaxvision.kernels.depthwise_conv import bands, depthwise_conv
from jaxvision.kernels.geometry import geometry
from tests.kernels.slices import slice_mesh
from tests.kernels.test_convolutions import maps, normal, worst

FIELDS = ("forward", "input_grad", "weight_grad")
BAND = 9 * 2**17
CASES = {
    "whole image, 3x3": ((5, 7, 16), (3, 3), dict(), bands.BUDGET, jnp.float32),
    "bfloat16, 3x5": ((7, 5, 16), (3, 5), dict(padding=(1, 2)), bands.BUDGET, jnp.bfloat16),
    "stride 2, channels that fill no group": ((7, 6, 12), (3, 3), dict(strides=2, padding=1), bands.BUDGET, jnp.float32),
    "in strips, dilated": ((16, 8, 8), (3, 2), dict(dilation=(2, 1), padding=((2, 2), (1, 0))), BAND, jnp.float32),
}


@pytest.fixture
def budget(monkeypatch):
    def limit(size):
        monkeypatch.setattr(bands, "BUDGET", size)
        clear()

    yield limit
    clear()


def clear():
    bands.band.cache_clear()
    bands.pieces.cache_clear()


@pytest.mark.parametrize("image, kernel, options, size, dtype", CASES.values(), ids=CASES)
def test_banded_products_agree_with_lax_forward_and_in_both_gradients(budget, image, kernel, options, size, dtype):
    budget(size)
    x, w = normal(0, 128, *image, dtype=dtype), normal(1, *kernel, 1, image[-1], dtype=dtype)
    op = functools.partial(depthwise_conv, **options)
    where = geometry(x, w, options.get("strides", 1), options.get("padding", "SAME"), options.get("dilation", 1), image[-1])
    assert bands.covers(x, w, where)
    one, strip = bands.band(where, jnp.dtype(dtype), "forward")
    assert (strip < one.blocks) == (size == BAND)
    wide = maps(op, x.astype(jnp.float32), w.astype(jnp.float32), "reference")
    assert worst(maps(op, x, w, "tpu"), wide) < (2e-6 if dtype == jnp.float32 else 2**-7)


def test_a_tall_kernel_goes_by_a_few_rows_at_a_time_and_agrees(budget):
    """9 rows on 9: some see a part of the image alone, and a part of the result sees nothing of some."""
    budget(9 * 2**16)
    x, w = normal(0, 128, 9, 4, 8), normal(1, 9, 1, 1, 8)
    parts = bands.pieces(geometry(x, w, 1, "SAME", 1, 8), x.dtype, "forward")
    assert len(parts) > 1 and any(any(part.unseen) for part in parts) and any(any(part.unmade) for part in parts)
    assert worst(maps(depthwise_conv, x, w, "tpu"), maps(depthwise_conv, x, w, "reference")) < 2e-6


def covered(batch, side, channels, kernel, dtype=jnp.bfloat16, **options):
    x, w = jax.ShapeDtypeStruct((batch, side, side, channels), dtype), jax.ShapeDtypeStruct((kernel, kernel, 1, channels), dtype)
    return bands.covers(x, w, geometry(x, w, options.get("strides", 1), "SAME", options.get("dilation", 1), channels))


def test_what_has_no_full_lanes_of_examples_is_left_to_the_compiler():
    assert all(covered(128, side, channels, 7) for side, channels in ((56, 96), (28, 192), (14, 384), (7, 768)))
    assert covered(256, 56, 144, 3, strides=2) and covered(128, 14, 384, 3, dilation=2)
    assert covered(128, 56, 128, 31) and covered(128, 14, 512, 27)
    assert not covered(64, 14, 384, 7) and not covered(128, 14, 384, 7, dtype=jnp.float16) and not covered(128, 14, 8, 7)
    assert not covered(128, 160, 32, 3)


def test_tpus_take_the_kernels_only_for_maps_that_they_are_ahead_at():
    def kernels(side, channels, kernel):
        shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((128, side, side, channels), (kernel, kernel, 1, channels))]
        maps = jax.grad(lambda x, w: jnp.square(depthwise_conv(x, w)).astype(jnp.float32).sum(), (0, 1))
        text = jax.jit(maps).trace(*shapes).lower(lowering_platforms=("tpu",)).as_text()
        return text.count("tpu_custom_call")

    assert [kernels(56, 16, 7), kernels(28, 16, 7), kernels(14, 16, 7), kernels(14, 16, 9), kernels(14, 16, 5)] == [3, 2, 0, 3, 0]


def test_a_batch_cut_along_the_context_mesh_stays_where_it_is_and_agrees():
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    x, w = normal(0, 256, 3, 4, 8), normal(1, 3, 3, 1, 8)
    loss = lambda implementation, w, x: jnp.square(jnp.tanh(depthwise_conv(x, w, implementation=implementation))).sum()
    with jax.set_mesh(mesh):
        grad = jax.jit(jax.grad(functools.partial(loss, "tpu"), (0, 1)), in_shardings=(whole, split), out_shardings=(whole, split))
        ours = grad(w, x)
        text = grad.lower(w, x).compile().as_text()
    for a, b in zip(ours, jax.grad(functools.partial(loss, "reference"), (0, 1))(w, x)):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))
    assert set(re.findall(r" (all-gather|all-to-all|all-reduce|collective-permute)(?:-start)?\(", text)) == {"all-reduce"}


@pytest.mark.aot
@pytest.mark.timeout(300)
@pytest.mark.parametrize("chips", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_it_compiles_for_a_slice_without_moving_the_batch(chips):
    mesh = slice_mesh(chips)
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    x = jax.ShapeDtypeStruct((128 * mesh.size, 14, 14, 64), jnp.bfloat16)
    w = jax.ShapeDtypeStruct((9, 9, 1, 64), jnp.bfloat16)

    def gradients(w, x):
        one = lambda w, x: jnp.square(depthwise_conv(x, w).astype(jnp.float32)).sum()
        # Mapped over groups of examples as well, as gradients of many groups are.
        mapped = jax.vmap(jax.grad(one), (None, 0))(w, x.reshape(mesh.size, 128, *x.shape[1:]))
        return jax.grad(one, (0, 1))(w, x), mapped.sum(0)

    with jax.set_mesh(mesh):
        jitted = jax.jit(gradients, in_shardings=(whole, split), out_shardings=((whole, split), whole))
        text = jitted.trace(w, x).lower(lowering_platforms=("tpu",)).compile().as_text()
    assert text.count("tpu_custom_call") >= 3
    assert not re.findall(r" (all-gather|all-to-all)(?:-start)?\(", text)


@pytest.mark.aot
@pytest.mark.timeout(300)
@pytest.mark.parametrize("chips", ["v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:1x1", "tpu7x:2x2x1"])
def test_the_31x31_of_replknet_compiles_in_pieces(chips):
    """Map and kernel of its first stage: both passes, a few rows of the kernel at a time, each within the memory of any chip."""
    device = SingleDeviceSharding(slice_mesh(chips).devices[0])
    x, w = jax.ShapeDtypeStruct((128, 56, 56, 16), jnp.bfloat16), jax.ShapeDtypeStruct((31, 31, 1, 16), jnp.bfloat16)
    gradients = jax.grad(lambda x, w: jnp.square(depthwise_conv(x, w).astype(jnp.float32)).sum(), (0, 1))
    jitted = jax.jit(gradients, in_shardings=device, out_shardings=device)
    text = jitted.trace(x, w).lower(lowering_platforms=("tpu",)).compile().as_text()
    parts = [len(bands.pieces(geometry(x, w, 1, "SAME", 1, 16), jnp.dtype(jnp.bfloat16), field)) for field in FIELDS]
    assert min(parts) > 1 and text.count('"tpu_custom_call"') == sum(parts)

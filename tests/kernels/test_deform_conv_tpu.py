"""The square deformable convolution as matrix products: the kernels interpreted against shifts, what they cover, and that they compile for TPUs."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from jaxvision.kernels.deform_conv import square_deform_conv, tpu
from jaxvision.train.preflight.topology import open_topology
from tests.kernels.slices import slice_mesh
from tests.kernels.test_convolutions import normal, worst


@functools.partial(jax.jit, static_argnames=("bound", "low", "implementation"))
def maps(x, scale, kernel, slope, bound, low, implementation):
    """The value and the gradients of everything."""
    y, pull = jax.vjp(functools.partial(square_deform_conv, bound=bound, low=low, implementation=implementation), x, scale, kernel)
    return y, *pull(slope.astype(y.dtype))


def arrays(b, h, w, c, bound, low, dtype=jnp.float32):
    """Image, scale, kernel and a cotangent; some radii are whole numbers, where the derivative is that of a growing one."""
    scale = low + (bound - low) * jax.random.uniform(jax.random.key(7), (b, h, w, 1))
    scale = jnp.where(jax.random.bernoulli(jax.random.key(8), 0.2, scale.shape), jnp.round(scale), scale)
    return normal(0, b, h, w, c, dtype=dtype), scale, normal(1, 3, 3, 1, c, dtype=dtype), normal(2, b, h, w, c)


# (image), bound, low, dtype, blocks
CASES = {
    "an odd image as a whole, bfloat16": ((2, 7, 6, 16), 4, 0, jnp.bfloat16, 1),
    "in blocks of rows that see a part of it, radii of both signs": ((1, 29, 16, 16), 2, -3, jnp.float32, 4),
}


@pytest.mark.parametrize("image, bound, low, dtype, blocks", CASES.values(), ids=CASES)
def test_products_agree_with_shifts_in_value_and_in_all_gradients(monkeypatch, image, bound, low, dtype, blocks):
    monkeypatch.setattr(tpu, "PIXELS", 128)
    given = arrays(*image, bound, low, dtype)
    assert tpu.covers(*given[:3], bound=bound, low=low) and tpu.blocks_of(*image[1:3], bound, low).count == blocks
    wide = tuple(v.astype(jnp.float32) for v in given)
    expected = maps(*wide, bound, low, "shifted")
    assert worst(maps(*given, bound, low, "tpu"), expected) < (2e-6 if dtype == jnp.float32 else 2**-7)


def test_channels_that_do_not_fit_on_chip_at_once_are_divided_among_calls(monkeypatch):
    given = arrays(2, 5, 6, 32, 4, 0)
    blocks = tpu.blocks_of(5, 6, 4, 0)
    assert tpu.parts_of(blocks, 32, 4) == 1
    monkeypatch.setattr(tpu, "BUDGET", tpu._bytes(blocks, 16, 4))
    assert tpu.parts_of(blocks, 32, 4) == 2
    assert worst(maps(*given, 4, 0, "tpu"), maps(*given, 4, 0, "shifted")) < 2e-6


def test_maps_of_the_published_decoder_are_covered_and_others_go_by_shifts():
    def covered(side, channels, dtype=jnp.bfloat16):
        shapes = (8, side, side, channels), (8, side, side, 1), (3, 3, 1, channels)
        return tpu.covers(*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes), bound=8, low=0)

    assert all(covered(*shape) for shape in ((16, 512), (16, 1024), (17, 512), (32, 256), (34, 256), (64, 128)))
    assert covered(16, 1024, jnp.float32) and covered(64, 128, jnp.float32)
    assert not covered(16, 20) and not covered(16, 512, jnp.float16) and not covered(128, 512)


@pytest.mark.aot
@pytest.mark.timeout(300)
def test_the_first_map_of_the_published_decoder_compiles_in_float32_for_the_smallest_chip():
    shapes = (16, 16, 1024), (16, 16, 1), (3, 3, 1, 1024)
    x, scale, kernel = (jax.ShapeDtypeStruct((2, *shape) if len(shape) == 3 else shape, jnp.float32) for shape in shapes)
    device = SingleDeviceSharding(open_topology("v4:2x2x1").devices[0])
    gradients = jax.grad(lambda x, scale, kernel: jnp.square(square_deform_conv(x, scale, kernel)).sum(), (0, 1, 2))
    jitted = jax.jit(gradients, in_shardings=device, out_shardings=device)
    assert jitted.trace(x, scale, kernel).lower(lowering_platforms=("tpu",)).compile().as_text().count('"tpu_custom_call"') == 4


@pytest.mark.aot
@pytest.mark.timeout(300)
@pytest.mark.parametrize("chips", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_they_compile_for_a_slice_without_moving_the_batch(chips):
    mesh = slice_mesh(chips)
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    shapes = [jax.ShapeDtypeStruct((2 * mesh.size, 64, 64, c), dtype) for c, dtype in ((128, jnp.bfloat16), (1, jnp.float32))]
    kernel = jax.ShapeDtypeStruct((3, 3, 1, 128), jnp.bfloat16)

    def gradients(kernel, x, scale):
        loss = lambda kernel, x, scale: jnp.square(square_deform_conv(x, scale, kernel).astype(jnp.float32)).sum()
        return jax.grad(loss, (0, 1, 2))(kernel, x, scale)

    with jax.set_mesh(mesh):
        jitted = jax.jit(gradients, in_shardings=(whole, split, split), out_shardings=(whole, split, split))
        text = jitted.trace(kernel, *shapes).lower(lowering_platforms=("tpu",)).compile().as_text()
    assert text.count('"tpu_custom_call"') == 2
    assert set(re.findall(r" (all-gather|all-to-all|all-reduce|collective-permute)(?:-start)?\(", text)) == {"all-reduce"}

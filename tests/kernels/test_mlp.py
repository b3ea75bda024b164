"""The perceptron as one op: the kernel for TPUs, interpreted, against two dense layers in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ModelError
from jaxvision.kernels import row_blocks
from jaxvision.kernels.mlp import channels, examples, gelu, inner, mlp_branch, tpu
from jaxvision.models import beit, convit, convnext, create_model, swin, vit
from jaxvision.nn import mlp
from jaxvision.nn.attention import Attention
from jaxvision.train.preflight.topology import open_topology


def given(batch=128, side=(3, 2), width=16, hidden=48, dtype=jnp.float32):
    """x, w1, b1, w2, b2, shift, factor, skip."""
    keys = jax.random.split(jax.random.key(0), 8)
    shapes = ((width, hidden), (hidden,), (hidden, width), (width,), (width,))
    rest = [jax.random.normal(key, shape) * scale for key, shape, scale in zip(keys[1:], shapes, (0.4, 0.5, 0.2, 0.5, 0.3))]
    x, skip = (jax.random.normal(key, (batch, *side, width)).astype(dtype) for key in (keys[0], keys[6]))
    return x, *rest, jnp.where(jax.random.bernoulli(keys[7], 0.7, (batch,)), 1 / 0.7, 0.0), skip


def branch(x, w1, b1, w2, b2, shift, factor, skip=None, **options):
    return mlp_branch(x, w1, b1, w2, b2, shift=shift, factor=factor, skip=skip, **options)


def value_and_gradients(arrays, implementation, epsilon=None):
    weight = jax.random.normal(jax.random.key(7), arrays[0].shape)

    def loss(*arrays):
        y = branch(*arrays, epsilon=epsilon, implementation=implementation)
        return jnp.sum(weight * y.astype(jnp.float32)), y

    gradients, y = jax.jit(jax.grad(loss, tuple(range(len(arrays))), has_aux=True))(*arrays)
    return y, *gradients


def compared(arrays, epsilon, tolerance):
    # Without a skip the branch is added to its own input.
    for given in (arrays, arrays[:-1]):
        _compared(given, epsilon, tolerance)


def _compared(arrays, epsilon, tolerance):
    exact = value_and_gradients([a.astype(jnp.float32) for a in arrays], "reference", epsilon)
    ours = value_and_gradients(arrays, "tpu", epsilon)
    assert not ours[1 + 6].any()  # no gradient goes through the examples' factors
    for found, theirs in zip(ours, exact, strict=True):
        assert found.shape == theirs.shape
        np.testing.assert_allclose(found.astype(jnp.float32), theirs, atol=tolerance * float(jnp.abs(theirs).max()))


PRECISIONS = pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])


@pytest.mark.parametrize("side, width", [((3, 2), 16), ((5, 5), 32), ((4, 4), 48)])
@pytest.mark.parametrize("epsilon", [None, 1e-6])
@PRECISIONS
def test_the_kernel_with_examples_in_the_lanes_agrees_with_dense_layers(side, width, dtype, tolerance, epsilon):
    arrays = given(side=side, width=width, dtype=dtype)
    assert examples.covers(*arrays) and not channels.covers(*arrays)
    compared(arrays, epsilon, tolerance)


@pytest.mark.parametrize(
    "batch, side, width, hidden",
    [
        (16, (3, 3), 256, 512), (48, (2, 1), 384, 256), (30, (2, 2), 256, 256),  # maps; the last one's blocks reach beyond the examples
        (2, (26,), 384, 512), (3, (125,), 256, 256), (4, (16,), 256, 256),  # sequences; blocks reach beyond 26 tokens, and beyond 125
    ],
)  # fmt: skip
@pytest.mark.parametrize("epsilon", [None, 1e-6])
@PRECISIONS
def test_the_kernel_with_channels_in_the_lanes_agrees_with_dense_layers(batch, side, width, hidden, dtype, tolerance, epsilon, monkeypatch):
    monkeypatch.setattr(row_blocks, "ROWS", 64)  # several blocks along both axes
    arrays = given(batch, side, width, hidden, dtype)
    assert channels.covers(*arrays) and not examples.covers(*arrays)
    compared(arrays, epsilon, tolerance)


def test_gelu_by_tanh_is_the_exact_one_to_less_than_a_16_bit_step():
    x = jnp.linspace(-40, 40, 100_001)
    ours = x * inner.share_below(x, jnp.bfloat16)
    assert float(jnp.abs(ours - gelu(x)).max()) < 5.6e-5


def test_forward_derivatives_of_the_kernel():
    arrays = given()
    push = lambda name: jax.jvp(lambda x: branch(x, *arrays[1:], implementation=name), (arrays[0],), (jnp.ones_like(arrays[0]),))
    for ours, theirs in zip(push("tpu"), push("reference")):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_no_kernel_covers_is_dense_layers():
    for arrays in (given(batch=3), given(width=20), given(batch=8, width=256, hidden=256), given(2, (9,), 256, 256)):
        assert not tpu.covers(*arrays)
        np.testing.assert_array_equal(*(jax.jit(branch, static_argnames="implementation")(*arrays, implementation=n) for n in ("tpu", "reference")))


def test_shapes_that_do_not_go_together_are_one_line():
    x, w1, b1, w2, b2, *rest = given(batch=2)
    with pytest.raises(ModelError, match=r"the branch of a perceptron takes values \(b, …, c\), .* not \(2, 3, 2, 16\), \(48, 16\)"):
        branch(x, w2, b1, w1, b2, *rest)
    with pytest.raises(ModelError, match=r"a skip \(b, …, c\), not .*, \(1,\), \(2, 3, 2, 16\)$"):
        branch(x, w1, b1, w2, b2, rest[0], rest[1][:1], rest[2])
    with pytest.raises(ModelError, match="no implementation 'gpu'"):
        branch(x, w1, b1, w2, b2, *rest, implementation="gpu")


def test_convnext_in_float32_is_as_it_was_and_in_16_bits_the_op_carries_its_blocks():
    def primitives(dtype):
        model = create_model("convnext_atto", depths=(1, 1, 1, 1), image_size=(32, 32), dtype=dtype)
        image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
        variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(image.shape), train=False))
        return str(jax.make_jaxpr(lambda variables, image: model.apply(variables, image, train=False))(variables, image))

    assert "mlp_branch[" not in primitives(jnp.float32)
    assert primitives(jnp.bfloat16).count("mlp_branch[") == 3  # stages of 40, 80, 160 and 320 channels


BLOCKS = {
    "convnext": lambda rate: (convnext.ConvNeXtBlock(rate, 0.5, dtype=jnp.bfloat16), (4, 6, 6, 16), ()),
    "vit": lambda rate: (vit.Block(4, 256, layer_scale=0.5, dtype=jnp.bfloat16), (4, 16, 256), (rate,)),
    "beit": lambda rate: (beit.BeitBlock(4, (5, 3), 256, 0.0, 0.5, jnp.bfloat16), (4, 16, 256), (jnp.float32(rate),)),
    "convit": lambda rate: (convit.Block(4, functools.partial(Attention, 4, dtype=jnp.bfloat16), rate, dtype=jnp.bfloat16), (4, 16, 256), ()),
    "swin": lambda rate: (swin.SwinBlock(2, (3, 3), (0, 0), 4.0, rate, jnp.bfloat16), (4, 6, 6, 32), ()),
}


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_that_computes_its_branch_as_one_op_is_the_same_block(name, rate, monkeypatch):
    block, shape, args = BLOCKS[name](rate)
    x = jax.random.normal(jax.random.key(0), shape).astype(jnp.bfloat16)
    variables = block.init(jax.random.key(1), x, *args, False)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), variables["params"])
    run = lambda params, **options: block.apply({"params": params}, x, *args, True, rngs={"dropout": jax.random.key(2)}, **options)
    loss = lambda params: (jnp.square(y := run(params).astype(jnp.float32)).mean(), y)
    ops = lambda **options: str(jax.make_jaxpr(functools.partial(run, **options))(params)).count("mlp_branch[")
    assert (ops(), ops(capture_intermediates=True), ops(mutable="taps")) == (1, 0, 0)  # who looks inside gets every layer
    together = jax.grad(loss, has_aux=True)(params)
    for module in (convnext, mlp):
        monkeypatch.setattr(module, "ahead", lambda x: False)
    apart = jax.grad(loss, has_aux=True)(params)
    assert ops() == 0
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=0.02 * float(jnp.abs(b).max()))
    jax.tree.map(close, together, apart)
    if name == "convnext":  # which has no other branch
        dropped = [bool((one == own).all()) for one, own in zip(together[1], x.astype(jnp.float32))]
        assert any(dropped) == (rate > 0) and not all(dropped)


CHIPS = ("v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:1x1", "tpu7x:2x2x1")


@pytest.mark.aot
@pytest.mark.timeout(300)
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("side, width", [((28, 28), 192), ((14, 14), 384), ((28, 28), 256), ((197,), 384), ((577,), 384)])
def test_it_compiles(chip, side, width):
    open_topology("v5e:1x1")  # loads the compiler, which knows chips that preflight has no data sheet of
    one = SingleDeviceSharding(topologies.get_topology_desc(chip, "tpu").devices[0])
    arrays = jax.eval_shape(lambda: given(side=side, width=width, hidden=4 * width, dtype=jnp.bfloat16))
    loss = lambda *arrays: jnp.square(branch(*arrays, epsilon=1e-6)).astype(jnp.float32).mean()
    gradients = jax.jit(jax.grad(loss, (*range(6), 7)), in_shardings=one, out_shardings=one)
    text = gradients.trace(*arrays).lower(lowering_platforms=("tpu",)).compile().as_text()
    assert text.count('"tpu_custom_call"') == 2


@pytest.mark.aot
@pytest.mark.timeout(300)
@pytest.mark.parametrize("side, width", [((14, 14), 96), ((14, 14), 384), ((197,), 384)])
def test_a_sharded_batch_stays_where_it_is_and_weights_sum_their_gradients(side, width):
    devices = open_topology("v5e:2x2").devices
    mesh = jax.make_mesh((4, 1, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices)
    arrays = jax.eval_shape(lambda: given(batch=512, side=side, width=width, hidden=4 * width, dtype=jnp.bfloat16))
    lie = tuple(NamedSharding(mesh, P("data") if x.shape[0] == 512 else P()) for x in arrays)
    loss = lambda *arrays: jnp.square(branch(*arrays)).astype(jnp.float32).mean()
    with jax.set_mesh(mesh):
        placed = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s) for x, s in zip(arrays, lie)]
        text = jax.jit(jax.grad(loss, (*range(6), 7)), in_shardings=lie, out_shardings=(*lie[:6], lie[7])).lower(*placed).compile().as_text()
    assert text.count('"tpu_custom_call"') == 2 and " all-reduce" in text
    assert not any(f" {name}" in text for name in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"))

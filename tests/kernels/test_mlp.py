"""The perceptron as one op: the kernel for TPUs, interpreted, against two dense layers in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ModelError
from jaxvision.kernels.mlp import gelu, mlp, tpu
from jaxvision.models import convnext, create_model
from jaxvision.train.preflight.topology import open_topology


def given(batch=128, side=(3, 2), channels=16, hidden=48, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = ((channels, hidden), (hidden,), (hidden, channels), (channels,))
    rest = [jax.random.normal(key, shape) * scale for key, shape, scale in zip(keys[1:], shapes, (0.4, 0.5, 0.2, 0.5))]
    return jax.random.normal(keys[0], (batch, *side, channels)).astype(dtype), *rest


def value_and_gradients(arrays, implementation, epsilon=None):
    weight = jax.random.normal(jax.random.key(7), arrays[0].shape)

    def loss(*arrays):
        y = mlp(*arrays, epsilon=epsilon, implementation=implementation)
        return jnp.sum(weight * y.astype(jnp.float32)), y

    gradients, y = jax.jit(jax.grad(loss, tuple(range(5)), has_aux=True))(*arrays)
    return y, *gradients


@pytest.mark.parametrize("side, channels", [((3, 2), 16), ((5, 5), 32), ((4, 4), 48)])
@pytest.mark.parametrize("epsilon", [None, 1e-6])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])
def test_the_kernel_agrees_with_two_dense_layers(side, channels, dtype, tolerance, epsilon):
    arrays = given(side=side, channels=channels, dtype=dtype)
    assert tpu.covers(*arrays)
    exact = value_and_gradients((arrays[0].astype(jnp.float32), *arrays[1:]), "reference", epsilon)
    for ours, theirs in zip(value_and_gradients(arrays, "tpu", epsilon), exact, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=tolerance * float(jnp.abs(theirs).max()))


def test_gelu_by_tanh_is_the_exact_one_to_less_than_a_16_bit_step():
    x = jnp.linspace(-40, 40, 100_001)
    ours = x * tpu._below(x, jnp.bfloat16)
    assert float(jnp.abs(ours - gelu(x)).max()) < 5.6e-5


def test_forward_derivatives_of_the_kernel():
    arrays = given()
    push = lambda name: jax.jvp(lambda x: mlp(x, *arrays[1:], implementation=name), (arrays[0],), (jnp.ones_like(arrays[0]),))
    for ours, theirs in zip(push("tpu"), push("reference")):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_the_kernel_does_not_cover_is_two_dense_layers():
    for arrays in (given(batch=3), given(channels=20)):
        assert not tpu.covers(*arrays)
        np.testing.assert_array_equal(*(jax.jit(mlp, static_argnames="implementation")(*arrays, implementation=n) for n in ("tpu", "reference")))


def test_shapes_that_do_not_go_together_are_one_line():
    x, w1, b1, w2, b2 = given(batch=2)
    with pytest.raises(ModelError, match=r"a perceptron takes values \(b, …, c\), .* not \(2, 3, 2, 16\), \(48, 16\)"):
        mlp(x, w2, b1, w1, b2)
    with pytest.raises(ModelError, match="no implementation 'gpu'"):
        mlp(x, w1, b1, w2, b2, implementation="gpu")


def test_convnext_in_float32_is_as_it_was_and_in_16_bits_the_op_carries_its_blocks():
    def primitives(dtype):
        model = create_model("convnext_atto", depths=(1, 1, 1, 1), image_size=(32, 32), dtype=dtype)
        image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
        return str(jax.make_jaxpr(lambda image: model.init_with_output(jax.random.key(0), image, train=False)[0])(image))

    assert " mlp[" not in primitives(jnp.float32)
    assert primitives(jnp.bfloat16).count(" mlp[") == 3  # stages of 40, 80, 160 and 320 channels


def test_a_block_that_computes_norm_and_layer_scale_with_its_perceptron_is_the_same_block(monkeypatch):
    block = convnext.ConvNeXtBlock(layer_scale=0.5, dtype=jnp.bfloat16)
    image = jax.random.normal(jax.random.key(0), (2, 6, 6, 16)).astype(jnp.bfloat16)
    variables = block.init(jax.random.key(1), image, False)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), variables["params"])
    loss = lambda params: jnp.square(block.apply({"params": params}, image, False).astype(jnp.float32)).mean()
    together = jax.value_and_grad(loss)(params)
    monkeypatch.setattr(convnext, "ahead", lambda x: False)
    apart = jax.value_and_grad(loss)(params)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=0.02 * float(jnp.abs(b).max()))
    jax.tree.map(close, together, apart)


CHIPS = ("v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:1x1", "tpu7x:2x2x1")


@pytest.mark.aot
@pytest.mark.timeout(300)
@pytest.mark.parametrize("chip", CHIPS)
def test_it_compiles(chip):
    open_topology("v5e:1x1")  # loads the compiler, which knows chips that preflight has no data sheet of
    one = SingleDeviceSharding(topologies.get_topology_desc(chip, "tpu").devices[0])
    arrays = jax.eval_shape(lambda: given(side=(28, 28), channels=192, hidden=768, dtype=jnp.bfloat16))
    loss = lambda *arrays: jnp.square(mlp(*arrays, epsilon=1e-6)).astype(jnp.float32).mean()
    gradients = jax.jit(jax.grad(loss, tuple(range(5))), in_shardings=one, out_shardings=one)
    text = gradients.trace(*arrays).lower(lowering_platforms=("tpu",)).compile().as_text()
    assert text.count('"tpu_custom_call"') == 2


@pytest.mark.aot
@pytest.mark.timeout(300)
def test_a_sharded_batch_stays_where_it_is_and_weights_sum_their_gradients():
    devices = open_topology("v5e:2x2").devices
    mesh = jax.make_mesh((4, 1, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices)
    arrays = jax.eval_shape(lambda: given(batch=512, side=(14, 14), channels=96, hidden=384, dtype=jnp.bfloat16))
    lie = tuple(NamedSharding(mesh, spec) for spec in (P("data"), P(), P(), P(), P()))
    loss = lambda *arrays: jnp.square(mlp(*arrays)).astype(jnp.float32).mean()
    with jax.set_mesh(mesh):
        placed = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s) for x, s in zip(arrays, lie)]
        text = jax.jit(jax.grad(loss, tuple(range(5))), in_shardings=lie, out_shardings=lie).lower(*placed).compile().as_text()
    assert text.count('"tpu_custom_call"') == 2 and " all-reduce" in text
    assert not any(f" {name}" in text for name in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"))

"""Norm and product as one op: the kernel for TPUs, interpreted, against two ops in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ModelError
from jaxvision.kernels import row_blocks
from jaxvision.kernels.norm_dense import ahead, norm_dense, tpu
from jaxvision.models import beit, vit
from jaxvision.nn import attention
from jaxvision.train.preflight.topology import open_topology


def given(batch=2, side=(26,), width=128, features=384, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (batch, *side, width), dtype) + 1, jax.random.normal(keys[1], (width, features)) * 0.1


def value_and_gradients(x, w, implementation):
    weight = jax.random.normal(jax.random.key(7), (*x.shape[:-1], w.shape[1]))

    def loss(x, w):
        y = norm_dense(x, w, epsilon=1e-6, implementation=implementation)
        return jnp.sum(weight * y.astype(jnp.float32)), y

    gradients, y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, w)
    return y, *gradients


@pytest.mark.parametrize(
    "batch, side, width, features",
    [(2, (26,), 384, 1152), (3, (125,), 128, 256), (4, (16,), 256, 640), (16, (2, 3), 128, 384), (30, (2,), 128, 128)],
)
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])
def test_the_kernel_agrees_with_two_ops(batch, side, width, features, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(row_blocks, "ROWS", 64)  # several blocks along both axes
    x, w = given(batch, side, width, features, dtype)
    assert tpu.covers(x, w, 1e-6) == (side != (2,))  # sequences of two tokens leave the blocks empty
    exact, ours = value_and_gradients(x.astype(jnp.float32), w, "reference"), value_and_gradients(x, w, "tpu")
    for found, theirs in zip(ours, exact, strict=True):
        assert found.shape == theirs.shape
        np.testing.assert_allclose(found.astype(jnp.float32), theirs, atol=tolerance * float(jnp.abs(theirs).max()))


def test_forward_derivatives_of_the_kernel():
    x, w = given()
    push = lambda name: jax.jvp(lambda x: norm_dense(x, w, epsilon=1e-6, implementation=name), (x,), (jnp.cos(x),))
    for ours, theirs in zip(push("tpu"), push("reference")):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_is_too_large_is_two_ops():
    x, w = given(width=512, features=1536)
    assert not tpu.covers(x, w, 1e-6) and not ahead(x.astype(jnp.bfloat16), 1536)
    run = jax.jit(norm_dense, static_argnames=("epsilon", "implementation"))
    np.testing.assert_array_equal(*(run(x, w, epsilon=1e-6, implementation=name) for name in ("tpu", "reference")))


def test_shapes_that_do_not_go_together_are_one_line():
    x, w = given()
    with pytest.raises(ModelError, match=r"takes values \(b, …, c\) and weights \(c, d\), not \(2, 26, 128\), \(384, 128\)"):
        norm_dense(x, w.T, epsilon=1e-6)
    with pytest.raises(ModelError, match="no implementation 'gpu'"):
        norm_dense(x, w, epsilon=1e-6, implementation="gpu")


BLOCKS = {
    "vit": lambda: vit.Block(4, 64, layer_scale=0.5, dtype=jnp.bfloat16),
    "without biases": lambda: vit.Block(4, 64, qkv_bias=False, dtype=jnp.bfloat16),
    "beit": lambda: beit.BeitBlock(4, (5, 3), 64, 0.0, 0.5, jnp.bfloat16),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_whose_norm_and_projection_are_one_op_is_the_same_block(name, monkeypatch):
    block, x = BLOCKS[name](), jax.random.normal(jax.random.key(0), (4, 16, 128)).astype(jnp.bfloat16)
    variables = block.init(jax.random.key(1), x, None, False)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), variables["params"])
    run = lambda params, **options: block.apply({"params": params}, x, None, True, **options)
    loss = lambda params: (jnp.square(y := run(params).astype(jnp.float32)).mean(), y)
    ops = lambda **options: str(jax.make_jaxpr(lambda params: run(params, **options))(params)).count("norm_dense[")
    assert (ops(), ops(capture_intermediates=True), ops(mutable="taps")) == (1, 0, 0)  # who looks inside gets every layer
    together = jax.grad(loss, has_aux=True)(params)
    monkeypatch.setattr(attention, "ahead", lambda x, features: False)
    assert ops() == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.02 * float(jnp.abs(b).max())), together, jax.grad(loss, has_aux=True)(params))


@pytest.mark.aot
@pytest.mark.timeout(300)
@pytest.mark.parametrize("chip", ["v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:1x1", "tpu7x:2x2x1"])
@pytest.mark.parametrize("tokens", [197, 577])
def test_it_compiles(chip, tokens):
    open_topology("v5e:1x1")  # loads the compiler, which knows chips that preflight has no data sheet of
    one = SingleDeviceSharding(topologies.get_topology_desc(chip, "tpu").devices[0])
    arrays = jax.eval_shape(lambda: given(128, (tokens,), 384, 1152, jnp.bfloat16))
    loss = lambda *arrays: jnp.square(norm_dense(*arrays, epsilon=1e-6)).astype(jnp.float32).mean()
    gradients = jax.jit(jax.grad(loss, (0, 1)), in_shardings=one, out_shardings=one)
    text = gradients.trace(*arrays).lower(lowering_platforms=("tpu",)).compile().as_text()
    assert text.count('"tpu_custom_call"') == 2


@pytest.mark.aot
@pytest.mark.timeout(300)
def test_a_sharded_batch_stays_where_it_is_and_weights_sum_their_gradients():
    devices = open_topology("v5e:2x2").devices
    mesh = jax.make_mesh((4, 1, 1), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices)
    arrays = jax.eval_shape(lambda: given(512, (197,), 384, 1152, jnp.bfloat16))
    lie = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    loss = lambda *arrays: jnp.square(norm_dense(*arrays, epsilon=1e-6)).astype(jnp.float32).mean()
    with jax.set_mesh(mesh):
        placed = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s) for x, s in zip(arrays, lie)]
        text = jax.jit(jax.grad(loss, (0, 1)), in_shardings=lie, out_shardings=lie).lower(*placed).compile().as_text()
    assert text.count('"tpu_custom_call"') == 2 and " all-reduce" in text
    assert not any(f" {name}" in text for name in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"))

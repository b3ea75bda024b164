"""Fused residual blocks: folding, agreement with the block and with the model, borders and strips."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.errors import ModelError
from jaxvision.kernels.conv_block import Settings, Weights, conv_block, fold_convfirst, fold_convnext, tpu
from jaxvision.models.convnext import ConvNeXtBlock
from tests.kernels.slices import slice_mesh
from tests.kernels.test_convolutions import normal
from tests.models.test_convfirst import block


def weights_of(channels, group, kernel, wide, dtype=jnp.float32):
    shapes = ((kernel, kernel, group, channels), (channels,), (channels, wide), (wide,), (wide, channels), (channels,))
    arrays = [normal(i, *shape) / np.sqrt(np.prod(shape[:-1])) for i, shape in enumerate(shapes)]
    return Weights(*(a.astype(dtype) if a.ndim > 1 else a for a in arrays))


CASES = {
    "groups of 8, bfloat16": ((16, 5, 4, 16), 8, 3, Settings(), jnp.bfloat16, tpu.BUDGET, 2**-6),
    "two blocks of channels": ((8, 3, 3, 256), 32, 3, Settings(), jnp.float32, tpu.BUDGET, 1e-5),
    "depthwise 5x5, norm, GELU, in strips": ((8, 7, 3, 8), 1, 5, Settings("gelu", 1e-6), jnp.float32, 900_000, 1e-5),
}


@pytest.mark.parametrize("shape, group, kernel, settings, dtype, budget, limit", CASES.values(), ids=CASES)
def test_the_fused_kernel_agrees_with_the_layers_one_by_one(monkeypatch, shape, group, kernel, settings, dtype, budget, limit):
    monkeypatch.setattr(tpu, "BUDGET", budget)
    x, weights = normal(9, *shape, dtype=dtype), weights_of(shape[-1], group, kernel, 2 * shape[-1], dtype)
    assert tpu.covers(x, weights, settings) and (tpu.strip(shape, weights, dtype) < shape[1]) == (budget != 13 * 2**20)
    ours = conv_block(x, weights, settings, implementation="tpu")
    theirs = conv_block(x.astype(jnp.float32), Weights(*(w.astype(jnp.float32) for w in weights)), settings, implementation="reference")
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=limit * float(jnp.abs(theirs).max()))


def test_folded_weights_compute_what_the_blocks_of_the_models_do():
    x = normal(0, 8, 4, 5, 16)
    for module, fold, settings in (
        (block(16, expansion=2), lambda v: fold_convfirst(v["params"], v["batch_stats"], jnp.float32), Settings()),
        (ConvNeXtBlock(layer_scale=0.5), lambda v: fold_convnext(v["params"], jnp.float32), Settings("gelu", 1e-6)),
    ):
        variables = module.init(jax.random.key(0), x, False)
        variables = jax.tree.map(lambda leaf: leaf + 0.1 * normal(leaf.size, *leaf.shape) ** 2, dict(variables))
        expected = module.apply(variables, x, False)
        np.testing.assert_allclose(conv_block(x, fold(variables), settings), expected, atol=2e-5 * float(jnp.abs(expected).max()))


def test_kernels_that_do_not_fit_are_one_clear_line():
    with pytest.raises(ModelError, match=r"a block of 8 channels has kernels \(k, k, g, 8\), \(8, e\), \(e, 8\), not"):
        conv_block(jnp.zeros((8, 4, 4, 8)), weights_of(16, 8, 3, 32))
    with pytest.raises(ModelError, match="conv_block has no implementation 'tpv'; did you mean 'tpu'"):
        conv_block(jnp.zeros((8, 4, 4, 16)), weights_of(16, 8, 3, 32), implementation="tpv")


def shapes(batch):
    """Image and weights of a ConvFirst block of 64 channels."""
    weights = weights_of(64, 8, 3, 256, jnp.bfloat16)
    return jax.ShapeDtypeStruct((batch, 14, 14, 64), jnp.bfloat16), jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), weights)


@pytest.mark.aot
@pytest.mark.timeout(300)
@pytest.mark.parametrize("chips", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_the_kernel_compiles_for_a_slice_without_moving_the_batch(chips):
    mesh = slice_mesh(chips)
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    x, weights = shapes(16 * mesh.size)
    with jax.set_mesh(mesh):
        jitted = jax.jit(lambda x, w: conv_block(x, w, implementation="tpu"), in_shardings=(split, whole), out_shardings=split)
        text = jitted.trace(x, weights).lower(lowering_platforms=("tpu",)).compile().as_text()
    assert text.count('"tpu_custom_call"') == 1
    assert not re.findall(r" (all-gather|all-to-all|all-reduce|collective-permute)(?:-start)?\(", text)

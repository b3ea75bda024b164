"""Inverted residuals at inference: folding, agreement with the block, and what keeps the layers apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.kernels.mbconv import Settings, Weights, fold_mbconv, mbconv
from jaxvision.nn.conv import Conv
from jaxvision.nn.inverted_residual import InvertedResidual
from jaxvision.nn.norm import BatchNorm
from tests.kernels.test_convolutions import normal


@pytest.mark.parametrize("features, kernel, stride", [(8, 5, 1), (12, 3, 2)])
def test_a_folded_inverted_residual_computes_what_the_block_does(features, kernel, stride):
    conv, norm = functools.partial(Conv, use_bias=False), functools.partial(BatchNorm, epsilon=1e-3)
    # Its stride 2 pads as this library's layers do, half of the kernel on each side.
    module, x = InvertedResidual(features, 24, kernel, stride, conv, norm, jax.nn.relu6), normal(0, 2, 6, 5, 8)
    variables = module.init(jax.random.key(0), x, False)
    variables = jax.tree.map(lambda leaf: leaf + 0.3 * normal(leaf.size, *leaf.shape) ** 2, dict(variables))
    expected = module.apply(variables, x, False)
    weights = fold_mbconv(variables["params"], variables["batch_stats"], jnp.float32, 1e-3)
    ours = mbconv(x, weights, Settings("relu6", stride))
    np.testing.assert_allclose(ours, expected, atol=2e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("kernel, rows, on_tpu", [(3, 28, 0), (5, 28, 3), (3, 14, 3)])
def test_the_layers_are_kept_apart_on_request_and_for_wide_kernels_or_small_images_on_tpus(kernel, rows, on_tpu):
    weights = Weights(*(normal(i, *shape) for i, shape in enumerate(((8, 16), (16,), (kernel, kernel, 8, 16), (16,), (16, 8), (8,)))))

    def barriers(choice, platform):
        traced = jax.jit(lambda x: mbconv(x, weights, implementation=choice)).trace(normal(9, 2, rows, 4, 8))
        return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.optimization_barrier")

    assert [barriers(choice, "tpu") for choice in (None, "reference", "layers")] == [on_tpu, 0, 3]
    assert barriers(None, "cpu") == 0


def test_kernels_that_do_not_fit_are_one_clear_line():
    weights = Weights(*(jnp.zeros(shape) for shape in ((8, 16), (16,), (3, 3, 1, 16), (16,), (16, 8), (8,))))
    with pytest.raises(ModelError, match=r"a block of 8 channels has kernels \(8, e\), \(k, k, g, e\), \(e, d\), not"):
        mbconv(jnp.zeros((1, 4, 4, 8)), weights._replace(conv=jnp.zeros((3, 3, 1, 8))))
    with pytest.raises(ModelError, match="mbconv has no implementation 'layer'; did you mean 'layers'"):
        mbconv(jnp.zeros((1, 4, 4, 8)), weights, implementation="layer")

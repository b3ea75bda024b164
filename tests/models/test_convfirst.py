"""ConvFirstNet: counts of the author's block, what a block computes, sizes, and its two relatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.complexity import complexity
from jaxvision.models.convfirst import BLOCKS, ConvFirstNet, Residual
from jaxvision.models.registry import count_parameters, create_model, shapes_of
from jaxvision.nn.conv import Conv
from jaxvision.nn.norm import BatchNorm
from tests.kernels.test_convolutions import normal

SMALL = {"num_classes": 10, "image_size": (32, 40), "depths": (1, 2), "dims": (16, 24), "stem": 8, "hidden": 32}


def block(features: int, layers: str = "convfirst", **fields) -> Residual:
    return Residual(features, layers, lambda *args, **kw: Conv(*args, use_bias=False, **kw), lambda **kw: BatchNorm(**kw), **fields)


@pytest.mark.parametrize("channels, expansion, parameters", [(64, 6, 54_784), (64, 4, 38_144), (128, 4, 141_824)])
def test_a_block_has_the_reference_s_number_of_parameters(channels, expansion, parameters):
    module, x = block(channels, expansion=expansion), jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    assert len(jax.tree.leaves(variables["batch_stats"])) == 2 * 3


def test_a_block_is_a_grouped_convolution_then_two_pointwise_layers_with_one_activation():
    x, module = normal(0, 2, 5, 7, 16), block(16, expansion=2)
    variables = module.init(jax.random.key(0), x, False)
    variables = jax.tree.map(lambda leaf: leaf + 0.1 * normal(leaf.size, *leaf.shape) ** 2, variables)

    def norm(y, name):
        scale, stats = variables["params"][name], variables["batch_stats"][name]
        return (y - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * scale["scale"] + scale["bias"]

    kernel = variables["params"]["conv"]["kernel"]
    padded = np.pad(np.asarray(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((2, 5, 7, 16))
    for out in range(16):
        first = out // 8 * 8
        for i in range(3):
            for j in range(3):
                y[..., out] += padded[:, i : i + 5, j : j + 7, first : first + 8] @ kernel[i, j, :, out]
    y = norm(y, "conv_norm")
    y = norm(y @ variables["params"]["expand"]["kernel"][0, 0], "expand_norm")
    y = norm(y / (1 + np.exp(-y)) @ variables["params"]["project"]["kernel"][0, 0], "project_norm")
    np.testing.assert_allclose(module.apply(variables, x, False), x + y, atol=2e-5)


def test_a_block_that_changes_shape_has_no_shortcut():
    for module, shape in ((block(16, strides=2), (2, 3, 4, 16)), (block(24), (2, 5, 7, 24))):
        x = normal(0, 2, 5, 7, 16)
        variables = module.init(jax.random.key(0), x, False)
        silent = jax.tree_util.tree_map_with_path(lambda path, leaf: 0 * leaf if "project_norm" in str(path) else leaf, variables["params"])
        y = module.apply({**variables, "params": silent}, x, False)
        assert y.shape == shape and not np.asarray(y).any()


def test_multiply_adds_of_the_two_sizes_and_their_parameters():
    assert [count_parameters(f"convfirstnet_{size}") for size in ("tiny", "small")] == [7_578_184, 11_516_744]
    assert complexity(create_model("convfirstnet_tiny")).flops == 1_034_549_248


@pytest.mark.parametrize("kind", BLOCKS)
def test_stages_have_strides_4_and_8_and_the_logits_are_float32(kind):
    model = ConvFirstNet(**SMALL, block=kind, dtype=jnp.bfloat16)
    image = jax.ShapeDtypeStruct((2, 32, 40, 3), jnp.float32)
    variables = jax.eval_shape(lambda image: model.init(jax.random.key(0), image), image)
    maps = jax.eval_shape(lambda v, image: model.apply(v, image, method="stages"), variables, image)
    logits = jax.eval_shape(lambda v, image: model.apply(v, image), variables, image)
    assert [m.shape for m in maps] == [(2, 8, 10, 16), (2, 4, 5, 24)] and maps[0].dtype == jnp.bfloat16
    assert logits.shape == (2, 10) and logits.dtype == jnp.float32


def test_a_kind_or_a_width_that_does_not_exist_is_one_clear_line():
    with pytest.raises(ModelError, match=r"model\.block 'convfist' is unknown; did you mean 'convfirst'"):
        shapes_of(ConvFirstNet(**SMALL, block="convfist"))
    with pytest.raises(ModelError, match=r"model\.group_width=5 does not divide the 8 channels"):
        shapes_of(ConvFirstNet(**SMALL, group_width=5))

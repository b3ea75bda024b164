import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.registry import count_parameters, create_model, shapes_of
from jaxvision.models.resnetv2 import CHECKPOINT, ResNetV2
from jaxvision.nn.group_norm import GroupNorm
from tests.models.convnet_golden import worst_error

SHALLOW = {"depths": (1, 1, 1, 1), "num_classes": 10}


def test_bit_with_standardized_filters_and_zero_padded_pool_agrees_with_timm_at_an_odd_size():
    model = create_model("resnetv2_50x1_bit", image_size=(65, 49), widths=(128, 128, 256, 256), **SHALLOW)
    assert worst_error("resnetv2", "bit", model, CHECKPOINT["torch"]) < 1e-4


def test_basic_blocks_with_tiered_stem_and_averaging_shortcut_agree_with_timm():
    model = create_model("resnetv2_18", image_size=(64, 45), widths=(64, 64, 128, 128), stem="tiered", avg_down=True, **SHALLOW)
    assert worst_error("resnetv2", "basic_tiered", model, CHECKPOINT["torch"]) < 1e-4


def test_twice_the_width_doubles_every_map():
    model = create_model("resnetv2_152x2_bit", num_classes=0, depths=(1, 1, 1, 1), dtype=jnp.bfloat16)
    variables, image = shapes_of(model), jax.ShapeDtypeStruct((1, 225, 97, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="stages"), variables, image)
    assert [m.shape for m in maps] == [(1, 57, 25, 512), (1, 29, 13, 1024), (1, 15, 7, 2048), (1, 8, 4, 4096)]
    features = jax.eval_shape(model.apply, variables, image)
    assert features.shape == (1, 4096) and features.dtype == jnp.float32


@pytest.mark.parametrize("name, millions", [("resnetv2_50x2_bit", 98), ("resnetv2_101x2_bit", 173)])
def test_networks_of_twice_the_width_have_the_published_size(name, millions):
    assert abs(count_parameters(name) / 1e6 - millions) < 1


def test_a_dropped_branch_leaves_the_shortcut_and_so_does_a_fresh_block_on_request():
    image = jnp.asarray(np.random.RandomState(0).standard_normal((4, 32, 32, 3)), jnp.float32)
    tiny = {"depths": (1, 1), "widths": (32, 32), "bottleneck": False, "norm": "group", "num_classes": 3, "image_size": (32, 32)}

    @jax.jit
    def run(key, image):
        def last_map(variables, **settings):
            return ResNetV2(**tiny, **settings).apply(variables, image, train=True, rngs={"dropout": key}, method="stages")[-1]

        kept = ResNetV2(**tiny).init(key, image)
        fresh = ResNetV2(**tiny, zero_init=True).init(key, image)["params"]["stages_1_0"]
        silent = {"params": {**kept["params"], "stages_1_0": {**kept["params"]["stages_1_0"], "conv2": fresh["conv2"]}}}
        return last_map(kept, drop_path=0.9999, remat=True), last_map(silent), last_map(kept)

    dropped, silent, kept = run(jax.random.key(0), image)
    np.testing.assert_allclose(dropped, silent, rtol=1e-4, atol=1e-4)
    assert np.abs(dropped - kept).max() > 0.1


def test_unknown_choices_and_channels_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ModelError, match=r"model.norm 'grup' is unknown; did you mean 'group'"):
        shapes_of(ResNetV2(norm="grup"))
    with pytest.raises(ModelError, match="40 channels do not divide into 32 groups"):
        jax.eval_shape(GroupNorm().init, jax.random.key(0), jnp.zeros((1, 2, 2, 40)))

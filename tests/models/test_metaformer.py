import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.metaformer import CHECKPOINT, SIZE_DEPENDENT, VARIANTS, MetaFormer
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.models.token_mixers import MIXERS
from jaxvision.trees import named_leaves
from tests.models.convnet_golden import worst_error
from tests.reference_weights import filled, relative_error

SMALL = {"num_classes": 10, "depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64)}
HEADS = {**SMALL, "dims": (32, 64, 96, 128)}


@pytest.mark.parametrize(
    "case, name, size, fields",
    [
        ("poolformer", "poolformer_s12", (72, 56), SMALL),
        ("poolformerv2", "poolformerv2_s12", (64, 96), SMALL),
        ("convformer", "convformer_s18", (61, 45), SMALL),
        ("caformer", "caformer_s18", (72, 56), HEADS),
        ("official", "poolformer_s12", (64, 96), {**HEADS, "head_norm": "map"}),
        ("identity", "metaformer_id_s12", (64, 96), HEADS),
        ("pppa", "metaformer_pppa_s12_224", (64, 96), HEADS),
        ("ppaa", "metaformer_ppaa_s12_224", (64, 96), HEADS),
        ("ppff", "metaformer_ppff_s12_224", (64, 96), HEADS),
    ],
)
def test_logits_and_stages_agree_with_timm_and_with_the_official_code_where_timm_has_none(case, name, size, fields):
    model = create_model(name, image_size=size, **fields)
    assert worst_error("metaformer", case, model, CHECKPOINT["torch"]) < 1e-5


def test_the_five_poolformers_start_with_the_published_layer_scales_and_all_have_timm_s_head_order():
    scales = {size: VARIANTS[f"poolformer_{size}"].settings["layer_scale"] for size in ("s12", "s24", "s36", "m36", "m48")}
    assert scales == {"s12": 1e-5, "s24": 1e-5, "s36": 1e-6, "m36": 1e-6, "m48": 1e-6}
    assert MetaFormer().head_norm == "map" and create_model("poolformer_s12").head_norm == "pooled"


class Block:
    """What a mixer without parameters reads of its block."""

    pool_size, number = 3, 4


def test_pooling_averages_valid_neighbours_and_subtracts_the_pixel():
    x = np.random.RandomState(0).standard_normal((2, 5, 7, 3)).astype(np.float32)
    expected = np.empty_like(x)
    for i in range(5):
        for j in range(7):
            neighbours = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            expected[:, i, j] = neighbours.mean((1, 2)) - x[:, i, j]
    np.testing.assert_allclose(MIXERS["pool"](Block, jnp.asarray(x), False), expected, atol=1e-6)
    np.testing.assert_allclose(MIXERS["pool"](Block, jnp.ones((1, 5, 7, 3)), False), 0, atol=1e-6)


def test_random_mixing_is_frozen_averages_the_map_and_differs_between_blocks():
    ones = jnp.ones((1, 4, 3, 2))
    np.testing.assert_allclose(MIXERS["random"](Block, ones, False), ones, atol=1e-6)
    one_pixel = ones.at[0, 1:].set(0.0).at[0, :, 1:].set(0.0)
    here = MIXERS["random"](Block, one_pixel, False)
    assert float(here.min()) > 0 and float(here.max()) < 0.2 and float(jnp.ptp(here)) > 0.01
    next_block = type("NextBlock", (Block,), {"number": 5})
    assert float(jnp.abs(MIXERS["random"](next_block, one_pixel, False) - here).max()) > 0.01
    assert not [name for name in named_leaves(shapes_of(create_model("randformer_s12"))) if "token_mixer" in name]


def test_group_norm_of_one_group_is_not_layer_norm():
    fields = {"num_classes": 0, "depths": (1,), "dims": (8,), "mixers": ("pool",), "layer_scale": 1.0, "image_size": (16, 16)}
    group, layer = MetaFormer(**fields), MetaFormer(**fields, norm="layer", epsilon=1e-5)
    variables = filled(group, CHECKPOINT["torch"])
    image = np.random.RandomState(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    one, other = jax.jit(lambda v, x: (group.apply(v, x), layer.apply(v, x)))(variables, image)
    assert relative_error(one, other) > 0.1


def test_the_order_of_norm_and_mean_changes_features_by_one_positive_factor_an_example():
    fields = {"num_classes": 0, "depths": (1,), "dims": (8,), "mixers": ("identity",), "image_size": (16, 16)}
    official, timm = MetaFormer(**fields), MetaFormer(**fields, head_norm="pooled")
    variables = official.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    image = np.random.RandomState(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    mean_first, norm_first = jax.jit(lambda v, x: (timm.apply(v, x), official.apply(v, x)))(variables, image)
    centred = norm_first - norm_first.mean(1, keepdims=True)
    factors = np.asarray(mean_first / centred)
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1], factors.shape), rtol=1e-3)
    assert (factors > 1.05).all()


def test_position_maps_are_resized_and_spatial_layers_refuse():
    def resize(name, value, old, new):
        (function,) = [function for pattern, function in SIZE_DEPENDENT if re.fullmatch(pattern, name)]
        return function(value, old, new)

    old, new = (create_model("metaformer_pppa_s12_224", image_size=side) for side in ((224, 224), (448, 224)))
    assert new.map_of(3) == (14, 7)
    value = np.broadcast_to(np.arange(7, dtype=np.float32)[None, :, None, None], (1, 7, 7, 2))
    resized = resize("stages_3/pos_embed", value, old, new)
    expected = np.clip((np.arange(14) + 0.5) / 2 - 0.5, 0, 6)
    np.testing.assert_allclose(resized, np.broadcast_to(expected[None, :, None, None], (1, 14, 7, 2)), atol=1e-5)

    old, new = (create_model("metaformer_ppff_s12_224", image_size=side) for side in (224, 192))
    assert resize("stages_2/blocks_0/token_mixer/fc/kernel", value, old, old) is value
    with pytest.raises(ModelError, match="14x14 and cannot be resized to 12x12"):
        resize("stages_2/blocks_0/token_mixer/fc/kernel", value, old, new)
    image = jax.ShapeDtypeStruct((1, 192, 224, 3), jnp.float32)
    with pytest.raises(ModelError, match="built for maps of 14x14"):
        jax.eval_shape(old.apply, shapes_of(old), image)


def test_recomputed_blocks_give_the_same_logits_and_drop_path_changes_them_in_training_only():
    fields = {"num_classes": 3, "depths": (1, 1), "dims": (8, 8), "mixers": ("sep_conv", "attention"), "res_scale": None, "head_dim": 4}
    image = np.random.RandomState(0).standard_normal((2, 24, 16, 3)).astype(np.float32)
    plain, recomputing, dropping = (create_model("caformer_s18", **fields, **more) for more in ({}, {"remat": True}, {"drop_path": 0.9}))
    variables, rngs = filled(plain, CHECKPOINT["torch"]), {"dropout": jax.random.key(1)}
    logits = jax.jit(
        lambda v, x: (plain.apply(v, x), recomputing.apply(v, x, train=True), dropping.apply(v, x), dropping.apply(v, x, train=True, rngs=rngs))
    )(variables, image)
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)
    np.testing.assert_allclose(logits[2], logits[0], atol=1e-5)
    assert float(jnp.abs(logits[3] - logits[0]).max()) > 1e-2


def test_maps_keep_the_compute_type_and_attention_can_be_tapped():
    model = create_model("caformer_s18", num_classes=0, dtype=jnp.bfloat16, depths=(1, 1, 1, 1))
    variables, image = shapes_of(model), jax.ShapeDtypeStruct((2, 256, 160, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="stages"), variables, image)
    sizes = [(64, 40, 64), (32, 20, 128), (16, 10, 320), (8, 5, 512)]
    assert [(m.shape, m.dtype) for m in maps] == [((2, *size), jnp.bfloat16) for size in sizes]
    features, kept = jax.eval_shape(lambda v, x: model.apply(v, x, mutable="taps"), variables, image)
    assert features.shape == (2, 512) and features.dtype == jnp.float32
    assert kept["taps"]["stages_3"]["blocks_0"]["token_mixer"]["weights"][0].shape == (2, 16, 40, 40)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"mixers": ("pool", "pool", "pool", "atention")}, "did you mean 'attention'"),
        ({"mixers": ("pool",) * 3}, "model.mixers has 3 values"),
        ({"mixers": ("attention",) * 4, "dims": (48, 64, 96, 128)}, "multiple of model.head_dim=32"),
        ({"activation": "star"}, "did you mean 'star_relu'"),
        ({"norm": "batch"}, "there are: group, layer"),
        ({"head_norm": "before"}, "there are: map, pooled"),
        ({"image_size": (2, 224)}, "too small for patches of 7x7"),
    ],
)
def test_impossible_settings_are_one_clear_line(fields, message):
    with pytest.raises(ModelError, match=message):
        shapes_of(create_model("poolformer_s12", **fields))

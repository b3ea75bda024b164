import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.convnext import CHECKPOINT, GlobalResponseNorm
from jaxvision.models.registry import create_model, shapes_of
from tests.models.convnet_golden import worst_error
from tests.reference_weights import filled

SMALL = {"num_classes": 10, "depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64)}
TINY = {"num_classes": 3, "depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8), "image_size": (32, 32), "layer_scale": 1.0}


@pytest.mark.parametrize(
    "case, name, size, fields",
    [
        ("tiny", "convnext_tiny", (64, 96), {}),
        ("atto", "convnext_atto", (72, 56), {}),
        ("atto_ols", "convnext_atto_ols", (71, 45), {}),
        ("tiny_hnf", "convnext_tiny_hnf", (40, 33), {}),
        ("large_mlp", "convnext_large_mlp", (32, 64), {"head_hidden": 24}),
        ("v2_atto", "convnextv2_atto", (72, 56), {}),
        ("v2_tiny", "convnextv2_tiny", (64, 40), {}),
    ],
)
def test_logits_and_stages_agree_with_timm(case, name, size, fields):
    model = create_model(name, image_size=size, **SMALL, **fields)
    assert worst_error("convnext", case, model, CHECKPOINT["torch"]) < 1e-5


def test_global_response_norm_scales_by_share_of_norms_and_has_a_gradient_where_a_channel_is_dead():
    x = jnp.array([[[[3.0, 0.0, 1.0]], [[4.0, 0.0, 0.0]]]])
    norm = GlobalResponseNorm()
    variables = {"params": {"scale": jnp.array([2.0, 2.0, 2.0]), "bias": jnp.array([0.0, 0.5, 0.0])}}
    np.testing.assert_allclose(norm.apply(variables, x)[0, :, 0], [[3 + 2 * 3 * 2.5, 0.5, 1 + 2 * 0.5], [4 + 2 * 4 * 2.5, 0.5, 0]], rtol=1e-5)
    assert bool(jnp.isfinite(jax.grad(lambda x: norm.apply(variables, x).sum())(x)).all())


def test_recomputed_blocks_give_the_same_logits_and_drop_path_changes_them_in_training_only():
    image = np.random.RandomState(0).standard_normal((2, 33, 64, 3)).astype(np.float32)
    plain, recomputing, dropping = (create_model("convnext_tiny", **TINY, **fields) for fields in ({}, {"remat": True}, {"drop_path": 0.9}))
    variables, rngs = filled(plain, CHECKPOINT["torch"]), {"dropout": jax.random.key(1)}
    logits = jax.jit(
        lambda v, x: (plain.apply(v, x), recomputing.apply(v, x, train=True), dropping.apply(v, x), dropping.apply(v, x, train=True, rngs=rngs))
    )(variables, image)
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-6)
    np.testing.assert_allclose(logits[2], logits[0], atol=1e-6)
    assert float(jnp.abs(logits[3] - logits[0]).max()) > 1e-2


def test_maps_keep_the_compute_type_while_logits_and_features_are_float32():
    model = create_model("convnextv2_tiny", num_classes=0, dtype=jnp.bfloat16)
    variables, image = shapes_of(model), jax.ShapeDtypeStruct((2, 225, 97, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="stages"), variables, image)
    assert [(m.shape, m.dtype) for m in maps] == [
        ((2, side, other, dim), jnp.bfloat16) for side, other, dim in [(56, 24, 96), (28, 12, 192), (14, 6, 384), (7, 3, 768)]
    ]
    features = jax.eval_shape(model.apply, variables, image)
    assert features.shape == (2, 768) and features.dtype == jnp.float32


def test_every_block_can_be_tapped():
    model = create_model("convnext_tiny", **TINY)
    _, kept = jax.eval_shape(lambda v, x: model.apply(v, x, mutable="taps"), shapes_of(model), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    assert kept["taps"]["stages_2"]["blocks_0"]["out"][0].shape == (1, 2, 2, 8)


def test_an_image_smaller_than_the_last_stride_is_refused():
    with pytest.raises(ModelError, match="at least 32, got 31x64"):
        shapes_of(create_model("convnext_tiny", image_size=(31, 64)))
    with pytest.raises(ModelError, match="overlap_tiered"):
        shapes_of(create_model("convnext_tiny", stem="conv"))

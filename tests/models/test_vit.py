import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.interop import resize_variables
from jaxvision.models.registry import create_model
from jaxvision.models.scanned import stack_blocks, unstack_blocks
from jaxvision.models.vit import CHECKPOINT, SIZE_DEPENDENT
from tests.reference_weights import filled, relative_error

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "vit.npz"
TINY = {"num_classes": 5, "image_size": (6, 8), "patch": 2, "dim": 16, "depth": 2, "heads": 2}


def tiny(**fields):
    return create_model("vit_tiny_patch16_224", **{**TINY, **fields})


def image(*shape):
    return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


def started(model, x, seed=0):
    """Parameters as training might have left them: the head is not zero."""
    noise = np.random.RandomState(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    return jax.tree.map(lambda leaf: (0.3 * noise.standard_normal(leaf.shape)).astype(np.float32), shapes)


def apply(model, params, x, **options):
    """Compiled as a whole, which is quicker than operation by operation."""
    return jax.jit(lambda params, x: model.apply({"params": params}, x, **options))(params, x)


@pytest.mark.parametrize(
    "name, size, depth",
    [
        ("vit_tiny_patch16_224", (48, 80), 2),
        ("vit_small_patch8_224", (16, 24), 1),
        ("vit_medium_patch16_gap_240", (48, 80), 2),
        ("deit_tiny_distilled_patch16_224", (48, 80), 2),
        ("deit3_small_patch16_224", (48, 80), 2),
    ],
)
def test_outputs_and_stage_maps_are_those_of_timm(name, size, depth):
    golden = np.load(GOLDEN)
    model = create_model(name, num_classes=10, image_size=size, depth=depth)
    variables = filled(model, CHECKPOINT["torch"])
    logits, maps = jax.jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="stages")))(variables, image(2, *size, 3))
    assert relative_error(logits, golden[f"{name}/logits"]) < 1e-5
    assert len(maps) == depth
    for i, ours in enumerate(maps):
        assert relative_error(ours[..., :8], golden[f"{name}/stage{i}"]) < 1e-5


def test_distilled_logits_are_the_mean_of_the_two_heads():
    model, x = tiny(distilled=True), image(2, 6, 8, 1)
    params = started(model, x)
    one, two = apply(model, params, x, method="token_logits")
    assert float(jnp.abs(one - two).max()) > 1e-2
    np.testing.assert_allclose(apply(model, params, x), (one + two) / 2, atol=1e-5)


def test_scan_and_remat_change_neither_outputs_nor_gradients():
    x = image(2, 6, 8, 3)
    plain = tiny(layer_scale=0.5)
    params = started(plain, x)
    loss = lambda model: jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(model.apply({"params": p}, x, train=True)))))
    value, grads = loss(plain)(params)
    again, again_grads = loss(tiny(layer_scale=0.5, remat=True))(params)
    scanned, scanned_grads = loss(tiny(layer_scale=0.5, remat=True, scan=True))(stack_blocks(params))
    np.testing.assert_allclose([again, scanned], [value, value], rtol=1e-5)
    for other in (again_grads, unstack_blocks(scanned_grads)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, dict(other))
    maps = apply(plain, params, x, method="stages")
    scanned_maps = apply(tiny(layer_scale=0.5, scan=True), stack_blocks(params), x, method="stages")
    for a, b in zip(maps, scanned_maps, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_compute_keeps_float32_parameters_and_logits():
    x = image(2, 6, 8, 3)
    params = started(tiny(), x)
    half = tiny(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(half.init, jax.random.key(0), x))} == {jnp.dtype("float32")}
    logits, exact = apply(half, params, x), apply(tiny(), params, x)
    assert logits.dtype == jnp.float32
    assert 0 < relative_error(logits, exact) < 0.05


@pytest.mark.parametrize("scan", [False, True])
def test_drop_path_and_dropout_act_in_training_only(scan):
    model, x = tiny(drop_path=0.5, dropout=0.2, pos_drop=0.1, scan=scan), image(2, 6, 8, 3)
    params = started(model, x)
    run = jax.jit(lambda key: model.apply({"params": params}, x, train=True, rngs={"dropout": key}))
    one, two = run(jax.random.key(1)), run(jax.random.key(2))
    assert float(jnp.abs(one - two).max()) > 1e-3
    np.testing.assert_array_equal(one, run(jax.random.key(1)))
    np.testing.assert_allclose(apply(model, params, x), apply(tiny(scan=scan), params, x), rtol=1e-5)


def test_drop_path_rises_with_depth_and_keeps_the_branch_on_average():
    model, x = tiny(drop_path=0.5), np.repeat(image(1, 6, 8, 3), 2048, axis=0)
    params = started(model, x[:1])
    first, last = apply(model, params, x, train=True, rngs={"dropout": jax.random.key(0)}, method="stages")
    np.testing.assert_allclose(first, np.broadcast_to(first[:1], first.shape), atol=1e-5)  # the first block's rate is 0
    added = np.asarray(last - first)[:, 0, 0, 0]
    assert len(np.unique(np.round(added, 3))) == 4  # each of the last block's two branches is kept or not
    _, second = np.unique(np.round(added, 3), return_counts=True)
    assert second.min() > 2048 * 0.2 and second.max() < 2048 * 0.3


def test_taps_are_attention_weights_that_sum_to_one_and_only_on_request():
    model, x = tiny(), image(2, 6, 8, 3)
    assert set(jax.eval_shape(model.init, jax.random.key(0), x)) == {"params"}
    params = started(model, x)
    logits, kept = apply(model, params, x, mutable="taps")
    (weights,) = kept["taps"]["blocks_1"]["attn"]["weights"]
    assert weights.shape == (2, 2, 13, 13)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(logits, apply(model, params, x), rtol=1e-4)
    _, kept = apply(tiny(scan=True), stack_blocks(params), x, mutable="taps")
    np.testing.assert_allclose(kept["taps"]["blocks"]["attn"]["weights"][0][1], weights, atol=1e-5)


def test_big_vision_form_pools_all_tokens_and_takes_any_multiple_of_the_patch():
    model = tiny(class_token=False, pool="avg", position="sincos2d", rep_size=12)
    params = started(model, image(1, 6, 8, 3))
    assert "pos_embed" not in params and params["head"]["kernel"].shape == (12, 5)
    assert jax.eval_shape(model.apply, {"params": params}, image(2, 10, 4, 3)).shape == (2, 5)
    features = tiny(class_token=False, pool="avg", position="sincos2d", rep_size=12, num_classes=0)
    pooled, x = np.asarray(apply(features, params, image(2, 6, 8, 3))), image(2, 6, 8, 3)
    np.testing.assert_allclose(apply(model, params, x), pooled @ params["head"]["kernel"] + params["head"]["bias"], atol=1e-4)
    mean = np.asarray(apply(features, params, x, method="tokens")).mean(1)
    np.testing.assert_allclose(pooled, np.tanh(mean @ params["pre_logits"]["kernel"] + params["pre_logits"]["bias"]), atol=1e-4)


def test_the_published_initialization_starts_with_zero_logits_and_deit_does_not():
    x = image(2, 6, 8, 3)
    start = lambda **fields: jax.jit(lambda: tiny(**fields).init_with_output(jax.random.key(0), x))()
    logits, _ = start()
    assert float(jnp.abs(logits).max()) == 0
    logits, variables = start(initializer="deit")
    assert 0.015 < float(variables["params"]["blocks_0"]["mlp"]["fc1"]["kernel"].std()) < 0.025
    assert float(jnp.abs(logits).max()) > 0


def test_a_dynamic_network_sees_another_size_as_one_built_for_it():
    model = tiny(dynamic_size=True)
    params = started(model, image(1, 6, 8, 3))
    other = tiny(image_size=(4, 4))
    fitted = resize_variables({"params": params}, model, other)["params"]
    assert fitted["pos_embed"].shape == (1, 5, 16)
    small = image(2, 4, 4, 3)
    np.testing.assert_allclose(apply(model, params, small), apply(other, fitted, small), atol=1e-5)


def test_position_rows_follow_their_patch_when_the_grid_grows():
    ((pattern, resize),) = SIZE_DEPENDENT
    assert pattern == "pos_embed"
    old, new = tiny(image_size=(6, 8)), tiny(image_size=(12, 16))
    table = np.concatenate([np.full((1, 1, 16), 7.0), np.broadcast_to(np.arange(12.0).reshape(1, 12, 1), (1, 12, 16))], axis=1).astype(np.float32)
    grown = resize(table, old, new)
    assert grown.shape == (1, 1 + 6 * 8, 16)
    np.testing.assert_array_equal(grown[0, 0], 7)
    rows = grown[0, 1:, 0].reshape(6, 8)
    assert (np.diff(rows[:, 3]) > 0).all() and (np.diff(rows[2]) > 0).all()
    np.testing.assert_allclose(rows.mean(), 5.5, atol=1e-4)


@pytest.mark.parametrize(
    "fields, size, words",
    [
        ({}, (6, 10), "create the model with image_size=(6, 10)"),
        ({}, (7, 8), "multiples"),
        ({"heads": 3}, (6, 8), "model.heads=3 does not divide model.dim=16"),
        ({"pool": "mean"}, (6, 8), "model.pool"),
        ({"class_token": False}, (6, 8), "needs model.class_token=True"),
        ({"dim": 18, "position": "sincos2d"}, (6, 8), "multiple of 4"),
    ],
)
def test_impossible_settings_and_sizes_are_one_line(fields, size, words):
    with pytest.raises(ModelError) as error:
        jax.eval_shape(tiny(**fields).init, jax.random.key(0), jnp.zeros((1, *size, 3)))
    assert words in str(error.value) and "\n" not in str(error.value)

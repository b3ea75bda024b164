import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.models.swin import CHECKPOINT, SIZE_DEPENDENT, SwinBlock
from jaxvision.trees import map_named, named_leaves
from tests.models.convnet_golden import worst_error
from tests.reference_weights import filled

SMALL = {"num_classes": 10, "dim": 16, "depths": (2, 2, 2, 1), "heads": (1, 2, 4, 8)}


@pytest.mark.parametrize(
    "case, name, size, fields",
    [
        ("window7", "swin_tiny_patch4_window7_224", (112, 84), {}),
        ("window3", "swin_tiny_patch4_window7_224", (96, 96), {"window": None}),
        ("s3", "swin_s3_tiny_224", (64, 72), {"window": (3, 5, 4, 2)}),
        ("another_size", "swin_tiny_patch4_window7_224", (64, 64), {"window": 3}),
    ],
)
def test_logits_and_stages_agree_with_timm(case, name, size, fields):
    model = create_model(name, image_size=size, **SMALL, **fields)
    assert worst_error("swin", case, model, CHECKPOINT["torch"]) < 1e-5


@pytest.mark.parametrize("side", [96, 160, 192, 224])
def test_windows_that_grow_with_the_image_tile_every_map(side):
    model = create_model("swin_tiny_patch4_window7_224", image_size=side, window=None)
    for stage in range(4):
        window, shift = model.window_of(stage)
        assert window == (side // 32,) * 2 and side // 4 // 2**stage % window[0] == 0
        assert shift == ((side // 64,) * 2 if stage < 3 else (0, 0))


def test_a_window_is_cut_to_its_map_row_by_row_and_column_by_column():
    model = create_model("swin_tiny_patch4_window7_224", image_size=(224, 96))
    assert [model.window_of(stage) for stage in range(4)] == [((7, 7), (3, 3)), ((7, 7), (3, 3)), ((7, 6), (3, 0)), ((7, 3), (0, 0))]


def test_tables_of_a_small_phase_become_those_of_a_larger_one_and_nothing_else_depends_on_the_size():
    small, large = (create_model("swin_tiny_patch4_window7_224", image_size=side, window=None, **SMALL) for side in (96, 224))
    value = np.arange(25, dtype=np.float32).reshape(5, 5)
    table = np.stack([value, 1 - value], axis=-1).reshape(25, 2)

    def resized(name, leaf):
        for pattern, function in SIZE_DEPENDENT:
            if re.fullmatch(pattern, name):
                given = table if leaf.shape == table.shape else np.zeros(leaf.shape, np.float32)
                return function(given, small, large)
        return leaf

    ours, wanted = (named_leaves(tree) for tree in (map_named(resized, shapes_of(small)["params"]), shapes_of(large)["params"]))
    assert {name: leaf.shape for name, leaf in ours.items()} == {name: leaf.shape for name, leaf in wanted.items()}
    # Bilinear with pixel centres at half integers, rows and columns independently: value = 5 y + x at the clipped source position.
    at = np.clip((np.arange(13) + 0.5) * 5 / 13 - 0.5, 0, 4)
    expected = 5 * at[:, None] + at[None]
    got = ours["layers_1/blocks_1/attn/relative_position_bias_table"].reshape(13, 13, 2)
    np.testing.assert_allclose(got, np.stack([expected, 1 - expected], axis=-1), atol=1e-5)


def test_shifted_windows_join_neighbours_but_not_opposite_edges():
    block = SwinBlock(heads=2, window=(4, 4), shift=(2, 2))
    image = np.random.RandomState(0).standard_normal((1, 8, 8, 8)).astype(np.float32)
    variables = block.init(jax.random.key(0), image, False)
    reach = jax.jit(jax.grad(lambda x, y, u: block.apply(variables, x, False)[0, y, u].sum()))

    def seen_from(y, x):
        rows, columns = np.nonzero(np.abs(np.asarray(reach(image, y, x)))[0].max(-1) > 1e-9)
        return (rows.min(), rows.max()), (columns.min(), columns.max())

    assert seen_from(3, 3) == ((2, 5), (2, 5))
    assert seen_from(0, 7) == ((0, 1), (6, 7))
    assert seen_from(7, 3) == ((6, 7), (2, 5))


def test_recomputed_blocks_give_the_same_logits_and_drop_path_changes_them_in_training_only():
    fields = {"num_classes": 3, "dim": 8, "depths": (2, 1), "heads": (1, 2), "window": 4, "image_size": (32, 24)}
    image = np.random.RandomState(0).standard_normal((2, 32, 24, 3)).astype(np.float32)
    plain, recomputing, dropping = (create_model("swin_s3_tiny_224", **fields, **more) for more in ({}, {"remat": True}, {"drop_path": 0.9}))
    variables, rngs = filled(plain, CHECKPOINT["torch"]), {"dropout": jax.random.key(1)}
    logits = jax.jit(
        lambda v, x: (plain.apply(v, x), recomputing.apply(v, x, train=True), dropping.apply(v, x), dropping.apply(v, x, train=True, rngs=rngs))
    )(variables, image)
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-6)
    np.testing.assert_allclose(logits[2], logits[0], atol=1e-6)
    assert float(jnp.abs(logits[3] - logits[0]).max()) > 1e-2


def test_maps_keep_the_compute_type_and_attention_can_be_tapped():
    model = create_model("swin_tiny_patch4_window7_224", num_classes=0, dtype=jnp.bfloat16)
    variables, image = shapes_of(model), jax.ShapeDtypeStruct((2, 224, 160, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="stages"), variables, image)
    sizes = [(56, 40, 96), (28, 20, 192), (14, 10, 384), (7, 5, 768)]
    assert [(m.shape, m.dtype) for m in maps] == [((2, *size), jnp.bfloat16) for size in sizes]
    features, kept = jax.eval_shape(lambda v, x: model.apply(v, x, mutable="taps"), variables, image)
    assert features.shape == (2, 768) and features.dtype == jnp.float32
    weights = kept["taps"]["layers_0"]["blocks_1"]["attn"]["weights"][0]
    assert weights.shape == (2, 8 * 6, 3, 49, 49) and weights.dtype == jnp.float32


def test_sizes_that_the_architecture_does_not_allow_are_refused():
    with pytest.raises(ModelError, match="not whole patches"):
        shapes_of(create_model("swin_tiny_patch4_window7_224", image_size=(224, 226)))
    with pytest.raises(ModelError, match="one number a stage"):
        shapes_of(create_model("swin_tiny_patch4_window7_224", window=(7, 7)))

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxvision import interop
from jaxvision.errors import ModelError
from jaxvision.models.drct import CHECKPOINT, VARIANTS, layer_heads
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.trees import named_leaves
from tests.models.counting import parameter_sizes
from tests.reference_weights import filled, relative_error

GOLDEN = np.load(pathlib.Path(__file__).resolve().parent.parent / "golden" / "drct.npz")
TINY = {"dim": 24, "groups": 1, "growth": 8, "window": 8}


def tiny(scale=4, **fields):
    return create_model(f"drct_x{scale}", num_classes=0, image_size=16, **{**TINY, **fields})


def image(*size):
    return np.random.RandomState(0).uniform(size=(1, *size, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "case, scale, groups, size", [("x4", 4, 1, (16, 16)), ("x4_other", 4, 1, (24, 32)), ("x3_padded", 3, 2, (19, 13)), ("x2_small", 2, 1, (8, 16))]
)
def test_pictures_are_those_of_the_official_network_at_any_size(case, scale, groups, size):
    """Its windows are made for pictures of 16x16 or 24x24, and its evaluation pads by mirroring."""
    model = tiny(scale, groups=groups)
    ours = jax.jit(model.apply)(filled(model, CHECKPOINT["torch"]), image(*size))
    assert ours.shape == (1, size[0] * scale, size[1] * scale, 3) and ours.dtype == jnp.float32
    assert relative_error(ours[:, ::3, 1::3] if scale == 4 else ours, GOLDEN[case]) < 1e-5


def test_the_tiny_network_has_the_counted_parameters_and_heads_follow_the_remainder():
    sizes = parameter_sizes(tiny(), (1, 16, 16, 3), {})
    assert sum(sizes.values()) == 384_857
    assert [layer_heads(6, 180 + 32 * i) for i in range(1, 5)] == [4, 2, 6, 4]
    whole = named_leaves(jax.eval_shape(create_model("drct_x4", num_classes=0).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"])
    assert [whole[f"layers_5/swin{i}/attn/relative_position_bias_table"].shape for i in range(1, 6)] == [(961, n) for n in (6, 4, 2, 6, 4)]
    assert [whole[f"layers_0/swin{i}/mlp/fc1/kernel"].shape[1] for i in range(1, 6)] == [360, 424, 488, 276, 308]


def test_a_file_of_the_published_trainer_loads_without_its_tables_and_masks(tmp_path):
    model = tiny()
    variables = filled(model, CHECKPOINT["torch"])
    interop.save_pretrained(model, variables, tmp_path / "drct.safetensors")
    arrays = safetensors.numpy.load_file(tmp_path / "drct.safetensors")
    assert {"patch_embed.norm.weight", "layers.0.swin2.attn.relative_position_bias_table", "layers.0.adjust5.weight"} <= arrays.keys()
    arrays |= {"layers.0.swin2.attn_mask": np.zeros((4, 64, 64), np.float32), "layers.0.swin2.attn.relative_position_index": np.zeros((64, 64), int)}
    safetensors.numpy.save_file(arrays, tmp_path / "whole.safetensors")
    loaded = interop.load_pretrained(model, tmp_path / "whole.safetensors")
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables), strict=True))


def test_groups_are_recomputed_and_dropped_at_one_rate_each():
    model = tiny(2, groups=3, remat=True, drop_path=0.17)
    run = lambda v, x: model.apply(v, x, train=True, rngs={"dropout": jax.random.key(0)})
    traced = jax.make_jaxpr(run)(shapes_of(model), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    groups = [equation for equation in traced.eqns if "prevent_cse" in equation.params]
    # 18 counted layers have 17 intervals: the groups begin at 0, 6 and 12 of them.
    kept = [{0.94, 0.88} & {round(float(number), 4) for number in re.findall(r"0\.\d+", str(group))} for group in groups]
    assert kept == [set(), {0.94}, {0.88}]


def test_half_precision_ends_in_single():
    model = tiny(2, dtype="bfloat16")
    made, kept = jax.eval_shape(lambda v, x: model.apply(v, x, mutable="taps"), shapes_of(model), jax.ShapeDtypeStruct((2, 9, 17, 3), jnp.float32))
    assert made.shape == (2, 18, 34, 3) and made.dtype == jnp.float32
    assert [leaf.shape for leaf in kept["taps"]["trunk"]] == [(2, 16, 24, 24)]


def test_what_the_architecture_does_not_allow_is_one_line():
    with pytest.raises(ModelError, match=r"model\.scale is 6; DRCT enlarges by 3"):
        shapes_of(tiny().clone(scale=6))
    with pytest.raises(ModelError, match=r"model\.channels is 3, the image has 1"):
        shapes_of(tiny(), channels=1)
    assert len(VARIANTS) == 6


@pytest.mark.parametrize("scale", [3, 4])
def test_the_bilinear_start_enlarges_by_bilinear_interpolation(scale):
    picture, steps = image(8, 16), (3,) if scale == 3 else (2, 2)
    model, plain = tiny(scale, start="bilinear"), picture
    made = jax.jit(lambda x: model.apply(model.init(jax.random.key(0), x), x))(picture)
    for factor in steps:
        plain = jax.image.resize(plain, (1, factor * plain.shape[1], factor * plain.shape[2], 3), "linear")
    # Convolutions see zeros beyond the border, the interpolation the outermost pixels.
    np.testing.assert_allclose(made[:, 4:-4, 4:-4], plain[:, 4:-4, 4:-4], atol=2e-5)
    with pytest.raises(ModelError, match=r"model\.start 'linear' is unknown; .*'bilinear'"):
        shapes_of(model.clone(start="linear"))

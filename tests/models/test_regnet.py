import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.models.regnet import CHECKPOINT, RegNet, fit, generate
from jaxvision.trees import map_named
from tests.models.convnet_golden import worst_error

TINY = {"depths": (1, 2), "widths": (8, 16), "group_widths": (4, 4), "stem": 8, "num_classes": 3, "image_size": (16, 16)}


def test_regnety_002_agrees_with_timm_at_an_odd_size():
    assert worst_error("regnet", "regnety_002", create_model("regnety_002", num_classes=10, image_size=(65, 49)), CHECKPOINT["torch"]) < 1e-4


def test_regnet_z_agrees_with_timm():
    model = create_model("regnetz_005", num_classes=10, image_size=(64, 75), head=40, **generate(6, 16, 24.0, 2.0, 8, 4.0))
    assert worst_error("regnet", "z", model, CHECKPOINT["torch"]) < 1e-4


def test_the_published_line_gives_the_published_stages():
    assert generate(22, 96, 31.41, 2.24, 64) == {"depths": (2, 6, 12, 2), "widths": (128, 192, 512, 1088), "group_widths": (64,) * 4}


def test_widths_are_filled_by_whole_groups():
    assert fit(160, 64) == (128, 64)
    assert fit(40, 64) == (40, 40)
    assert fit(100, 64) == (128, 64)
    assert fit(24, 16) == (32, 16) and fit(40, 16) == (32, 16)
    # Rounding 40 down to 32 would lose a fifth of the channels.
    assert fit(40, 16, torchvision=True) == (48, 16)
    # 4 * 10 = 40 channels inside, in groups of 12: the nearest multiple of both 12 and 4.
    assert fit(10, 12, 4.0) == (9, 12)


def test_stages_halve_from_stride_4_and_features_without_a_head_are_float32():
    model = create_model("regnety_004", num_classes=0, dtype=jnp.bfloat16)
    variables, image = shapes_of(model), jax.ShapeDtypeStruct((1, 225, 97, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="stages"), variables, image)
    assert [m.shape for m in maps] == [(1, 57, 25, 48), (1, 29, 13, 104), (1, 15, 7, 208), (1, 8, 4, 440)]
    features = jax.eval_shape(model.apply, variables, image)
    assert features.shape == (1, 440) and features.dtype == jnp.float32


def test_a_dropped_branch_leaves_the_shortcut_alone():
    image = jnp.asarray(np.random.RandomState(0).standard_normal((4, 16, 16, 3)), jnp.float32)
    tiny = {**TINY, "depths": (1, 1)}

    @jax.jit
    def run(key, image):
        def last_map(variables, **settings):
            model = RegNet(**tiny, **settings)
            return model.apply(variables, image, train=True, mutable=["batch_stats"], rngs={"dropout": key}, method="stages")[0][-1]

        variables = RegNet(**tiny, zero_init=False).init(key, image)
        silent = map_named(lambda name, leaf: leaf * 0 if name == "params/s2_b1/conv3/bn/scale" else leaf, variables)
        return last_map(variables, drop_path=0.9999, remat=True), last_map(silent), last_map(variables)

    dropped, silent, kept = run(jax.random.key(0), image)
    np.testing.assert_allclose(dropped, silent, rtol=1e-4, atol=1e-4)
    assert np.abs(dropped - kept).max() > 0.1


def test_an_unknown_activation_is_refused():
    with pytest.raises(ModelError, match="did you mean 'silu'"):
        shapes_of(RegNet(**TINY, activation="silo"))

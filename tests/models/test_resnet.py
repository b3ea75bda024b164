import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ConfigError, ModelError
from jaxvision.models.registry import count_parameters, create_model, shapes_of
from jaxvision.models.resnet import CHECKPOINT, ResNet
from jaxvision.trees import map_named, named_leaves
from tests.models.convnet_golden import worst_error

TINY = {"depths": (1, 1), "widths": (8, 16), "num_classes": 3, "image_size": (16, 16), "stem": "cifar"}


def test_resnet18_agrees_with_timm_at_an_odd_size():
    model = create_model("resnet18", num_classes=10, image_size=(65, 49))
    assert worst_error("resnet", "resnet18", model, CHECKPOINT["torch"]) < 1e-4


def test_resnext_with_deep_stem_averaging_shortcut_and_squeeze_excite_agrees_with_timm():
    model = create_model("seresnext50_32x4d", num_classes=10, image_size=(64, 45), depths=(1, 1, 1, 1), stem="deep", avg_down=True)
    assert worst_error("resnet", "resnext_d_se", model, CHECKPOINT["torch"]) < 1e-4


def test_resnet10t_agrees_with_timm():
    assert worst_error("resnet", "resnet10t", create_model("resnet10t", num_classes=10, image_size=(33, 64)), CHECKPOINT["torch"]) < 1e-4


def test_resnet18_for_one_logit_has_62_arrays_and_the_published_count():
    shapes = shapes_of(create_model("resnet18", num_classes=1))["params"]
    assert len(jax.tree.leaves(shapes)) == 62
    assert count_parameters("resnet18", num_classes=1) == 11_177_025


def test_stages_halve_from_stride_4_and_features_are_returned_without_a_head():
    model = create_model("resnet50", num_classes=0, dtype=jnp.bfloat16)
    variables = shapes_of(model)
    image = jax.ShapeDtypeStruct((1, 225, 97, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="stages"), variables, image)
    assert [m.shape for m in maps] == [(1, 57, 25, 256), (1, 29, 13, 512), (1, 15, 7, 1024), (1, 8, 4, 2048)]
    assert maps[0].dtype == jnp.bfloat16
    features = jax.eval_shape(model.apply, variables, image)
    assert features.shape == (1, 2048) and features.dtype == jnp.float32


def test_remat_drop_path_and_dropout_leave_the_parameters_in_place():
    plain = shapes_of(ResNet(**TINY))
    assert jax.tree.structure(shapes_of(ResNet(**TINY, remat=True, drop_path=0.5, dropout=0.1))) == jax.tree.structure(plain)


def test_a_dropped_branch_leaves_the_shortcut_alone():
    image = jnp.asarray(np.random.RandomState(0).standard_normal((4, 8, 8, 3)), jnp.float32)

    @jax.jit
    def run(key, image):
        def stages(variables, **settings):
            model = ResNet(**TINY, **settings)
            return model.apply(variables, image, train=True, mutable=["batch_stats"], rngs={"dropout": key}, method="stages")[0]

        kept = ResNet(**TINY, zero_init=False).init(key, image)
        silent = map_named(lambda name, leaf: leaf * 0 if name == "params/layer2_0/bn2/scale" else leaf, kept)
        return stages(kept, drop_path=0.9999, remat=True), stages(silent), stages(kept)

    dropped, silent, kept = run(jax.random.key(0), image)
    # The rate rises from 0 in the first block, so the first map is that of the whole network.
    np.testing.assert_allclose(dropped[0], kept[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dropped[1], silent[1], rtol=1e-5, atol=1e-5)
    assert np.abs(dropped[1] - kept[1]).max() > 0.1


def test_norm_groups_that_do_not_divide_the_batch_and_unknown_stems_are_refused():
    image = jnp.zeros((3, 16, 16, 3))
    with pytest.raises(ConfigError, match="norm_groups=2 does not divide the batch of 3"):
        jax.eval_shape(lambda: ResNet(**TINY, norm_groups=2).init(jax.random.key(0), image, train=True))
    with pytest.raises(ModelError, match="did you mean 'tiered'"):
        jax.eval_shape(lambda: ResNet(stem="tired").init(jax.random.key(0), image))


def test_last_normalization_of_each_block_starts_at_zero():
    params = jax.jit(ResNet(**TINY, bottleneck=True).init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    zero = {name for name, leaf in named_leaves(params).items() if name.endswith("scale") and not np.asarray(leaf).any()}
    assert zero == {"layer1_0/bn3/scale", "layer2_0/bn3/scale"}

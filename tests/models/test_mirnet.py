import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxvision import interop
from jaxvision.errors import CheckpointError, ModelError
from jaxvision.models.mirnet import CHECKPOINT, blur_half, double, doubling_convolution
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.trees import map_named
from tests.models.counting import parameter_sizes
from tests.reference_weights import filled, relative_error

GOLDEN = np.load(pathlib.Path(__file__).resolve().parent.parent / "golden" / "mirnet.npz")
DEEP = {"dim": 8, "groups": 2, "streams": 2, "columns": 3}


def tiny(**fields):
    return create_model("mirnet_tiny", num_classes=0, image_size=16, **fields)


def weights(model):
    """As the reference was filled; its PReLUs have a quarter of that, so that they bend."""
    return map_named(lambda name, leaf: 0.25 * leaf if name.endswith("slope") else leaf, filled(model, CHECKPOINT["torch"]))


def image(*size):
    return np.random.RandomState(0).uniform(size=(1, *size, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def run():
    """(variables, two pictures of 16x24) -> (restored, the attention of the fusions)."""
    return jax.jit(lambda v, x: tiny().apply(v, x, mutable="taps"))


def two(*size):
    return np.concatenate([image(*size), 1 - 0.5 * image(*size)])


def test_pictures_are_those_of_the_official_network(run):
    assert relative_error(run(weights(tiny()), two(16, 24))[0][:1], GOLDEN["tiny"]) < 1e-5
    model = tiny(**DEEP)
    assert relative_error(jax.jit(model.apply)(weights(model), image(12, 8)), GOLDEN["deep"]) < 1e-5


def test_resizing_is_that_of_torch():
    x = np.random.RandomState(1).standard_normal((1, 5, 6, 3)).astype(np.float32)
    kernel = np.random.RandomState(2).standard_normal((3, 2, 3, 3)).astype(np.float32).transpose(2, 3, 0, 1)
    np.testing.assert_allclose(doubling_convolution(jnp.asarray(x), jnp.asarray(kernel)), GOLDEN["transposed"], atol=1e-5)
    np.testing.assert_allclose(double(x), GOLDEN["bilinear"], atol=1e-6)
    np.testing.assert_allclose(blur_half(x[:, :4]), GOLDEN["blur"], atol=1e-6)


def test_units_share_their_weights_over_columns_and_one_prelu_over_the_network():
    memory = {}
    sizes = lambda **fields: parameter_sizes(tiny(**fields), (1, 16, 16, 3), memory)
    assert sum(sizes().values()) == sum(sizes(columns=4).values()) == 333_392
    assert sum(sizes(streams=1).values()) == 10_836
    deep = sizes(**DEEP)
    units = {name for name in deep if "/blocks_" in name}
    assert len(units) == 2 * 2 * 6 and not any(name.endswith("slope") for name in units) and deep["slope"] == 1


def test_a_published_file_holds_shared_tensors_again_and_loads_once(tmp_path):
    model = tiny()
    variables = filled(model, CHECKPOINT["torch"])
    interop.save_pretrained(model, variables, tmp_path / "unique.safetensors")
    unique, whole = safetensors.numpy.load_file(tmp_path / "unique.safetensors"), {}
    slope = unique.pop("body.0.body.0.blocks.0.0.body.1.weight")
    for name, array in unique.items():
        whole[f"module.{name}"] = array
        if ".blocks." in name:
            unit = re.match(r".*\.blocks\.\d\.", name)[0]
            whole[f"module.{name.replace(unit, unit[:-1] + '.x.', 1).replace('.x.0.', '.1.')}"] = array
            whole |= {f"module.{unit}{column}.body.1.weight": slope for column in range(2)}
        if re.search(r"\.(top\.5|bot\.1)\.weight", name) and ".down." in name:
            place = "top.4" if ".top." in name else "bot.0"
            whole[f"module.{name.rsplit('.', 3)[0]}.{place}.filt"] = np.zeros((3, 1, 3, 3), np.float32)
    assert len(whole) == 135
    safetensors.numpy.save_file(whole, tmp_path / "whole.safetensors")
    loaded = interop.load_pretrained(model, tmp_path / "whole.safetensors")
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(variables), strict=True))
    whole["module.body.0.body.0.blocks.1.1.body.0.weight"] = whole["module.body.0.body.0.blocks.1.1.body.0.weight"] + 1
    safetensors.numpy.save_file(whole, tmp_path / "torn.safetensors")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.1\.body\.0\.weight and body.*blocks\.1\.0\.body\.0\.weight are one tensor"):
        interop.load_pretrained(model, tmp_path / "torn.safetensors")


def test_streams_are_weighted_by_channel_and_by_picture(run):
    _, kept = run(weights(tiny()), two(16, 24))
    for shares in kept["taps"]["body_0"]["body_0"]["selective_kernel_0"]["weights"]:
        assert shares.shape == (2, 3, 16)
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
        assert shares.std(2).min() > 1e-2 and np.abs(shares[0] - shares[1]).max() > 1e-3


def test_pictures_of_any_size_are_mirrored_to_whole_ones_and_recomputing_changes_nothing(run):
    model, pictures = tiny(), two(13, 22)
    variables = weights(model)
    whole, _ = run(variables, np.pad(pictures, ((0, 0), (0, 3), (0, 2), (0, 0)), mode="reflect"))
    cut = jax.jit(lambda v, x: model.clone(remat=True).apply(v, x, train=True))(variables, pictures)
    np.testing.assert_allclose(cut, whole[:, :13, :22], atol=1e-5)
    half = jax.eval_shape(model.clone(dtype=jnp.bfloat16).apply, variables, pictures)
    assert half.shape == (2, 13, 22, 3) and half.dtype == jnp.float32
    with pytest.raises(ModelError, match=r"model\.channels is 3, the image has 1"):
        shapes_of(model, channels=1)

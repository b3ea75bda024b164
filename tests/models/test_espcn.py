import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxvision import interop
from jaxvision.errors import ModelError
from jaxvision.models.registry import create_model, shapes_of
from tests.reference_weights import fill, filled, relative_error

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "espcn.npz"


def image(channels):
    return np.random.RandomState(0).uniform(size=(1, channels, 7, 9)).astype(np.float32).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("channels, scale", [(1, 2), (1, 3), (1, 4), (3, 2), (3, 3), (3, 4)])
def test_outputs_are_those_of_the_public_reimplementation(channels, scale, tmp_path):
    """ESPCN-PyTorch's network before it clips, loaded from a file with its own names."""
    model = create_model(f"espcn_{'y' if channels == 1 else 'rgb'}_x{scale}", num_classes=0)
    names = {"conv1": "feature_maps.0", "conv2": "feature_maps.2", "conv3": "sub_pixel.0"}
    arrays = {}
    for layer, leaves in shapes_of(model, channels)["params"].items():
        kernel, width = leaves["kernel"].shape, leaves["bias"].shape
        arrays[f"{names[layer]}.weight"] = fill(f"{names[layer]}.weight", (kernel[3], kernel[2], *kernel[:2]))
        arrays[f"{names[layer]}.bias"] = fill(f"{names[layer]}.bias", width)
    safetensors.numpy.save_file(arrays, tmp_path / "espcn.safetensors")
    variables = interop.load_pretrained(model, tmp_path / "espcn.safetensors", channels=channels)
    ours = model.apply(variables, image(channels))
    assert ours.shape == (1, 7 * scale, 9 * scale, channels)
    assert relative_error(ours, np.load(GOLDEN)[f"{channels}_{scale}"]) < 1e-5


def test_the_four_layer_network_is_that_of_pytorchs_examples():
    model = create_model("espcn_examples_x3", num_classes=0)
    ours = model.apply(filled(model, (), channels=1), image(1))
    assert relative_error(ours, np.load(GOLDEN)["examples_3"]) < 1e-5


def test_srcnn_computes_at_the_large_size():
    small, large = (create_model(name, num_classes=0) for name in ("espcn_y_x3", "srcnn_955_x3"))
    made = [jax.eval_shape(lambda m=m: m.init_with_output(jax.random.key(0), image(1))[0]) for m in (small, large)]
    assert made[0].shape == made[1].shape == (1, 21, 27, 1)


def test_wrong_channels_and_activations_are_one_line():
    with pytest.raises(ModelError, match=r"model\.channels is 1, the image has 3"):
        create_model("espcn_y_x2", num_classes=0).init(jax.random.key(0), image(3))
    with pytest.raises(ModelError, match="'tanh'"):
        create_model("espcn_y_x2", num_classes=0, activation="tanhh").init(jax.random.key(0), image(1))

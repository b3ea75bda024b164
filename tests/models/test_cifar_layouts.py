"""The state dicts of OTO's tutorials: ResNets counted through their blocks, VGG with dense hidden layers."""

import numpy as np
import pytest
import safetensors.numpy

from jaxvision.interop import load_pretrained
from jaxvision.models import create_model
from jaxvision.models.rules import from_torch
from tests.reference_weights import fill


def norm(name, n):
    return {f"{name}.{leaf}": (n,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def resnet(bottleneck):
    """{name: shape} of two stages of one block, 4 and 8 wide, as the tutorials' code builds them."""
    shapes = {"conv1.0.weight": (4, 3, 3, 3), **norm("conv1.1", 4)}
    inputs = 4
    for stage, width in ((2, 4), (3, 8)):
        block, out = f"conv{stage}_x.0", width * (4 if bottleneck else 1)
        sides = ((width, inputs, 1), (width, width, 3), (out, width, 1)) if bottleneck else ((width, inputs, 3), (out, width, 3))
        for i, (o, c, k) in enumerate(sides):
            shapes |= {f"{block}.residual_function.{3 * i}.weight": (o, c, k, k), **norm(f"{block}.residual_function.{3 * i + 1}", o)}
        if stage == 3 or inputs != out:
            shapes |= {f"{block}.shortcut.0.weight": (out, inputs, 1, 1), **norm(f"{block}.shortcut.1", out)}
        inputs = out
    return {**shapes, "fc.weight": (5, inputs), "fc.bias": (5,)}


@pytest.mark.parametrize("bottleneck", [False, True])
def test_resnets_of_the_tutorials_load(tmp_path, bottleneck):
    arrays = {name: fill(name, shape) for name, shape in resnet(bottleneck).items()}
    safetensors.numpy.save_file(arrays, tmp_path / "net.safetensors")
    fields = {"depths": (1, 1), "widths": (4, 8), "bottleneck": bottleneck}
    loaded = load_pretrained(create_model("resnet18_cifar", num_classes=5, image_size=(8, 8), **fields), tmp_path / "net.safetensors")
    last = 6 if bottleneck else 3
    block = loaded["params"]["layer2_0"][f"conv{3 if bottleneck else 2}"]["kernel"]
    np.testing.assert_array_equal(block, from_torch(arrays[f"conv3_x.0.residual_function.{last}.weight"]))
    np.testing.assert_array_equal(loaded["params"]["layer2_0"]["downsample_0"]["kernel"], from_torch(arrays["conv3_x.0.shortcut.0.weight"]))
    np.testing.assert_array_equal(loaded["batch_stats"]["bn1"]["var"], arrays["conv1.1.running_var"])


def test_vgg_of_the_tutorials_loads(tmp_path):
    shapes = {"classifier.0.weight": (6, 4), "classifier.3.weight": (6, 6), "classifier.6.weight": (5, 6)}
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    shapes |= {"features.0.weight": (4, 3, 3, 3), "features.0.bias": (4,), **norm("features.1", 4)}
    arrays = {name: fill(name, shape) for name, shape in shapes.items()}
    safetensors.numpy.save_file(arrays, tmp_path / "net.safetensors")
    model = create_model("vgg16_bn_cifar", num_classes=5, image_size=(8, 8), rows=((4,),), hidden=6)
    loaded = load_pretrained(model, tmp_path / "net.safetensors")
    np.testing.assert_array_equal(loaded["params"]["pre_logits"]["fc1"]["kernel"][0, 0], arrays["classifier.0.weight"].T)
    np.testing.assert_array_equal(loaded["params"]["head"]["bias"], arrays["classifier.6.bias"])

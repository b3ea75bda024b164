"""Files whose names are not timm's, against what torchvision itself and timm's readers of other releases computed (tests/golden/make_layouts.py)."""

import pathlib
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxvision.interop.weights import load_pretrained
from jaxvision.models import registry, rules
from jaxvision.models.registry import create_model
from jaxvision.trees import named_leaves
from tests.reference_weights import fill, relative_error

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "layouts.npz"
ROWS = ((1, 3, 1, 1, 8), (2, 3, 2, 2, 16), (1, 3, 2, 2, 16), (1, 3, 2, 2, 24), (1, 3, 1, 2, 24), (1, 3, 1, 2, 32), (1, 3, 1, 2, 32))
CASES = {
    "torchvision vgg": ("vgg11", "torchvision", {"rows": ((8,), (8,), (16, 16), (32,), (32,)), "hidden": 16}),
    "torchvision regnet": ("regnety_004", "torchvision", {"depths": (1, 2), "widths": (16, 24), "group_widths": (8, 8)}),
    "torchvision efficientnet": ("efficientnet_b0", "torchvision", {"rows": ROWS, "stem": 8, "head": 128}),
    "torchvision mobilenet": ("mobilenetv2_050", "torchvision, MobileNetV2", {}),
    "torchvision convnext": ("convnext_tiny", "torchvision", {"depths": (2, 1), "dims": (8, 16)}),
    "torchvision swin": ("swin_tiny_patch4_window7_224", "torchvision", {"dim": 8, "depths": (2, 2), "heads": (1, 2), "window": 4}),
    "torchvision vit": ("vit_tiny_patch16_224", "torchvision", {"dim": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0}),
    "poolformer": ("poolformer_s12", "sail-sg", {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}),
    "microsoft swin": ("swin_tiny_patch4_window7_224", "microsoft", {"dim": 8, "depths": (2, 2), "heads": (1, 2), "window": 4}),
    "bit": ("resnetv2_50x1_bit", "npz", {"depths": (1, 2, 1, 1), "widths": (128, 128, 256, 256)}),
}


def write(path, model, spelling) -> pathlib.Path:
    """A file with what `fill` gives under the published names."""
    table, arrays = sys.modules[type(model).__module__].CHECKPOINT[spelling], {}
    layout = "npz" if spelling == "npz" else "torch"
    for tree in registry.shapes_of(model).values():
        leaves = named_leaves(tree)
        for name, entry in rules.entries({name: leaf.shape for name, leaf in leaves.items()}, table, layout).items():
            for key, array in zip(entry.names, entry.save(np.zeros(leaves[name].shape, np.float32)), strict=True):
                assert key not in arrays
                arrays[key] = np.ascontiguousarray(fill(key, array.shape, layout == "npz"))
    if layout == "npz":
        np.savez(path / "weights.npz", **arrays)
        return path / "weights.npz"
    safetensors.numpy.save_file(arrays, path / "weights.safetensors")
    return path / "weights.safetensors"


@pytest.mark.parametrize("case", CASES)
def test_a_published_file_is_recognised_and_computes_what_its_own_network_computes(tmp_path, case):
    golden, (name, spelling, fields) = np.load(GOLDEN), CASES[case]
    size = tuple(int(side) for side in golden[f"{case}/size"])
    model = create_model(name, num_classes=10, image_size=size, **fields)
    variables = load_pretrained(model, write(tmp_path, model, spelling))
    image = np.random.RandomState(0).standard_normal((2, *size, 3)).astype(np.float32)
    assert relative_error(jax.jit(model.apply)(variables, image), golden[f"{case}/logits"]) < 1e-4


def test_densenets_published_with_a_dot_before_the_number_of_a_part_are_read(tmp_path):
    model = create_model("densenet121", num_classes=3, image_size=(32, 32), depths=(1, 1), growth=4)
    write(tmp_path, model, "torch")
    arrays = safetensors.numpy.load_file(tmp_path / "weights.safetensors")
    key = "features.denseblock1.denselayer1.norm1.weight"
    old = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): array for name, array in arrays.items()}
    assert key in arrays and key not in old
    safetensors.numpy.save_file(old, tmp_path / "old.safetensors")
    loaded = load_pretrained(model, tmp_path / "old.safetensors")
    np.testing.assert_array_equal(loaded["params"]["denseblock1_denselayer1"]["norm1"]["scale"], arrays[key])

"""OpenMMLab's files against what its own classifiers computed (tests/golden/make_openmmlab.py), and a distiller's file, which holds more."""

import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxvision.errors import CheckpointError
from jaxvision.interop.weights import load_pretrained
from jaxvision.models.registry import create_model
from tests.reference_weights import fill, relative_error

GOLDEN = np.load(pathlib.Path(__file__).resolve().parents[1] / "golden" / "openmmlab.npz")
CASES = {
    "resnet": ("resnet18", 64, {"widths": (8, 16, 32, 64)}),
    "resnet_d": ("resnet18d", 64, {"widths": (8, 16, 32, 64)}),
    "swin": ("swin_tiny_patch4_window7_224", 32, {"dim": 8, "depths": (2, 2), "heads": (1, 2), "window": 4}),
    "vit": ("vit_tiny_patch16_224", 16, {"patch": 8, "dim": 16, "depth": 2, "heads": 2}),
    "mixer": ("mixer_s16_224", 32, {"patch": 8, "dim": 16, "depth": 2}),
    "convnext": ("convnext_tiny", 64, {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}),
    "beit": ("beit_base_patch16_224", 32, {"patch": 8, "dim": 16, "depth": 2, "heads": 2}),
    "eva": ("eva_large_patch14_196", 32, {"patch": 8, "dim": 16, "depth": 2, "heads": 2}),
    "hornet": ("hornet_tiny_gf", 64, {"dim": 8, "depths": (1, 1, 1, 1), "orders": (2, 2, 3, 3)}),
}


def arrays(case):
    named = zip(GOLDEN[f"{case}/names"], GOLDEN[f"{case}/shapes"], strict=True)
    return {str(name): fill(str(name), tuple(int(side) for side in shape if side)) for name, shape in named}


def load(case, content, folder, options=(), **fields):
    name, side, own = CASES[case]
    safetensors.numpy.save_file({key: np.ascontiguousarray(value) for key, value in content.items()}, folder / "weights.safetensors")
    model = create_model(name, num_classes=10, image_size=side, **{**own, **fields})
    return model, load_pretrained(model, folder / "weights.safetensors", **dict(options))


@pytest.mark.parametrize("case", CASES)
def test_its_classifiers_are_read_and_compute_what_they_computed(case, tmp_path):
    model, variables = load(case, arrays(case), tmp_path)
    image = np.random.RandomState(0).standard_normal((2, *model.image_size, 3)).astype(np.float32)
    assert relative_error(jax.jit(model.apply)(variables, image), GOLDEN[f"{case}/logits"]) < 1e-4


def test_of_a_distiller_s_file_the_student_is_read(tmp_path):
    others = {"teacher.backbone.norm3.weight": np.ones(3, np.float32), "linear.weight": np.ones((4, 4), np.float32)}
    others["distill_losses.loss_fmd_s3.projector_0.query.weight"] = np.ones((2, 2), np.float32)
    found = load("swin", {**{f"student.{name}": array for name, array in arrays("swin").items()}, **others}, tmp_path)[1]
    plain = load("swin", arrays("swin"), tmp_path)[1]
    jax.tree.map(np.testing.assert_array_equal, found, plain)


@pytest.mark.parametrize("case", ["hornet", "swin"])
def test_of_a_detector_s_file_the_backbone_is_read_and_the_last_of_its_norms(case, tmp_path):
    whole = arrays(case)
    last = "backbone.norm3" if case == "hornet" else "backbone.norm1"
    content = {name.replace(last, "backbone.norm3"): array for name, array in whole.items() if not name.startswith("head.")}
    others = {"neck.lateral_convs.0.conv.weight": np.ones((4, 4, 1, 1)), "rpn_head.rpn_cls.bias": np.ones(3), "backbone.norm0.weight": np.ones(8)}
    options = {"reinit_head": True}
    found, plain = (load(case, each, tmp_path, options)[1] for each in ({**content, **others}, whole))
    jax.tree.map(np.testing.assert_array_equal, found, plain)
    assert "norm" in found["params"] and "head" not in found["params"]


def test_a_class_token_that_the_student_cuts_off_is_left_out_with_its_position(tmp_path):
    content = arrays("vit")
    content = {name.replace("head.layers.head", "head.fc"): array for name, array in content.items()}
    variables = load("vit", content, tmp_path, class_token=False, pool="avg")[1]
    assert "cls_token" not in variables["params"]
    np.testing.assert_array_equal(variables["params"]["pos_embed"], content["backbone.pos_embed"][:, 1:])


def test_a_file_of_another_size_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="of another shape"):
        load("resnet", arrays("resnet"), tmp_path, widths=(8, 16, 32, 32))

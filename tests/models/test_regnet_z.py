from jaxvision.models.registry import create_model
from jaxvision.models.regnet_z import CHECKPOINT
from tests.models.convnet_golden import worst_error

SHALLOW = {"num_classes": 10, "depths": (1, 2, 1, 1), "head": 40}


def test_a_single_stem_agrees_with_timm_at_an_odd_size():
    model = create_model("regnetz_b16", image_size=(65, 49), widths=(16, 32, 32, 48), **SHALLOW)
    assert worst_error("regnet_z", "b16", model, CHECKPOINT["torch"]) < 1e-4


def test_a_tiered_stem_agrees_with_timm():
    model = create_model("regnetz_d8", image_size=(64, 75), widths=(16, 24, 24, 32), **SHALLOW)
    assert worst_error("regnet_z", "d8", model, CHECKPOINT["torch"]) < 1e-4

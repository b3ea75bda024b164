import jax
import numpy as np

from jaxvision.models.mobilenet import CHECKPOINT
from jaxvision.models.registry import create_model
from tests.models.convnet_golden import worst_error


def test_mobilenet_v1_with_a_head_convolution_agrees_with_timm_at_an_odd_size():
    model = create_model("mobilenetv1_100h", num_classes=10, image_size=(65, 49))
    assert worst_error("mobilenet", "mobilenetv1_100h", model, CHECKPOINT["torch"]) < 1e-4


def test_mobilenet_v2_at_half_width_agrees_with_timm():
    model = create_model("mobilenetv2_050", num_classes=10, image_size=(64, 75))
    assert worst_error("mobilenet", "mobilenetv2_050", model, CHECKPOINT["torch"]) < 1e-4


def test_deeper_variants_leave_the_first_and_last_stage_and_the_ends_alone():
    model = create_model("mobilenetv2_120d")
    assert model.depths() == (1, 3, 5, 6, 5, 5, 1)
    assert model.head_width() == 1280
    assert create_model("mobilenetv2_140").head_width() == 1792


def test_activations_stop_at_six():
    model = create_model("mobilenetv1_100", rows=((1, 3, 1, 1, 8),), num_classes=2, image_size=(8, 8))
    image = 1000 * np.random.RandomState(0).standard_normal((1, 8, 8, 3)).astype(np.float32)
    maps = jax.jit(lambda x: model.init_with_output(jax.random.key(0), x, method="stages")[0])(image)
    assert maps[-1].max() == 6

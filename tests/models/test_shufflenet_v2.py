import jax.numpy as jnp
import numpy as np

from jaxvision.models.shufflenet_v2 import CHECKPOINT, ShuffleNetV2, shuffle
from tests.models.convnet_golden import worst_error


def test_logits_and_stages_agree_with_torchvision():
    """torchvision's ShuffleNetV2, see tests/golden/make_torchvision_shufflenet.py."""
    model = ShuffleNetV2(num_classes=10, image_size=(71, 45), channels=(24, 48, 96, 192, 64), depths=(2, 2, 1))
    assert worst_error("shufflenet_v2", "x", model, CHECKPOINT["torch"]) < 1e-5


def test_a_shuffle_takes_the_halves_in_turn():
    np.testing.assert_array_equal(shuffle(jnp.arange(6)[None, None, None])[0, 0, 0], [0, 3, 1, 4, 2, 5])

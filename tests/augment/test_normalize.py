import numpy as np
import pytest

from jaxvision.augment.normalize import normalize
from jaxvision.errors import ConfigError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_normalize_is_scaled_pixel_minus_mean_over_std(dtype, scale):
    image = (np.random.RandomState(0).rand(2, 3, 4, 3) * scale).astype(dtype)
    ours = normalize(image, MEAN, STD)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, (image.astype(np.float64) / scale - MEAN) / STD, atol=2e-6)


def test_a_wrong_number_of_channels_is_named():
    with pytest.raises(ConfigError, match="1 channels"):
        normalize(np.zeros((1, 2, 2, 1), np.uint8), MEAN, STD)

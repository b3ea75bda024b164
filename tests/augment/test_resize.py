import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvision.augment.resize import lanczos
from jaxvision.errors import ConfigError


@pytest.mark.parametrize(("full", "size"), [((40, 48), (20, 30)), ((32, 32), (20, 20)), ((28, 28), (28, 16))])
def test_it_is_pillows_lanczos(full, size):
    images = np.random.RandomState(0).randint(0, 256, (3, *full, 3)).astype(np.uint8)
    theirs = np.stack([np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS)) for image in images])
    ours = np.asarray(lanczos(images, size))
    difference = np.abs(ours.astype(int) - theirs)
    assert ours.dtype == np.uint8 and difference.max() <= 1 and (difference > 0).mean() < 2e-3


def test_other_types_are_refused():
    with pytest.raises(ConfigError, match="uint8"):
        lanczos(jnp.zeros((1, 8, 8, 1)), (4, 4))

"""Small pictures for the tests of this folder: a photograph, noise, a photograph of low contrast, a constant, and a grey ramp."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

HEIGHT, WIDTH = 20, 28


def pictures() -> np.ndarray:
    """(5, 20, 28, 3) uint8."""
    photo = np.asarray(Image.fromarray(load_sample_image("china.jpg")).resize((WIDTH, HEIGHT), Image.BICUBIC))
    noise = np.random.RandomState(0).randint(0, 256, photo.shape).astype(np.uint8)
    ramp = np.broadcast_to(np.linspace(3, 250, WIDTH).astype(np.uint8)[None, :, None], photo.shape)
    return np.stack([photo, noise, photo // 3 + 40, np.full_like(photo, 77), ramp])


def by_pillow(images: np.ndarray, operation) -> np.ndarray:
    return np.stack([np.asarray(operation(Image.fromarray(image))) for image in images])

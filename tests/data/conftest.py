"""Small folders of JPEGs."""

import pathlib

import numpy as np
import pytest
from PIL import Image


def write_jpeg(path: pathlib.Path, seed: int, height: int = 60, width: int = 80) -> None:
    """A smooth colour picture, so that JPEG and resampling leave it nearly as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.RandomState(seed).randint(0, 256, (4, 5, 3)).astype(np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=92)


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory):
    """3 classes of 7 pictures of different sizes; read only."""
    root = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("cat", "dog", "eel")):
        for i in range(7):
            write_jpeg(root / name / f"{i}.jpg", seed=10 * number + i, height=40 + 3 * i, width=70 - 2 * i)
    return root

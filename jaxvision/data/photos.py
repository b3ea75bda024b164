"""Colour photographs that come with scikit-image and scikit-learn, cut into windows: real pictures that need no download.

Which photographs are held out never changes, so figures compare. Windows to train with overlap by half; those to test with do not.
"""

import pathlib

import numpy as np
from jaxtyping import UInt8

from jaxvision.data.source import ArraySource
from jaxvision.errors import ConfigError, DataError, nearest

# By the library that has them. Textures of one channel are shown in three.
PHOTOGRAPHS = {
    "train": (
        "skimage/astronaut.png",
        "skimage/rocket.jpg",
        "skimage/motorcycle_left.png",
        "skimage/hubble_deep_field.jpg",
        "skimage/brick.png",
        "skimage/grass.png",
        "skimage/gravel.png",
        "sklearn/china.jpg",
    ),
    "test": ("skimage/coffee.png", "skimage/chelsea.png", "sklearn/flower.jpg"),
}


def _folder(library: str) -> pathlib.Path:
    # Imported here: scikit-learn alone takes two seconds.
    if library == "skimage":
        import skimage.data

        return pathlib.Path(skimage.data.__file__).parent
    import sklearn.datasets

    return pathlib.Path(sklearn.datasets.__file__).parent / "images"


def photographs(split: str) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """{name: pixels} of split "train", "test" or "all". Raises ConfigError for another, DataError when a library comes without its pictures."""
    from PIL import Image

    names = {**PHOTOGRAPHS, "all": PHOTOGRAPHS["train"] + PHOTOGRAPHS["test"]}
    if split not in names:
        raise ConfigError(f"photos has no split {split!r}; {nearest(split, names)}")
    found = {}
    for name in names[split]:
        library, file = name.split("/")
        path = _folder(library) / file
        if not path.is_file():
            raise DataError(f"{path} is not there: the installed scikit-{'image' if library == 'skimage' else 'learn'} comes without its pictures")
        with Image.open(path) as picture:
            found[file.rsplit(".", 1)[0]] = np.asarray(picture.convert("RGB"))
    return found


def windows(picture: UInt8[np.ndarray, "h w c"], size: tuple[int, int], stride: tuple[int, int]) -> UInt8[np.ndarray, "n p q c"]:
    """All windows of `size` on a grid of `stride` that lie inside the picture."""
    rows, columns = (range(0, full - side + 1, step) for full, side, step in zip(picture.shape, size, stride))
    cut = [picture[y : y + size[0], x : x + size[1]] for y in rows for x in columns]
    return np.stack(cut) if cut else np.zeros((0, *size, picture.shape[-1]), picture.dtype)


def open_photos(split: str, size: tuple[int, int]) -> ArraySource:
    """Windows of `size` pixels of the photographs of a split: image (N, H, W, 3) uint8, and the number of its photograph, `picture` (N,) int32.

    Raises DataError when no photograph is that large.
    """
    stride = size if split == "test" else tuple(max(1, side // 2) for side in size)
    cut = [windows(picture, size, stride) for picture in photographs(split).values()]
    number = np.repeat(np.arange(len(cut), dtype=np.int32), [len(part) for part in cut])
    if not len(number):
        raise DataError(f"none of the photographs holds a window of {size[0]} x {size[1]} pixels; set data.size smaller")
    return ArraySource(f"photos/{split}", {"image": np.concatenate(cut), "picture": number})

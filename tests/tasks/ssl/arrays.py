"""Seeded inputs that the reference runs had too: values follow from the name and the shape."""

import zlib

import numpy as np


def normal(name: str, *shape: int) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)

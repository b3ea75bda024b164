"""Masks drawn over pictures, for people."""

import numpy as np
from jaxtyping import Float, Integer, UInt8


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of PASCAL VOC's masks: bit i of each of r, g, b is taken from bits 3i, 3i+1, 3i+2 of the class, high bits first."""
    rows = [[sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)] for index in range(256)]
    return np.array(rows, np.uint8)


def overlay(picture: Float[np.ndarray, "h w"], mask: Integer[np.ndarray, "h w"], strength: float = 0.5) -> UInt8[np.ndarray, "h w 3"]:
    """A grey picture, its 1st to 99th percentile as black to white, with classes above 0 in colour over it."""
    low, high = np.percentile(picture, (1, 99))
    grey = np.clip((picture - low) / max(high - low, 1e-6), 0, 1)[..., None] * 255
    colour = voc_palette()[np.minimum(mask, 255)].astype(np.float32)
    mixed = np.where(mask[..., None] > 0, (1 - strength) * grey + strength * colour, grey)
    return np.round(np.broadcast_to(mixed, (*picture.shape, 3))).astype(np.uint8)


def middle_slices(
    volume: Float[np.ndarray, "d h w"], mask: Integer[np.ndarray, "d h w"], spacing: tuple[float, ...]
) -> list[UInt8[np.ndarray, "p q 3"]]:
    """Overlays of the axial, coronal and sagittal slices in which most of the mask lies (the middle ones without a mask), with square pixels.

    Head or front is up, and the patient's right side is on the left, as radiologists look at scans.
    """
    made = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        held = np.count_nonzero(mask, axis=others)
        at = int(held.argmax()) if held.any() else volume.shape[axis] // 2
        picture = overlay(volume.take(at, axis), mask.take(at, axis))[::-1, ::-1]
        down, across = (spacing[a] / min(spacing) for a in others)
        rows, columns = (np.floor(np.arange(round(n * step)) / step).astype(int) for n, step in zip(picture.shape, (down, across)))
        made.append(picture[np.minimum(rows, picture.shape[0] - 1)][:, np.minimum(columns, picture.shape[1] - 1)])
    return made

"""Procedural pictures of coloured shapes with exact boxes and masks: ground truth for detection and segmentation, without a download.

A picture is a pure function of (seed, its number). Shapes are painted one over another on a smooth textured background; the mask holds the class of
what is visible (0 is background, class c is c + 1), and a box is the extent of the shape's visible pixels, so boxes and masks agree to the pixel.
A shape that would leave less than half of an earlier one visible is placed anew, and left out after eight tries.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxvision.data.source import ArraySource, Source
from jaxvision.errors import ConfigError, nearest

_STREAM = 3  # see order.py
_TRIES = 8
_IN_MEMORY = 256 << 20  # bytes of pictures and masks; larger sets are painted on demand, by the workers

# Smallest and largest radius, as shares of the shorter side; log-uniform for "scales", whose shapes at 64 pixels are 5 to 40 across.
RADII = {"": (0.14, 0.3), "scales": (0.045, 0.31)}

# Each takes coordinates x, y around the centre, in units of the radius.
_INSIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda x, y: x * x + y * y <= 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.8,
    "triangle": lambda x, y: (y <= 0.7) & (y >= 2 * abs(x) - 0.9),
    "ring": lambda x, y: (x * x + y * y <= 1) & (x * x + y * y >= 0.3),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.28) & (np.maximum(abs(x), abs(y)) <= 0.95),
    "diamond": lambda x, y: abs(x) + abs(y) <= 1,
}
CLASSES = tuple(_INSIDE)


def _background(rng: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """(H, W, 3) float32 of two colours mixed by a few long waves, with grain."""
    y = np.arange(height, dtype=np.float32)[:, None] / height
    x = np.arange(width, dtype=np.float32)[None] / width
    wave = np.zeros((height, width), np.float32)
    for _ in range(3):
        fy, fx, phase = rng.uniform(-4, 4), rng.uniform(-4, 4), rng.uniform(0, 2 * math.pi)
        wave += np.sin(2 * math.pi * (fy * y + fx * x) + phase).astype(np.float32)
    low, high = rng.uniform(60, 196, (2, 3)).astype(np.float32)
    noise = rng.normal(0, 8, (height, width, 1)).astype(np.float32)
    return low + (high - low) * (wave[..., None] / 6 + 0.5) + noise


def paint(seed: int, number: int, size: tuple[int, int], most: int, part: int = 0, radii: str = "") -> dict[str, Any]:
    """One picture.

    Args:
      seed, number, part: name the picture; `part` keeps training and test pictures apart.
      size: (H, W) in pixels.
      most: up to so many shapes; at least one is there.
      radii: a key of RADII.

    Returns:
      image (H, W, 3) uint8; mask (H, W) int32, 0 or class + 1; boxes (most, 4) float32, y0 x0 y1 x1 in pixels (y1 and x1 just past the last pixel);
      box_label (most,) int32; box_valid (most,) bool; label int32, the class of the shape with the most visible pixels.
    """
    height, width = size
    # RandomState is frozen by numpy: the same pictures under every release.
    rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, _STREAM, part, number])))
    image = _background(rng, height, width)
    owner = np.zeros((height, width), np.int32)  # 1 + number of the shape that shows
    shapes: list[int] = []
    areas: list[int] = []
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width)[None] + 0.5
    for _slot in range(rng.randint(1, most + 1)):
        for _try in range(_TRIES):
            kind = rng.randint(len(CLASSES))
            radius = min(height, width) * (math.exp(rng.uniform(*map(math.log, RADII[radii]))) if radii else rng.uniform(*RADII[""]))
            y, x = rng.uniform(0.7 * radius, height - 0.7 * radius), rng.uniform(0.7 * radius, width - 0.7 * radius)
            inside = _INSIDE[CLASSES[kind]]((columns - x) / radius, (rows - y) / radius)
            area = int(inside.sum())
            hidden = np.bincount(owner[inside], minlength=len(areas) + 1)[1:]
            left = np.bincount(owner.ravel(), minlength=len(areas) + 1)[1:] - hidden
            if area >= 4 and all(2 * now >= was for now, was in zip(left, areas)):
                break
        else:
            continue
        mean = image[inside].mean(axis=0)
        colour = rng.uniform(0, 255, 3)
        # A colour near what it covers would make the shape invisible: it is moved to the other half of the range.
        colour = np.where(np.abs(colour - mean).sum() < 120, (mean + 128) % 256, colour)
        image[inside] = colour + rng.normal(0, 6, (area, 1))
        shapes.append(kind)
        areas.append(area)
        owner[inside] = len(areas)

    boxes, box_label, box_valid = np.zeros((most, 4), np.float32), np.zeros(most, np.int32), np.zeros(most, bool)
    for slot, kind in enumerate(shapes):
        down, across = np.nonzero(owner == slot + 1)
        boxes[slot] = down.min(), across.min(), down.max() + 1, across.max() + 1
        box_label[slot], box_valid[slot] = kind, True
    visible = np.bincount(owner.ravel(), minlength=len(shapes) + 1)[1:]
    return {
        "image": np.clip(np.round(image), 0, 255).astype(np.uint8),
        "mask": np.array([0, *(kind + 1 for kind in shapes)], np.int32)[owner],
        "boxes": boxes,
        "box_label": box_label,
        "box_valid": box_valid,
        "label": np.int32(shapes[int(visible.argmax())]),
    }


class ShapesSource:
    """Pictures painted on demand; nothing is kept."""

    columns = None
    classes = CLASSES

    def __init__(self, count: int, size: tuple[int, int], most: int, seed: int, part: int, radii: str = ""):
        self._count, self._paint = count, functools.partial(paint, seed, size=size, most=most, part=part, radii=radii)
        self.fingerprint = f"shapes:{count}:{size[0]}x{size[1]}:{most}:{seed}:{part}{radii and f':{radii}'}"

    def __len__(self) -> int:
        return self._count

    def record(self, i: int) -> dict[str, Any]:
        return self._paint(int(i))

    def name_of(self, i: int) -> str:
        return f"shapes[{i}]"


def open_shapes(split: str, count: int, size: tuple[int, int], most: int, seed: int, radii: str = "") -> Source:
    """`count` pictures of split "train" or "test"; held in memory where they fit into 256 MiB. `radii`: a key of RADII."""
    parts = {"train": 0, "test": 1}
    if split not in parts:
        raise ConfigError(f"shapes has no split {split!r}; {nearest(split, parts)}")
    if count < 1 or most < 1 or len(size) != 2 or min(size) < 16:
        raise ConfigError(f"shapes cannot make {count} pictures of {'x'.join(map(str, size))} with up to {most} shapes; "
                          "at least 1 picture, 16x16 pixels and 1 shape are needed")
    if radii not in RADII:
        raise ConfigError(f"data.name={radii!r}: shapes have no such sizes; {nearest(radii, RADII)}")
    source = ShapesSource(count, tuple(size), most, seed, parts[split], radii)
    if count * size[0] * size[1] * 7 > _IN_MEMORY:
        return source
    records = [source.record(i) for i in range(count)]
    return ArraySource("shapes", {key: np.stack([record[key] for record in records]) for key in records[0]}, CLASSES)

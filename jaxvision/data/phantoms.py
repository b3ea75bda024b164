"""Procedural 3-D phantoms with exact masks: something to segment without a download.

"organs": a body with a liver and a spleen of one brightness (only where they lie tells them apart), two kidneys, a thin bright vessel and a rare dark
lesion inside the liver, under noise and an uneven field. Voxels are thicker along the depth, as clinical scans are. "far_cue": a blob whose class is
told by a marker at the other end alone, beside a shape that can be told by itself; it tests whether a network sees the whole volume.

A phantom is a pure function of (seed, its number).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxvision.data.patches import places_of
from jaxvision.errors import ConfigError, nearest

_STREAM = 7  # see order.py
_IN_MEMORY = 256 << 20  # bytes
SPACING = (2.0, 1.0, 1.0)  # millimetres


def _waves(rng: np.random.RandomState, grid: tuple[np.ndarray, ...], count: int = 3) -> np.ndarray:
    """A few long waves, about -1..1."""
    total = 0
    for _ in range(count):
        fz, fy, fx, phase = *rng.uniform(-1.2, 1.2, 3), rng.uniform(0, 2 * math.pi)
        total = total + np.sin(2 * math.pi * (fz * grid[0] + fy * grid[1] + fx * grid[2]) / 2 + phase)
    return total / count


def _organs(rng: np.random.RandomState, size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    # In -1..1: z to the head, y to the front, x to the patient's right.
    z, y, x = grid = np.meshgrid(*(np.linspace(-1 + 1 / n, 1 - 1 / n, n) for n in size), indexing="ij")
    bumps = _waves(rng, grid)

    def blob(centre, radii, rough=0.15):
        c, r = np.array(centre) + rng.uniform(-0.06, 0.06, 3), np.array(radii) * rng.uniform(0.85, 1.15, 3)
        return sum(((g - m) / w) ** 2 for g, m, w in zip(grid, c, r)) <= 1 + rough * bumps

    volume, mask = np.full(size, -1.0), np.zeros(size, np.uint8)
    body = blob((0, 0, 0), (1.3, 0.8, 0.9), 0.05)
    volume[body] = 0.0
    parts = [
        (1, blob((0.25, 0.1, 0.42), (0.5, 0.42, 0.36)), 0.5),
        (2, blob((0.2, -0.25, -0.52), (0.35, 0.26, 0.2)), 0.5),
        (3, blob((-0.4, -0.42, 0.36), (0.34, 0.16, 0.15)), 0.85),
        (3, blob((-0.3, -0.42, -0.36), (0.34, 0.16, 0.15)), 0.85),
    ]
    for number, where, bright in parts:
        where &= body & (mask == 0)
        mask[where], volume[where] = number, bright
    bend = 0.12 * np.sin(2 * z + rng.uniform(0, 6))
    vessel = ((y + 0.15 - bend) ** 2 + (x + 0.02 + bend) ** 2 <= rng.uniform(0.08, 0.1) ** 2) & body & (mask == 0)
    mask[vessel], volume[vessel] = 4, 1.3
    liver = np.argwhere(mask == 1)
    if len(liver) and rng.uniform() < 0.7:
        c = liver[rng.randint(len(liver))]
        reach = rng.uniform(0.1, 0.18)
        lesion = sum((g - g[tuple(c)]) ** 2 for g in grid) <= reach**2
        lesion &= mask == 1
        mask[lesion], volume[lesion] = 5, 0.2
    volume += 0.15 * _waves(rng, grid, 2) + rng.normal(0, 0.12, size)
    return (volume - volume.mean()) / volume.std(), mask


def _far_cue(rng: np.random.RandomState, size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    volume, mask = rng.normal(0, 0.3, size), np.zeros(size, np.uint8)
    kind = rng.randint(2)
    # The blob, inside the corner's 4x8x8 voxels.
    corner = np.array([rng.randint(0, 2), rng.randint(0, 3), rng.randint(0, 3)])
    blob = tuple(slice(c, c + s) for c, s in zip(corner, (3, 6, 6)))
    volume[blob] += 2.0
    mask[blob] = 1 + kind
    # The marker: the last slices, bright or dark. Brightness is not normalized, as the mean would give it away everywhere.
    volume[-2:] += 3.0 if kind else -3.0
    # A dark block about the middle.
    at = [n // 2 + rng.randint(-1, 2) for n in size]
    own = tuple(slice(a - n // 8, a + n // 8) for a, n in zip(at, size))
    volume[own] -= 2.0
    mask[own] = 3
    return volume, mask


KINDS: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "organs": (_organs, ("liver", "spleen", "kidney", "vessel", "lesion")),
    "far_cue": (_far_cue, ("with_dark_marker", "with_bright_marker", "block")),
}


def phantom(seed: int, number: int, size: tuple[int, int, int], kind: str = "organs", part: int = 0) -> dict[str, Any]:
    """volume (D, H, W, 1) float32, mask (D, H, W) uint8 (0, or class + 1), spacing (3,) in mm, places of each class.

    Organs have mean 0 and deviation 1. `part` keeps training and test phantoms apart. Raises ConfigError for an unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"data.name {kind!r} is no kind of phantom; {nearest(kind, KINDS)}")
    # RandomState is frozen by numpy: the same phantoms under every release.
    rng = np.random.RandomState(np.random.SeedSequence([seed, _STREAM, part, number]).generate_state(4))
    volume, mask = KINDS[kind][0](rng, size)
    return {"volume": volume.astype(np.float32)[..., None], "mask": mask, "spacing": np.array(SPACING, np.float32), "places": places_of(mask)}


class PhantomSource:
    """Phantoms made on demand, and kept where all of them fit into 256 MiB."""

    columns = None

    def __init__(self, count: int, size: tuple[int, int, int], kind: str, seed: int, part: int):
        self.classes = KINDS[kind][1]
        self._settings, self._count = (seed, size, kind, part), count
        self._kept: dict[int, dict[str, Any]] | None = {} if count * math.prod(size) * 5 <= _IN_MEMORY else None
        self.fingerprint = f"phantoms:{kind}:{count}:{'x'.join(map(str, size))}:{seed}:{part}"

    def __len__(self) -> int:
        return self._count

    def record(self, i: int) -> dict[str, Any]:
        if self._kept is not None and i in self._kept:
            return self._kept[i]
        seed, size, kind, part = self._settings
        made = phantom(seed, int(i), size, kind, part)
        if self._kept is not None:
            self._kept[i] = made
        return made

    def name_of(self, i: int) -> str:
        return f"phantoms[{i}]"


def open_phantoms(split: str, count: int, size: tuple[int, ...], kind: str, seed: int) -> PhantomSource:
    """`count` phantoms of split "train" or "test". Raises ConfigError for another split, kind, or a size that holds none of the organs."""
    parts = {"train": 0, "test": 1}
    if split not in parts:
        raise ConfigError(f"phantoms has no split {split!r}; {nearest(split, parts)}")
    if kind not in KINDS:
        raise ConfigError(f"data.name {kind!r} is no kind of phantom; {nearest(kind, KINDS)}")
    if count < 1 or len(size) != 3 or min(size) < 12:
        shown = "x".join(map(str, size))
        raise ConfigError(f"phantoms cannot be {count} volumes of {shown} voxels; set data.size=(depth, height, width), each at least 12")
    return PhantomSource(count, tuple(size), kind, seed, parts[split])

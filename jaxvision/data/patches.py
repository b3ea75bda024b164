"""Patches of volumes: what a batch of a 3-D network holds, cut on the host.

A share of the training patches holds a voxel of a class that is drawn first, each class that the volume has being as likely as any other, so that
small organs are seen as often as large ones (Isensee et al. 2021, nnU-Net, oversample foreground likewise). The voxel lies anywhere in the patch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from jaxvision.errors import ConfigError, DataError

KEPT = 4096  # voxels of a class among which the drawn one is chosen


@dataclasses.dataclass(frozen=True)
class Patch:
    """How a record with a `volume` (D, H, W, C), of any size, becomes arrays.

    Attributes:
      image_size: (D, H, W) of the patch.
      balance: share of the training patches that hold a voxel of a class drawn first.
    """

    image_size: tuple[int, int, int]
    balance: float = 1 / 3

    def __post_init__(self):
        if len(self.image_size) != 3 or min(self.image_size) < 1:
            raise ConfigError(f"image_size is {self.image_size}; patches of volumes need (depth, height, width)")
        if not 0 <= self.balance <= 1:
            raise ConfigError(f"data.balance is {self.balance}; it is a share, 0..1")


def places_of(mask: Integer[np.ndarray, "d h w"]) -> dict[int, Int[np.ndarray, "n 3"]]:
    """{class: voxels}, at most KEPT of each class but 0, evenly taken."""
    found = {}
    flat = np.ravel(mask)
    for number in np.unique(flat):
        if number:
            voxels = np.flatnonzero(flat == number)
            voxels = voxels[np.linspace(0, len(voxels) - 1, min(KEPT, len(voxels))).astype(int)]
            found[int(number)] = np.stack(np.unravel_index(voxels, mask.shape), -1).astype(np.int32)
    return found




def cut_patch(record: Mapping[str, Any], patch: Patch, name: str, randoms: np.ndarray | None = None) -> dict[str, Any]:
    """The record with `volume` and `mask` cut to a patch: drawn in training (`randoms`, at least 6 uniform numbers), else the central one.

    Volumes that are smaller are surrounded by their darkest value, masks by 0. `places`, as `places_of` makes them, saves their search; it and
    `spacing` are left out of the result. Raises DataError where volume and mask do not go together.
    """
    record = dict(record)
    places, size = record.pop("places", None), np.array(patch.image_size)
    record.pop("spacing", None)
    volume, mask = record["volume"], record.get("mask")
    if volume.ndim != 4 or (mask is not None and mask.shape != volume.shape[:3]):
        raise DataError(f"{name} is {volume.shape} with a mask of {None if mask is None else mask.shape}; expected (D, H, W, C) and (D, H, W)")
    full = np.maximum(volume.shape[:3], size)
    before = (full - volume.shape[:3]) // 2
    if randoms is None:
        corner = (full - size) // 2
    else:
        corner = (randoms[3:6] * (full - size + 1)).astype(int)
        places = places_of(mask) if places is None and mask is not None else places
        if places and randoms[0] < patch.balance:
            chosen = places[sorted(places)[int(randoms[1] * len(places))]]
            voxel = chosen[int(randoms[2] * len(chosen))] + before
            corner = np.clip(voxel - (randoms[3:6] * size).astype(int), 0, full - size)
    first, last = np.maximum(corner - before, 0), np.minimum(corner - before + size, volume.shape[:3])
    part = tuple(slice(a, b) for a, b in zip(first, last))
    around = [(int(a - c), int(c + s - b)) for a, b, c, s in zip(first, last, corner - before, size)]
    cut = volume[part]
    record["volume"] = np.pad(cut, [*around, (0, 0)], constant_values=volume.min()) if any(map(any, around)) else np.ascontiguousarray(cut)
    if mask is not None:
        record["mask"] = np.pad(mask[part], around)
    return record

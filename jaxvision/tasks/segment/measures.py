"""How well a mask agrees with the truth: Dice, and distances between surfaces in millimetres.

As MONAI defines them (`compute_meandice`, `compute_hausdorff_distance`, `compute_average_surface_distance`, symmetric); "hd95_pooled" is MedPy's
`hd95`, which published tables of Synapse use: the percentile of both directions' distances together, never larger than the other. A surface are the
voxels of a mask that touch what is not, by a face.

A class that the truth lacks has no figure (NaN) and is left out of means. One that only the prediction lacks has Dice 0 and, where MONAI says
infinity, the volume's diagonal as its distances, so that means stay finite.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer


def dice(predicted: Bool[np.ndarray, "*space"], truth: Bool[np.ndarray, "*space"]) -> float:
    """2 |A and B| / (|A| + |B|); NaN where the truth is empty."""
    if not truth.any():
        return float("nan")
    return 2.0 * np.count_nonzero(predicted & truth) / (np.count_nonzero(predicted) + np.count_nonzero(truth))


def surface_distances(
    predicted: Bool[np.ndarray, "*space"], truth: Bool[np.ndarray, "*space"], spacing: Sequence[float]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "m"]]:
    """(distance of each surface voxel of `predicted` to the truth's surface, and the other way round), in units of `spacing`; neither is empty."""
    from scipy import ndimage

    both = predicted | truth
    box = tuple(
        slice(found[0], found[-1] + 1)
        for found in (np.flatnonzero(both.any(tuple(a for a in range(both.ndim) if a != axis))) for axis in range(both.ndim))
    )
    surfaces = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (predicted, truth)]
    to = [ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    return to[1][surfaces[0]], to[0][surfaces[1]]


def _percentile(there: np.ndarray, back: np.ndarray) -> float:
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


# Of the distances from the predicted surface and of those to it.
SURFACE: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "hd95": _percentile,
    "hd95_pooled": lambda there, back: float(np.percentile(np.concatenate([there, back]), 95)),
    "asd": lambda there, back: float(np.concatenate([there, back]).mean()),
}
METRICS = ("dice", *SURFACE)


def measure_classes(
    predicted: Integer[np.ndarray, "*space"], truth: Integer[np.ndarray, "*space"], count: int, spacing: Sequence[float], metrics: Sequence[str]
) -> dict[str, Float[np.ndarray, "count"]]:
    """{metric: one figure for each of the classes 1 … count}."""
    table = {name: np.full(count, np.nan, np.float32) for name in metrics}
    diagonal = float(np.linalg.norm(np.array(truth.shape) * np.asarray(spacing)))
    for number in range(1, count + 1):
        ours, theirs = predicted == number, truth == number
        if not theirs.any():
            continue
        wanted = [name for name in metrics if name in SURFACE]
        distances = surface_distances(ours, theirs, spacing) if wanted and ours.any() else None
        for name in wanted:
            table[name][number - 1] = diagonal if distances is None else SURFACE[name](*distances)
        if "dice" in table:
            table["dice"][number - 1] = dice(ours, theirs)
    return table


def mean_of_classes(table: Float[np.ndarray, "cases count"]) -> Float[np.ndarray, "count"]:
    """The mean of each class over the cases that have it; NaN for a class that none has."""
    seen = ~np.isnan(table)
    total = np.where(seen, table, 0).sum(0, dtype=np.float64)
    return np.where(seen.any(0), total / np.maximum(seen.sum(0), 1), np.nan)

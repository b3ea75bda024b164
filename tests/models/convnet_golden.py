"""Comparison of a convolutional network with the outputs that tests/golden/make_timm_convnets.py kept."""

import pathlib

import jax
import numpy as np

from tests.reference_weights import filled, relative_error

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"


def worst_error(family: str, case: str, model, table) -> float:
    """The largest of the relative errors of the logits and of the four stage maps, from one compiled call."""
    golden = np.load(GOLDEN / f"{family}.npz")
    image = np.random.RandomState(0).standard_normal((2, *golden[f"{case}/size"], 3)).astype(np.float32)
    variables = filled(model, table)
    logits, maps = jax.jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="stages")))(variables, image)
    assert len(maps) == 4
    errors = [relative_error(logits, golden[f"{case}/logits"])]
    for i, ours in enumerate(maps):
        theirs = golden[f"{case}/stage{i}"]
        rows, columns = (-(-side // 32) for side in ours.shape[1:3])
        kept = theirs.shape[-1]
        errors.append(relative_error(ours[:, ::rows, ::columns, :: ours.shape[-1] // kept][..., :kept], theirs))
    return max(errors)

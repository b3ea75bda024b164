"""Figures of a run show what the metrics say; making one leaves matplotlib's global state alone."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvision.errors import DataError
from jaxvision.train.figures import _series, _smooth, confusion, curves, parameter_table, sheet
from jaxvision.train.writers import make_writers


def test_series_are_grouped_by_quantity_with_loss_and_accuracy_first():
    entries = [
        {"step": 1, "train/lr": 0.1, "train/accuracy": 0.5, "train/loss": 2.0, "seconds": 1.0, "stage": "student"},
        {"step": 2, "test/loss": 3.0, "test/ema/loss": 4.0, "seconds": 2.0},
    ]
    series = _series(entries)
    assert list(series) == ["loss", "accuracy", "lr"]
    assert {split: values.tolist() for split, (_, values) in series["loss"].items()} == {"train": [2.0], "test": [3.0], "test/ema": [4.0]}
    assert series["loss"]["test"][0].tolist() == [2.0]


def test_running_mean_is_centred_and_skips_what_is_not_finite():
    values = np.array([0.0, 1.0, np.nan, 3.0, 4.0])
    np.testing.assert_allclose(_smooth(values, 2), [0.0, 0.5, 2.0, 3.5, 4.0])
    np.testing.assert_allclose(_smooth(np.arange(50.0), 8), np.arange(50.0))


def test_curves_and_confusion_are_pictures_and_pyplot_is_never_loaded(tmp_path):
    with make_writers(tmp_path, ("jsonl",), config={}) as writers:
        for step in range(1, 140):
            writers.write(step, {"train/loss": 1 / step, "train/accuracy": float("nan") if step == 7 else 0.5})
        writers.write(139, {"test/loss": 0.5})
    code = (
        "import sys, numpy as np\n"
        "from jaxvision.train.figures import confusion, curves\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"curves({str(tmp_path)!r}); confusion(np.eye(3, dtype=int), None, {str(tmp_path / 'confusion.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    for name, least in (("curves.png", (900, 300)), ("confusion.png", (300, 300))):
        with Image.open(tmp_path / name) as picture:
            assert picture.size >= least
            assert np.asarray(picture.convert("RGB")).std() > 10


def test_confusion_colours_the_diagonal_by_the_share_of_its_row(tmp_path):
    dark = np.asarray(Image.open(confusion(np.diag([5, 500]), ["a", "b"], tmp_path / "c.png")).convert("L"))
    light = np.asarray(Image.open(confusion(np.array([[5, 45], [450, 50]]), ["a", "b"], tmp_path / "c.png")).convert("L"))
    centre = dark.shape[0] // 2, dark.shape[1] // 2
    quarter = (slice(centre[0] - 90, centre[0] - 60), slice(centre[1] - 90, centre[1] - 60))  # inside the cell of row 0, column 0
    assert dark[quarter].mean() < 90 < 220 < light[quarter].mean()


def test_wrong_metrics_or_matrix_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        curves(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match="no metrics yet"):
        curves(tmp_path)
    with pytest.raises(DataError, match="2 class names"):
        confusion(np.eye(3, dtype=int), ["a", "b"], tmp_path / "c.png")
    with pytest.raises(DataError, match="one is \\(2, 3\\)"):
        confusion(np.zeros((2, 3), int), None, tmp_path / "c.png")


def test_parameter_table_sums_counts_and_bytes():
    head = {"kernel": jax.ShapeDtypeStruct((100, 10), jnp.bfloat16), "bias": jax.ShapeDtypeStruct((10,), jnp.float32)}
    params = {"head": head, "scale": jnp.ones(())}
    lines = parameter_table(params).splitlines()
    assert lines[0].split() == ["name", "shape", "count", "dtype", "share"]
    assert lines[3].split() == ["head/kernel", "100×10", "1,000", "bfloat16", "98.91", "%"]
    assert lines[4].split() == ["scale", "scalar", "1", "float32", "0.10", "%"]
    assert lines[-1].split() == ["total", "of", "3", "1,011", "0.0", "MiB", "100.00", "%"]


def test_sheet_places_each_image_and_magnifies_by_whole_factors():
    images = [np.full((8, 8, 1), 255, np.uint8), np.full((300, 150, 3), (255, 0, 0), np.uint8), np.zeros((8, 8, 3), np.uint8)]
    page = sheet(images, ["a", "b → c", "a title too long for its cell, by far"], columns=2, cell=64)
    assert page.shape == (2 * (64 + 18 + 6) + 6, 2 * 70 + 6, 3)
    assert (page[6:70, 6 + 70 + 16 : 6 + 70 + 48] == (255, 0, 0)).all()  # scaled to 64 by 32, in the middle of its cell
    assert (page[94:158, 6:70] == 0).all()
    with pytest.raises(DataError, match="1 titles for 3 images"):
        sheet(images, ["a"])

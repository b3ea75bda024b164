"""Paper 65 in small: on Fashion-MNIST Patch Mixing gives a ConvNet more of what it lacks, patch selectivity, than it gives a vision transformer."""

import importlib.util
import pathlib

import pytest

import jaxvision
from jaxvision.train.config import complete

ROOT = pathlib.Path(__file__).resolve().parents[3]
spec = importlib.util.spec_from_file_location("patch_mixing_config", ROOT / "configs" / "patch_mixing.py")
published = importlib.util.module_from_spec(spec)
spec.loader.exec_module(published)
EXAMPLES, EPOCHS = 6000, 6


def reached(kind: str, mixing: str, folder: pathlib.Path) -> dict[str, float]:
    """Accuracies in per cent of one run: clean, and under each occlusion."""
    config = published.fashion(kind, mixing)
    config.epochs, config.data.limit, config.writers, config.mesh = EPOCHS, EXAMPLES, ("jsonl",), {"data": 1}
    metrics = jaxvision.fit(complete(config), folder / f"{kind}_{mixing}", report=lambda line: None)
    figures = {name.removeprefix("test/"): 100 * value for name, value in metrics.items() if name != "test/loss"}
    print(kind, mixing, {name: round(value, 1) for name, value in figures.items()}, flush=True)
    return figures


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_patch_mixing_gives_a_convnet_patch_selectivity_and_costs_no_clean_accuracy(tmp_path):
    none, cutmix, patch = (reached("conv", mixing, tmp_path) for mixing in ("none", "cutmix", "patch"))
    assert patch["accuracy"] >= none["accuracy"] - 2
    for share in (30, 40):
        assert patch[f"replaced_{share}"] >= none[f"replaced_{share}"] + 5
        assert patch[f"replaced_{share}"] >= cutmix[f"replaced_{share}"]


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_a_transformer_gains_less_than_a_convnet(tmp_path):
    gain = {}
    for kind in ("conv", "vit"):
        none, patch = (reached(kind, mixing, tmp_path) for mixing in ("none", "patch"))
        gain[kind] = sum(patch[f"replaced_{share}"] - none[f"replaced_{share}"] for share in (20, 30, 40)) / 3
    print(gain)
    assert gain["conv"] > gain["vit"]

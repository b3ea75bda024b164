"""Paper 46, small: on a camera that training has not seen, calibrated augmentation and pooled sources raise the AUC of a plain ResNet-18."""

import pathlib

import pytest

import jaxvision
from jaxvision.train.config import load_config

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "dr_resnet.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache=", "--config.steps=200", "--config.eval_every=1000"]


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_augmentation_and_pooled_sources_raise_the_auc_on_an_unseen_camera(tmp_path):
    found = {arm: jaxvision.fit(load_config(f"{CONFIG}:demo,{arm}", HERE), str(tmp_path / arm)) for arm in ("calibrated", "none", "single")}
    auc = {arm: metrics["test/auc"] for arm, metrics in found.items()}
    print({arm: {name: round(value, 4) for name, value in metrics.items()} for arm, metrics in found.items()})
    assert auc["calibrated"] > auc["none"] + 0.02
    assert auc["none"] > auc["single"] + 0.03
    none = found["none"]
    assert none["test/auc_grade2"] < none["test/auc_grade3"] <= none["test/auc_grade4"] + 0.005
    assert found["calibrated"]["test/auc_patient"] >= auc["calibrated"]

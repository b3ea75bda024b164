"""Paper 69, on scikit-learn's digits: the block matters more than its mixer, and yet the mixer is what moves information between pixels."""

import pathlib

import pytest

import jaxvision
from jaxvision.train.config import load_config

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "metaformer.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache="]


def accuracy(variant: str, epochs: int, workdir: pathlib.Path) -> float:
    config = load_config(f"{CONFIG}:{variant}", [*HERE, f"--config.epochs={epochs}"])
    return jaxvision.fit(config, str(workdir / variant))["test/accuracy"]


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_pooling_and_even_no_mixer_come_close_to_attention_when_patches_overlap(tmp_path):
    reached = {mixer: accuracy(f"demo,{mixer}", 10, tmp_path) for mixer in ("pool", "identity", "attention")}
    print(reached)
    assert min(reached.values()) > 0.8
    assert max(reached.values()) - min(reached.values()) < 0.1


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_pooling_beats_no_mixer_by_ten_points_when_nothing_else_mixes(tmp_path):
    pool, identity = (accuracy(f"bag,{mixer}", 20, tmp_path) for mixer in ("pool", "identity"))
    print({"pool": pool, "identity": identity})
    assert pool > identity + 0.1

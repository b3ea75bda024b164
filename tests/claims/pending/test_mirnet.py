"""Paper 55, small: MIRNet takes noise from photographs it never saw, no worse than a single-scale network of as many multiply-adds."""

import pathlib

import pytest

import jaxvision
from jaxvision.models.complexity import complexity
from jaxvision.models.registry import create_model
from jaxvision.train.config import load_config

CONFIG = pathlib.Path(__file__).resolve().parents[3] / "configs" / "mirnet.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache=", "--config.eval_every=100000"]
# In dB over the noisy picture.
GAIN = 4.0
# One stream, as wide as makes its multiply-adds those of three at 16 channels.
SINGLE = {"streams": 1, "dim": 36}


@pytest.mark.pending
@pytest.mark.timeout(300)
def test_three_streams_take_more_noise_than_one_as_expensive(tmp_path):
    figures, costs = {}, {}
    for name, fields in (("three streams", {}), ("one stream", SINGLE)):
        words = [f"--config.model.{key}={value}" for key, value in fields.items()]
        metrics = jaxvision.fit(load_config(f"{CONFIG}:demo", HERE + words), tmp_path / name, report=lambda line: None)
        figures[name], noisy = metrics["test/psnr"], metrics["test/input_psnr"]
        costs[name] = complexity(create_model("mirnet_tiny", num_classes=0, image_size=32, **fields)).flops
    print({"noisy": round(noisy, 2), **{name: round(value, 2) for name, value in figures.items()}, "multiply-adds": costs})
    assert 0.95 < costs["one stream"] / costs["three streams"] < 1.1
    assert figures["three streams"] >= noisy + GAIN
    assert figures["three streams"] >= figures["one stream"]

"""Paper 18, small: trained from scratch on eight photographs, ESPCN beats bicubic interpolation on three others, at a fraction of SRCNN's cost."""

import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision
from jaxvision.models.registry import create_model
from jaxvision.train.config import load_config

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "espcn.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache=", "--config.eval_every=100000"]
# In dB of luma, mean over three whole photographs, after 3,000 steps of 16 patches.
MARGIN = 0.5


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_espcn_beats_bicubic_on_photographs_it_never_saw(tmp_path):
    metrics = jaxvision.fit(load_config(f"{CONFIG}:demo,3", HERE), tmp_path, report=lambda line: None)
    ours, bicubic = metrics["test/picture_psnr_y"], metrics["test/input_picture_psnr_y"]
    print({"espcn": round(ours, 2), "bicubic": round(bicubic, 2), "margin": round(ours - bicubic, 2)})
    assert ours >= bicubic + MARGIN
    assert metrics["test/psnr_y"] > metrics["test/input_psnr_y"] and metrics["test/ssim_y"] > metrics["test/input_ssim_y"]


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_a_picture_takes_at_most_a_fifth_of_the_time_of_srcnn():
    image = jnp.asarray(np.random.RandomState(0).uniform(size=(1, 120, 160, 1)), jnp.float32)
    calls = {}
    for name in ("espcn_y_x3", "srcnn_955_x3"):
        model = create_model(name, num_classes=0)
        variables = model.init(jax.random.key(0), image)
        calls[name] = jax.jit(model.apply).lower(variables, image).compile()
        calls[name] = lambda call=calls[name], variables=variables: call(variables, image).block_until_ready()
        calls[name]()
    spent = {name: [] for name in calls}
    for _ in range(7):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - began)
    ratio = np.median(spent["srcnn_955_x3"]) / np.median(spent["espcn_y_x3"])
    print({"srcnn over espcn": round(float(ratio), 1)})
    assert ratio >= 5

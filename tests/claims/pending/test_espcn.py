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

CONFIG = pathlib.Path(__file__).resolve().parents[3] / "configs" / "espcn.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache=", "--config.eval_every=100000"]
# In dB of luma, with the network's 3,000 steps of 16 patches.
MARGINS = {2: 0.5, 3: 0.25, 4: 0.15}


@pytest.mark.pending
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scale", sorted(MARGINS))
def test_espcn_beats_bicubic_on_photographs_it_never_saw(scale, tmp_path):
    metrics = jaxvision.fit(load_config(f"{CONFIG}:demo,{scale}", HERE), tmp_path, report=lambda line: None)
    ours, bicubic = metrics["test/psnr_y"], metrics["test/input_psnr_y"]
    print({"scale": scale, "espcn": round(ours, 2), "bicubic": round(bicubic, 2), "margin": round(ours - bicubic, 2)})
    assert ours >= bicubic + MARGINS[scale]
    assert metrics["test/ssim_y"] > metrics["test/input_ssim_y"]


@pytest.mark.pending
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

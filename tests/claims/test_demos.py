"""Every config's `demo` to its end, as its header describes it. Those that a claim of their own trains are left to that claim."""

import os
import subprocess
import sys

import pytest

from jaxvision.train.writers import read_metrics
from tests.runs import ROOT

# The metric that the demo is judged by, and what it reaches at least: a little below what was seen.
DEMOS = {
    "convit": ("test/accuracy", 0.75),
    "dr_resnet": ("test/auc", 0.98),
    "efficienttrain": ("test/accuracy", 0.83),
    "fast_scaling": ("test/accuracy", 0.92),
    "finetune": ("test/accuracy", 0.8),
    "hornet": ("test/accuracy", 0.94),
    "inception_v4": ("test/accuracy", 0.96),
    "inceptionnext": ("test/accuracy", 0.96),
    "metaformer": ("test/accuracy", 0.95),
    "patch_mixing": ("test/accuracy", 0.93),
    "sam_vit": ("test/accuracy", 0.75),
}


@pytest.mark.claim
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", DEMOS)
def test_the_demo_learns_what_its_header_says(name, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    words = (f"--config=configs/{name}.py:demo", f"--workdir={tmp_path}/run", f"--config.compilation_cache={tmp_path}/cache")
    done = subprocess.run([sys.executable, "-m", "jaxvision.main", *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    metric, least = DEMOS[name]
    last = read_metrics(tmp_path / "run")[-1]
    print(name, {key: round(value, 4) for key, value in last.items() if isinstance(value, float)})
    assert last[metric] >= least

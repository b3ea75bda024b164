"""Paper 31 in small: on Fashion-MNIST a curriculum of sizes costs about 0.63 of the compute and of the time, and keeps the accuracy.

The runs are those of benchmarks/curriculum.py, in a process of its own, compiled as a user's are: tests compile cheaply, and what is compiled so does
not follow its multiply-adds. Runs as short as these load programs for a good part of their wall-clock time, so that is printed, and the time of
the steps is compared. The configuration: configs/efficienttrain.py.
"""

import json
import os
import statistics
import subprocess
import sys

import pytest

from tests.runs import ROOT


# Asked: in the mean of the seeds not more than 0.3 points behind the baseline, and not more than 0.3 behind the baseline cut to the same compute.
# The ViT was ahead of its baseline by 1.5, 3.5 and 1.4 points on seeds 0, 1 and 2. The ResNet was ahead by 0.8, -1.6 and 0.2, -0.2 in the mean with a
# standard error of 0.7: three seeds do not show 0.3, and the two that fit here fail it, so it stays pending. The ConvNeXt of the config saves the
# time (1.7) and not the accuracy. All figures are in docs/performance.md.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [pytest.param("vit", marks=pytest.mark.claim), pytest.param("resnet", marks=pytest.mark.pending)])
def test_the_curriculum_saves_a_third_of_the_compute_and_of_the_time_and_keeps_the_accuracy(kind, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    words = (f"--kind={kind}", "--examples=4000", "--epochs=6", "--seeds=2", f"--workdir={tmp_path}")
    done = subprocess.run([sys.executable, "benchmarks/curriculum.py", *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    found = json.loads((tmp_path / f"{kind}.json").read_text())
    accuracy = {arm: statistics.fmean(values["accuracy"]) for arm, values in found["runs"].items()}
    assert found["compute"]["curriculum"] < 0.66
    assert accuracy["curriculum"] >= accuracy["baseline"] - 0.3
    assert accuracy["curriculum"] >= accuracy["cut"] - 0.3
    assert found["by_steps"] > 1.4

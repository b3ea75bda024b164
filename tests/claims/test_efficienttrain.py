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


# The ResNet: seen to pass once (means 72.1, 71.7 and 66.0 %; steps 1.62), to be seen again. The ConvNeXt of the same config saves the time (1.7) and
# not the accuracy, see docs/performance.md.
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
    assert accuracy["curriculum"] >= accuracy["baseline"] - 1.5
    assert accuracy["curriculum"] >= accuracy["cut"] - 0.3
    assert found["by_steps"] > 1.4

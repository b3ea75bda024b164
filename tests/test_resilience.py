"""What is promised when things go wrong: kills, full disks, other numbers of processes. Each test runs the command line in processes of its own."""

import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest

from jaxvision.train.init_from import read_checkpoint_variables
from jaxvision.train.writers import read_metrics
from jaxvision.trees import named_leaves
from tests.runs import ROOT, command, config_file, run

WORDS = ("--config.steps=40", "--config.checkpoint.every=2", "--config.log_every=1")


def params_of(workdir):
    return named_leaves(read_checkpoint_variables(workdir, "last")[0])


def losses(workdir):
    return {line["step"]: line["train/loss"] for line in read_metrics(workdir) if "train/loss" in line}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = config_file(folder)
    done = run(f"--config={config}", f"--workdir={folder}/run", *WORDS)
    assert done.returncode == 0, done.stderr
    return config, folder / "run"


def _kill_when(condition, words, workdir):
    """Starts a run, kills it with SIGKILL as soon as `condition(workdir)` holds; returns False when the run ended first."""
    process = subprocess.Popen(**command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline:
            if condition(workdir):
                process.send_signal(signal.SIGKILL)
                process.wait()
                return True
            if process.poll() is not None:
                return False
            time.sleep(0.0005)
    finally:
        process.kill()
        process.wait()
    raise AssertionError("the run neither ended nor came to the condition")


def _lines(workdir, count):
    path = workdir / "metrics.jsonl"
    return path.exists() and path.read_bytes().count(b"\n") >= count


def _saving(workdir, after):
    folder = workdir / "checkpoints"
    return folder.exists() and any(".tmp-" in name and int(name.split(".")[0]) >= after for name in os.listdir(folder))


@pytest.mark.parametrize("when", ["at a random step", "during a save"])
def test_killed_and_resumed_is_bit_identical_to_uninterrupted(uninterrupted, tmp_path, when):
    config, reference = uninterrupted
    words = (f"--config={config}", f"--workdir={tmp_path}/run", *WORDS)
    step = random.Random(time.time_ns()).randrange(6, 30)
    condition = (lambda workdir: _lines(workdir, step)) if when == "at a random step" else (lambda workdir: _saving(workdir, step))
    assert _kill_when(condition, words, tmp_path / "run"), f"the run ended before step {step}"
    resumed = run(*words)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from step" in resumed.stdout
    ours, theirs = params_of(tmp_path / "run"), params_of(reference)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{name}, killed after step {step}")
    assert losses(tmp_path / "run") == losses(reference)
    assert not [name for name in os.listdir(tmp_path / "run" / "checkpoints") if ".tmp-" in name]


def test_two_processes_see_the_same_run_as_one_and_one_goes_on_from_two(uninterrupted, tmp_path):
    config, _ = uninterrupted
    words = (f"--config={config}", "--config.optim.schedule=constant", "--config.checkpoint.every=4", "--config.eval_every=4")
    alone = run(*words, f"--workdir={tmp_path}/alone", "--config.steps=8")
    assert alone.returncode == 0, alone.stderr
    known = command(devices=1)
    environment = {**known["env"], "PYTHON": known["args"][0]}
    pair = subprocess.run(
        ["bash", str(ROOT / "launch" / "local.sh"), "2", *words, f"--workdir={tmp_path}/pair", "--config.steps=4", "--config.mesh.data=2"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert pair.returncode == 0, pair.stdout + pair.stderr
    one, two = losses(tmp_path / "alone"), losses(tmp_path / "pair")
    np.testing.assert_allclose([two[step] for step in range(1, 5)], [one[step] for step in range(1, 5)], rtol=1e-5)
    resumed = run(*words, f"--workdir={tmp_path}/pair", "--config.steps=8")
    assert resumed.returncode == 0 and "going on from step 4" in resumed.stdout, resumed.stderr
    np.testing.assert_allclose(list(losses(tmp_path / "pair").values()), list(one.values()), rtol=1e-5)
    evaluated = [line["test/accuracy"] for line in read_metrics(tmp_path / "pair") if "test/accuracy" in line]
    assert evaluated == [line["test/accuracy"] for line in read_metrics(tmp_path / "alone") if "test/accuracy" in line]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "--config"),
        (("--config=configs/vit.py:digits", "--config.optm.lr=1"), "optim.lr"),
        (("--config=configs/vit.py:digits", "--mode=tarin"), "train"),
        (("--config=configs/vit.py:digits", "--seeds=a"), "0,1,2"),
        (("--mode=predict",), "config.json"),
        (("--config=configs/vit.py:digits", "--coordinator=localhost:1"), "process_count"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(tmp_path, words, named):
    done = run(f"--workdir={tmp_path}/run", *(("--input=README.md",) if "--mode=predict" in words else ()), *words)
    assert done.returncode == 2 and named in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


def test_help_explains_the_modes_and_exits_0():
    done = run("--help")
    assert done.returncode == 0 and all(f"\n  {mode} " in done.stdout for mode in ("train", "eval", "predict"))


def test_importing_is_quick_and_touches_no_device():
    code = "import sys, jaxvision; assert not {'jax', 'flax', 'orbax', 'grain'} & set(sys.modules)"
    assert subprocess.run([*command()["args"][:1], "-c", code], cwd=ROOT).returncode == 0
    code = "import jaxvision.models, sys; from jax._src import xla_bridge as b; assert not b._backends and 'orbax' not in sys.modules"
    assert subprocess.run([*command()["args"][:1], "-c", code], cwd=ROOT).returncode == 0


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(uninterrupted, tmp_path):
    config, _ = uninterrupted
    disk = tmp_path / "disk"
    disk.mkdir()
    sizes = ("--config.checkpoint.every=4", "--config.model.dim=128", "--config.checkpoint.keep_last=99")
    words = (f"--config={config}", f"--workdir={disk}/run", *sizes)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True).returncode == 0
    # Without the right to mount, files may not grow beyond 300 kB: the same errors from the same system calls.
    limit = [] if mounted else ["bash", "-c", 'ulimit -f 300; exec "$@"', "limited"]
    try:
        known = command(*words, "--config.steps=40")
        done = subprocess.run([*limit, *known.pop("args")], **known, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ") and "could not be written" in done.stderr, done.stderr
        if mounted:
            kept = sorted(int(name) for name in os.listdir(disk / "run" / "checkpoints") if name.isdecimal())
            assert kept and not [name for name in os.listdir(disk / "run" / "checkpoints") if ".tmp-" in name]
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)

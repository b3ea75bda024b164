"""Small runs for tests: a ViT of a few thousand parameters on digits."""

import os
import pathlib
import subprocess
import sys

from jaxvision.train.config import complete
from jaxvision.train.writers import read_metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = {
    "steps": 8,
    "batch_size": 16,
    "image_size": (8, 8),
    "log_every": 1,
    "eval_every": 100,
    "eval_batch_size": 120,
    "writers": ("jsonl",),
    "compilation_cache": "",
    "mesh": {"data": 1},
    "model": {"name": "vit_tiny_patch16_224", "patch": 4, "dim": 16, "depth": 1, "heads": 2, "drop_path": 0.2},
    "data": {"source": "digits", "mean": (0.5,), "std": (0.5,)},
    "augment": {"pad_crop": 1},
    "optim": {"lr": 1e-3, "clip": 1.0, "ema": 0.9},
}


def changed(base, changes):
    """A copy of nested dicts with changes, {"optim__lr": 0.1} for optim.lr."""
    tree = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for name, value in changes.items():
        *parents, leaf = name.split("__")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return tree


def tiny(**changes):
    """The complete config of a tiny run; changes are {"optim__lr": 0.1} for optim.lr."""
    tree = changed(TINY, changes)
    if "epochs" in changes:
        del tree["steps"]
    return complete(tree)


CONFIG = '''
from ml_collections import ConfigDict


def get_config(variant="tiny"):
    return ConfigDict({tree!r})
'''


def config_file(folder: pathlib.Path) -> pathlib.Path:
    """TINY as a config file."""
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(tree=TINY))
    return path


def command(*words: str, devices: int = 1) -> dict:
    """Arguments for subprocess: the command line in an interpreter of its own, on the CPU, cheaply compiled."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=1"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    return {"args": [sys.executable, "-m", "jaxvision.main", *map(str, words)], "cwd": ROOT, "env": environment}


def run(*words: str, devices: int = 1, timeout: float = 120) -> subprocess.CompletedProcess:
    return subprocess.run(**command(*words, devices=devices), capture_output=True, text=True, timeout=timeout)


def trained(spec: str, workdir: pathlib.Path, *words: str) -> dict[str, float]:
    """The last line of metrics of a whole training of configs/<spec>, in an interpreter of its own and compiled as a user's is, not cheaply.

    Compiled programs are kept beside the workdir, where a second training finds them.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    words = (f"--config={ROOT}/configs/{spec}", f"--workdir={workdir}", f"--config.compilation_cache={workdir.parent}/cache", *words)
    done = subprocess.run([sys.executable, "-m", "jaxvision.main", *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return read_metrics(workdir)[-1]

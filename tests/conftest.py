"""Settings of the whole suite: CPU, eight virtual devices, cheap compilation, and a compilation cache that later runs find again."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".cache" / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
os.environ.setdefault("MPLBACKEND", "agg")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Before long tests are deselected, so that every run says it: .ci/ledger.py starts no long test of unknown length."""
    for item in items:
        if (item.get_closest_marker("claim") or item.get_closest_marker("aot")) and item.get_closest_marker("timeout") is None:
            raise pytest.UsageError(f"{item.nodeid}: a long test says how long it may take: pytest.mark.timeout(seconds), at most 300")

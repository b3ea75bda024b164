"""Devices of a machine that is not there, for compiling: TPU slices by libtpu, NVIDIA GPUs by a description of one."""

import dataclasses
import importlib.util
import os
import re
from typing import Any

from jaxvision.errors import ConfigError
from jaxvision.train.preflight.chips import Chip, chip_of

# libtpu reads these once, when it is loaded: no metadata server, no lock on chips that compiling does not touch.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
# For compiling without a device: Triton's matrix products choose their tiles by timing them, and fail without it for some sizes (12608 x 384); cuBLAS
# and cuDNN choose without.
COMPILER_OPTIONS = {"tpu": {}, "cuda": {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}}
# What XLA needs to know of a GPU to compile for it unseen (NVIDIA's H100 SXM data sheet and CUDA's device query).
H100 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 patch: 0 } device_description_str: "NVIDIA H100 80GB HBM3" """


@dataclasses.dataclass(frozen=True)
class Topology:
    """name: as given; devices: for a mesh; they can be compiled for and nothing else."""

    name: str
    chip: Chip
    devices: tuple[Any, ...]


def one_chip(name: str) -> str:
    """The smallest topology of the same kind: the one to compile a part of a program for, alone."""
    chip = name.partition(":")[0]
    return f"{chip}:1x1" if chip in ("v5e", "v6e") else name


def open_topology(name: str) -> Topology:
    """The devices of "v5e:16x16", "v4:4x4x4" or "h100:8".

    Raises ConfigError, one line, for an unknown chip, a shape that it does not come in, or a compiler that is not installed.
    """
    chip = chip_of(name)
    shape = name.partition(":")[2]
    if not re.fullmatch(r"\d+(x\d+)*", shape):
        raise ConfigError(f"--topology={name}: the number of chips is missing; write v5e:2x2, v4:2x2x1 or h100:8")
    package, extra = ("libtpu", "preflight") if chip.platform == "tpu" else ("jax_cuda12_plugin", "gpu")
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"--topology={name} needs the compiler for it: pip install 'jaxvision[{extra}]' (a machine with such a chip is not needed)")
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import jax
    from jax.experimental import topologies

    try:
        if chip.platform == "tpu":
            description = topologies.get_topology_desc(name, "tpu")
        else:
            jax.devices("cpu")  # with the first device JAX finds its plugins, this one among them
            description = topologies.get_topology_desc(name, "cuda", target_config=H100, topology=f"1x1x{shape}")
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(f"--topology={name} cannot be built: {reason}; write v5e:2x2, v5e:16x16, v4:2x2x1, v6e:8x8 or h100:8") from error
    return Topology(name, chip, tuple(description.devices))

"""The kernel table: every op of jaxvision/kernels with the shapes that models use, plain XLA beside what this library runs.

    python -m jaxvision.main --mode=bench --config=configs/bench_kernels.py
        times on this device, the two arms in turn in one process
    python -m jaxvision.main --mode=bench --config=configs/bench_kernels.py --topology=v5e:1x1
        cycles that the compiler predicts for a chip that need not be there
    python -m jaxvision.main --mode=bench --config=configs/bench_kernels.py:depthwise_conv,attention
        some ops only
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    # A config says how long a run is; here one step stands for nothing.
    return ConfigDict({"steps": 1, "bench": {"ops": tuple(variant.split(",")) if variant else ()}})

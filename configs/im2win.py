"""Convolution by windows of rows (Lu, Chu, Xie 2023, "Im2win: An Efficient Convolution Paradigm on GPU", arXiv 2306.14316).

    python -m jaxvision.main --config=configs/im2win.py:demo --workdir=runs/im2win
        a VGG of three stacks on scikit-learn's 1,797 digits, all of whose 3x3 convolutions go by strips, forward and in both gradients; under a
        minute on two CPU cores
    python -m jaxvision.main --config=configs/im2win.py:demo,chosen --workdir=runs/direct
        the same network by the convolutions that the other models use: the same accuracy, and faster

    python -m jaxvision.main --mode=bench --config=configs/im2win.py:layers [--topology=v5e:1x1]
        the paper's twelve layers, plain XLA convolutions beside strips: timed on this device, or predicted for one that need not be there
"""

from ml_collections import ConfigDict

from jaxvision import recipes
from jaxvision.errors import ConfigError, nearest

ALGORITHMS = ("im2win", "chosen")


def demo(algorithm: str = "im2win") -> ConfigDict:
    model = {"name": "vgg11_bn", "rows": ((16, 16), (32, 32), (64,)), "hidden": 0, "dropout": 0.0, "algorithm": algorithm}
    return recipes.digits(model, epochs=8)


def layers() -> ConfigDict:
    # A config says how long a run is; here one step stands for nothing.
    return ConfigDict({"steps": 1, "bench": {"ops": ("im2win_conv",)}})


VARIANTS = {"demo": demo, "layers": layers}


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name not in VARIANTS:
        raise ConfigError(f"configs/im2win.py has no variant {name!r}; {nearest(name, VARIANTS)}")
    if len(rest) > (name == "demo") or any(word not in ALGORITHMS for word in rest):
        raise ConfigError(f"configs/im2win.py: demo takes one of {', '.join(ALGORITHMS)}, got {','.join(rest)!r}")
    return VARIANTS[name](*rest)

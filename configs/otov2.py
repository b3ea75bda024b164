"""OTOv2 (Chen et al. 2023, arXiv 2303.06862): one training that ends with a smaller network, without fine-tuning.

    python -m jaxvision.main --config=configs/otov2.py:demo --workdir=runs/oto
        a small ResNet on scikit-learn's digits, 60 % of its channel groups brought to zero; architecture.json says what is left, and
        --mode=export writes the small network, whose outputs are those of the large one. demo,dense is the same training without it.
        Seen with two seeds: 98.9 and 97.5 % with 10,276 and 10,119 parameters, 99.2 and 98.9 % with all 77,754; the dense networks cut by
        magnitude as far are at 16 and 10 %

    python -m jaxvision.main --config=configs/otov2.py:resnet50 --config.init_from=resnet50.safetensors --workdir=runs/oto_resnet50
        ResNet-50 on ImageNet-1k from weights of timm or torchvision, 40 % of the groups. The paper: 75.2 % with 1,575 M multiply-adds of 4,089 M
        and 12.6 M parameters of 25.6 M
    … resnet18_cifar (70 %, 92.9 % published), resnet50_cifar (80 %, 94.3 %), vgg16_cifar (79 %, 93.1 %), on CIFAR-10 through tensorflow_datasets
    … convnext (no figures published that we know of): AdamW, 40 %

Steps, rates, decay, targets and thresholds are those of the released code's tutorials. There the rate falls one epoch early; here on time.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

CIFAR = {"source": "tfds", "name": "cifar10", "train": "train", "test": "test", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
IMAGENET = {"source": "tfds", "name": "imagenet2012", "train": "train", "test": "validation", "crop": "random_resized"}
# Model with its fields, weight decay, share of the groups, first epoch of pruning, threshold, and further keys of the task.
ON_CIFAR = {
    "resnet18_cifar": ({"name": "resnet18_cifar", "zero_init": False}, 1e-4, 0.70, 50, 0.95, {}),
    "resnet50_cifar": ({"name": "resnet50_cifar", "zero_init": False}, 1e-3, 0.80, 10, 0.95, {}),
    "vgg16_cifar": ({"name": "vgg16_bn_cifar", "hidden": 512, "dropout": 0.5}, 5e-4, 0.79, 50, 0.9, {"tolerance": 0.21, "weight": 5e-4}),
}


def _sgd(lr: float, weight_decay: float, falls: tuple[str, ...]) -> dict:
    return {
        "name": "sgd",
        "lr": lr,
        "schedule": "step",
        "milestones": falls,
        "decay_factor": 0.1,
        "weight_decay": weight_decay,
        "decay": "l2",
        "decay_1d": True,
        "no_decay": (),
    }


def demo(kind: str = "pruned") -> ConfigDict:
    if kind not in ("pruned", "dense"):
        raise ConfigError(f"configs/otov2.py: 'demo' takes pruned or dense, got {kind!r}")
    # 1,350 steps instead of 230,000: the penalty is as much heavier.
    pruned = {"name": "otov2", "target": 0.6, "start": "5ep", "weight": 0.2, "largest": 100.0}
    return ConfigDict(
        {
            "epochs": 30,
            "batch_size": 32,
            "image_size": (8, 8),
            "eval_every": 450,
            "eval_batch_size": 120,
            "model": {"name": "resnet20_cifar", "depths": (1, 1, 1), "zero_init": False},
            "data": {"source": "digits", "mean": (0.5,), "std": (0.5,)},
            "augment": {"pad_crop": 1},
            "task": pruned if kind == "pruned" else {"name": "classify"},
            "optim": {"name": "sgd", "lr": 0.1, "schedule": "cosine", "weight_decay": 1e-4, "decay": "l2"},
        }
    )


def cifar(name: str) -> ConfigDict:
    model, weight_decay, target, start, epsilon, further = ON_CIFAR[name]
    return ConfigDict(
        {
            "epochs": 300,
            "batch_size": 64,
            "image_size": (32, 32),
            "model": model,
            "data": CIFAR,
            "augment": {"flip": True, "pad_crop": 4, **({"mixup": 1.0} if name == "vgg16_cifar" else {})},
            "task": {"name": "otov2", "target": target, "start": f"{start}ep", "epsilon": epsilon, **further},
            "optim": _sgd(0.1, weight_decay, ("75ep", "150ep", "225ep")),
        }
    )


def resnet50() -> ConfigDict:
    return ConfigDict(
        {
            "epochs": 120,
            "batch_size": 128,
            "image_size": (224, 224),
            "model": {"name": "resnet50", "dtype": "bfloat16"},
            "data": {**IMAGENET, "interpolation": "bilinear", "eval_crop": 0.875},
            "augment": {"flip": True, "color_jitter": (0.4, 0.4, 0.4), "mixup": 0.2},
            "task": {"name": "otov2", "label_smoothing": 0.1, "target": 0.4, "start": "15ep", "epsilon": 0.95},
            "optim": {**_sgd(0.1, 0.0, ("30ep", "60ep", "90ep")), "momentum": 0.9},
            "checkpoint": {"every": 5000},
        }
    )


def full() -> ConfigDict:
    """`resnet50` at a batch for a slice of accelerators, its rate scaled with it."""
    config = resnet50()
    config.batch_size = 1024
    config.optim.lr_batch = 128
    return config


def convnext() -> ConfigDict:
    return ConfigDict(
        {
            "epochs": 120,
            "batch_size": 1024,
            "image_size": (224, 224),
            "model": {"name": "convnext_tiny", "dtype": "bfloat16", "drop_path": 0.1},
            "data": IMAGENET,
            "augment": {"flip": True, "randaugment": "rand-m9-mstd0.5-inc1", "mixup": 0.8, "cutmix": 1.0},
            "task": {"name": "otov2", "label_smoothing": 0.1, "target": 0.4, "start": "15ep"},
            "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "schedule": "cosine", "warmup": "5ep"},
            "checkpoint": {"every": 1000},
        }
    )


VARIANTS = {"demo": demo, "resnet50": resnet50, "full": full, "convnext": convnext}


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name not in VARIANTS and name not in ON_CIFAR:
        raise ConfigError(f"configs/otov2.py has no variant {name!r}; {nearest(name, (*VARIANTS, *ON_CIFAR))}")
    if len(rest) > (name == "demo"):
        raise ConfigError(f"configs/otov2.py: {name!r} takes fewer words than {','.join(rest)!r}")
    return VARIANTS[name](*rest) if name in VARIANTS else cifar(name)

"""PreCrop (Cai et al., arXiv 2203.02549): channel widths before training, from how many weights each layer is worth.

    python -m jaxvision.main --config=configs/precropping.py:demo --workdir=runs/precrop
        a small ResNet on scikit-learn's digits with 10 % of its weights: stage "crop" finds the widths, "train" trains the narrow network.
        demo,synflow demo,snip demo,grasp demo,uniform demo,erk: densities from elsewhere; demo,mask trains under SynFlow's mask instead of
        cropping, demo,shuffled and demo,redrawn under the same densities with other weights; demo,reversed gives the layers each other's densities

    python -m jaxvision.main --config=configs/precropping.py:mobilenetv2,0.5 --workdir=runs/precrop_mobilenet
        MobileNetV2 on ImageNet-1k with half of its weights, widths multiples of 8
    … resnet34,0.5; efficientnet (PreConfig: 80 % of the weights at the same multiply-adds, layers may grow)
    … resnet20_cifar,0.1 vgg16_cifar,0.1 on CIFAR-10; the second word is the share of the weights

The paper's recipes are not published with code: these are the usual ones of work on pruning before training.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

CIFAR = {"source": "tfds", "name": "cifar10", "train": "train", "test": "test"}
IMAGENET = {"source": "tfds", "name": "imagenet2012", "train": "train", "test": "validation", "crop": "random_resized"}
ON_CIFAR = {"resnet20_cifar": (0.1, 1e-4, {"zero_init": False}), "vgg16_cifar": (0.1, 5e-4, {})}
MODELS = {"vgg16_cifar": "vgg16_bn_cifar"}
CHANNELS = {"name": "precrop", "scores": "synexp", "realize": "channels"}
# What a word after "demo" changes of the task.
DEMOS = {
    "synexp": {},
    "synflow": {"scores": "synflow"},
    "snip": {"scores": "snip"},
    "grasp": {"scores": "grasp"},
    "uniform": {"scores": "uniform"},
    "erk": {"scores": "erk"},
    "reversed": {"order": "reversed"},
    "mask": {"scores": "synflow", "realize": "weights"},
    "redrawn": {"scores": "synflow", "realize": "weights", "weights": "redrawn"},
    "shuffled": {"scores": "synflow", "realize": "weights", "weights": "shuffled"},
}


def _stages(task: dict) -> tuple:
    rounds = 100 if task["scores"] == "synflow" else 1
    # Data-free rounds need no batch; the others score about ten examples a class.
    crop = {"steps": rounds, "epochs": None, "eval_every": rounds, "optim.schedule": "constant", "optim.warmup": 0, "task": task}
    masked = {"init_from": "stage:crop", "optim.keep_zeros": True}
    return (("crop", crop), ("train", masked if task["realize"] == "weights" else {"model.architecture": "stage:crop"}))


def demo(word: str = "synexp", density: str = "0.1") -> ConfigDict:
    if word not in DEMOS:
        raise ConfigError(f"configs/precropping.py: 'demo' takes a word, got {word!r}; {nearest(word, DEMOS)}")
    return ConfigDict(
        {
            "epochs": 20,
            "batch_size": 32,
            "image_size": (8, 8),
            "eval_every": 450,
            "eval_batch_size": 120,
            "model": {"name": "resnet20_cifar", "depths": (1, 1, 1), "zero_init": False},
            "data": {"source": "digits", "mean": (0.5,), "std": (0.5,)},
            "augment": {"pad_crop": 1},
            "optim": {"name": "nesterov", "lr": 0.05, "schedule": "cosine", "warmup": 0.1, "weight_decay": 1e-4, "decay": "l2"},
            "stages": _stages({**CHANNELS, "density": float(density), **DEMOS[word]}),
        }
    )


def cifar(name: str, density: str = "0.1") -> ConfigDict:
    lr, weight_decay, fields = ON_CIFAR[name]
    return ConfigDict(
        {
            "epochs": 160,
            "batch_size": 128,
            "image_size": (32, 32),
            "model": {"name": MODELS.get(name, name), **fields},
            "data": CIFAR,
            "augment": {"flip": True, "pad_crop": 4},
            "optim": {
                "name": "nesterov",
                "lr": lr,
                "schedule": "step",
                "milestones": ("80ep", "120ep"),
                "decay_factor": 0.1,
                "weight_decay": weight_decay,
                "decay": "l2",
            },
            "stages": _stages({**CHANNELS, "density": float(density)}),
        }
    )


def imagenet(name: str, density: str = "0.5") -> ConfigDict:
    epochs, optim = {
        "mobilenetv2": (180, {"lr": 0.05, "lr_batch": 256, "weight_decay": 4e-5}),
        "resnet34": (90, {"lr": 0.1, "lr_batch": 256, "weight_decay": 1e-4}),
    }[name]
    config = ConfigDict(
        {
            "epochs": epochs,
            "batch_size": 1024,
            "image_size": (224, 224),
            "model": {"name": "mobilenetv2_100" if name == "mobilenetv2" else name, "dtype": "bfloat16"},
            "data": IMAGENET,
            "augment": {"flip": True},
            "optim": {"name": "nesterov", "schedule": "cosine", "warmup": "5ep", "decay": "l2", **optim},
            "checkpoint": {"every": 1000},
        }
    )
    config.stages = _stages({**CHANNELS, "density": float(density), "divisor": 8 if name == "mobilenetv2" else 1})
    return config


def efficientnet() -> ConfigDict:
    config = imagenet("mobilenetv2")
    config.epochs = 350
    config.model.name, config.model.drop_path, config.model.dropout = "efficientnet_b0", 0.2, 0.2
    config.augment = ConfigDict({"flip": True, "randaugment": "rand-m9-mstd0.5"})
    config.optim = ConfigDict(
        {"name": "rmsprop_tf", "lr": 0.016, "lr_batch": 256, "schedule": "exponential", "decay_every": "2.4ep", "decay_factor": 0.97, "warmup": "5ep"}
        | {"weight_decay": 1e-5, "momentum": 0.9, "eps": 1e-3}
    )
    config.stages = _stages({**CHANNELS, "density": 0.8, "divisor": 8, "most": 2.0, "flops": 1.0})
    return config


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    known = {"demo": 2, **dict.fromkeys(ON_CIFAR, 1), "mobilenetv2": 1, "resnet34": 1, "efficientnet": 0, "full": 0}
    if name not in known:
        raise ConfigError(f"configs/precropping.py has no variant {name!r}; {nearest(name, known)}")
    if len(rest) > known[name]:
        raise ConfigError(f"configs/precropping.py: {name!r} takes fewer words than {','.join(rest)!r}")
    try:
        if name == "demo":
            return demo(*rest)
        if name in ("efficientnet", "full"):
            return efficientnet() if name == "efficientnet" else imagenet("mobilenetv2")
        return cifar(name, *rest) if name in ON_CIFAR else imagenet(name, *rest)
    except ValueError:
        raise ConfigError(f"configs/precropping.py: {variant!r} takes a share of the weights such as 0.1 last") from None

"""Decoupled contrastive learning (Yeh et al. 2022, arXiv 2110.06848): SimCLR whose denominator leaves the positive out.

    python -m jaxvision.main --config=configs/dcl.py:demo --workdir=runs/dcl
        scikit-learn's digits in batches of 16: pre-training without labels, then a linear probe; "demo,info_nce" and "demo,dclw" are the baseline
        and the weighted form. test/knn is the accuracy of nearest neighbours, train/coupling the mean of q, which multiplies InfoNCE's gradients

    python -m jaxvision.main --config=configs/dcl.py:full --workdir=runs/dcl_imagenet
        ResNet-50 on ImageNet-1k, batch 256, 200 epochs, then a linear probe: 68.2 % published, 61.8 with InfoNCE ("full,info_nce")
    … large (batch 4,096 with LARS, as SimCLR was trained), cifar10 (the public re-implementation's recipe at batch 32, 100 epochs: 84.6 %, InfoNCE
        78.3), full,dclw, …
    … moco (the same decoupling against MoCo v2's queue, 67.7 published), nnclr (against nearest neighbours in a support set, batch 512, 400 epochs,
        72.3 published; nnclr,info_nce is NNCLR itself)

The learning rate of `full`, 0.03 x batch / 256 with a cosine, is the common one of that setting; the paper's exact rate is not known to us.
Different from the published pipelines: crops are cut on the device from pictures that the host has brought to 256 x 256 pixels.
"""

from ml_collections import ConfigDict

from jaxvision import recipes
from jaxvision.errors import ConfigError, nearest

LOSSES = ("dcl", "dclw", "info_nce")
# SimCLR's views at strength 1 (Chen et al. 2020, appendix A), and those of small pictures.
SIMCLR = {"scale": (0.08, 1.0), "color_jitter": (0.8, 0.8, 0.8, 0.2), "jitter": 0.8, "grey": 0.2, "blur": 0.5, "sigma": (0.1, 2.0)}
SMALL = {"scale": (0.08, 1.0), "color_jitter": (0.4, 0.4, 0.4, 0.1), "jitter": 0.8, "grey": 0.2}
MOCO = {"scale": (0.2, 1.0), "interpolation": "bilinear", "color_jitter": (0.4, 0.4, 0.4, 0.1), "jitter": 0.8, "grey": 0.2, "blur": 0.5}
DIGITS = {"scale": (0.5, 1.0), "flip": 0.0, "color_jitter": (0.4, 0.4, 0.0), "jitter": 0.8}


def _stage(task: dict, views: dict, changes: dict) -> tuple[str, dict]:
    return "pretrain", {"task": task, "augment": views, **changes}


def demo(loss: str) -> ConfigDict:
    task = {"name": "ssl/dcl", "loss": loss, "temperature": 0.1, "head": ((128, "relu"), (64, ""))}
    pretrain = {"epochs": 20, "optim.name": "momentum", "optim.lr": 0.1, "optim.schedule": "cosine", "batch_size": 16}
    return ConfigDict(
        {
            "epochs": 20,
            "batch_size": 64,
            "image_size": (8, 8),
            "eval_every": 10_000,
            "eval_batch_size": 120,
            "model": {"name": "resnet20_cifar", "depths": (1, 1), "widths": (32, 64)},
            "data": {"source": "digits", "mean": (0.5,), "std": (0.5,)},
            "stages": (_stage(task, DIGITS, pretrain), recipes.linear_probe(optim__lr=1.0)),
        }
    )


def cifar10(loss: str) -> ConfigDict:
    """The public re-implementation: Adam, batch 32, 100 epochs; its probe trains on the views with Adam, here it is the common one."""
    task = {"name": "ssl/dcl", "loss": loss, "temperature": 0.1, "head": "dcl", "k": 200, "vote_temperature": 0.1}
    pretrain = {"epochs": 100, "batch_size": 32, "optim.name": "adam", "optim.lr": 1e-3, "optim.weight_decay": 1e-6, "optim.decay": "l2"}
    return ConfigDict(
        {
            "epochs": 100,
            "batch_size": 256,
            "image_size": (32, 32),
            "model": {"name": "resnet50_cifar"},
            "data": {"source": "tfds", "name": "cifar10", "train": "train", "test": "test", "crop": "resize"},
            "stages": (
                _stage(task, SMALL, {**pretrain, "optim.schedule": "constant", "optim.decay_1d": True, "optim.no_decay": ()}),
                recipes.linear_probe(epochs=100, augment__flip=True, augment__pad_crop=4),
            ),
        }
    )


def imagenet(task: dict, views: dict, batch_size: int, optim: dict, epochs: int = 200) -> ConfigDict:
    pretrain = {"epochs": epochs, "image_size": (256, 256), "data.crop": "resize", "batch_size": batch_size}
    pretrain |= {f"optim.{key}": value for key, value in optim.items()}
    crop = {"data__crop": "random_resized", "augment__flip": True, "eval_every": 5000}
    return ConfigDict(
        {
            "epochs": epochs,
            "batch_size": 256,
            "image_size": (224, 224),
            "eval_every": 50_000,
            "model": {"name": "resnet50", "dtype": "bfloat16", "zero_init": False},
            "data": {"source": "tfds", "name": "imagenet2012", "train": "train", "test": "validation"},
            "checkpoint": {"every": 5000},
            "stages": (
                _stage({"view_size": (224, 224), "monitor": False, **task}, views, pretrain),
                recipes.linear_probe(epochs=90, **crop),
            ),
        }
    )


SGD = {"name": "momentum", "lr": 0.03, "lr_batch": 256, "weight_decay": 1e-4, "decay": "l2", "no_decay": (), "decay_1d": True, "schedule": "cosine"}
LARS = {"name": "lars", "lr": 0.3, "lr_batch": 256, "weight_decay": 1e-6, "schedule": "cosine", "warmup": "10ep"}
VARIANTS = {
    "demo": demo,
    "cifar10": cifar10,
    "full": lambda loss: imagenet({"name": "ssl/dcl", "loss": loss, "head": ((None, "bn_relu"), (128, ""))}, SIMCLR, 256, SGD),
    "large": lambda loss: imagenet({"name": "ssl/dcl", "loss": loss, "head": "simclr"}, SIMCLR, 4096, LARS),
    "moco": lambda loss: imagenet({"name": "ssl/moco", "decoupled": loss == "dcl"}, MOCO, 256, SGD),
    "nnclr": lambda loss: imagenet({"name": "ssl/nnclr", "decoupled": loss == "dcl"}, SIMCLR, 512, LARS, 400),
}


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name not in VARIANTS:
        raise ConfigError(f"configs/dcl.py has no variant {name!r}; {nearest(name, VARIANTS)}")
    known = LOSSES if name not in ("moco", "nnclr") else ("dcl", "info_nce")
    loss = rest[0] if rest else "dcl"
    if len(rest) > 1 or loss not in known:
        raise ConfigError(f"configs/dcl.py: {name!r} takes one of {', '.join(known)}, got {','.join(rest)!r}")
    return VARIANTS[name](loss)

"""Vision transformers (Dosovitskiy et al. 2021, arXiv 2010.11929; the plain recipe of Beyer et al. 2022, arXiv 2205.01580).

    python -m jaxvision.main --config=configs/vit.py:digits --workdir=runs/digits
        scikit-learn's 1,797 digits; at least 97.5 % of 360 test digits in under two minutes on two CPU cores

    python -m jaxvision.main --config=configs/vit.py:fashion --workdir=runs/fashion
        Fashion-MNIST, all 60,000 pictures as 16 tokens; 89 % of 10,000 test pictures in three minutes on two CPU cores

    python -m jaxvision.main --config=configs/vit.py:folder --config.data.path=pictures --workdir=runs/pictures
        any folder of images, classes = sub-folders (train/ and test/ above them, or a split by seed)

    python -m jaxvision.main --config=configs/vit.py:s16,imagenet2012 --workdir=runs/vit_s16
        ViT-S/16 on ImageNet-1k as big_vision's vit_s16_i1k: 90 epochs, 76.5 % expected, 6-7 hours on a TPU v3-8
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

# Fixed sine-cosine positions: learned ones, of standard deviation 0.02, cost small data half of its epochs.
SMALL = {"name": "vit_tiny_patch16_224", "patch": 2, "dim": 48, "depth": 4, "heads": 4, "position": "sincos2d"}


def digits() -> ConfigDict:
    return ConfigDict(
        {
            "epochs": 110,
            "batch_size": 32,
            "image_size": (8, 8),
            "eval_every": 550,
            "eval_batch_size": 120,
            "model": SMALL,
            "data": {"source": "digits", "mean": (0.5,), "std": (0.5,)},
            "augment": {"pad_crop": 1},
            "task": {"name": "classify", "label_smoothing": 0.1},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.3, "schedule": "cosine", "warmup": 0.05, "clip": 1.0, "ema": 0.998},
        }
    )


def demo() -> ConfigDict:
    return digits()


def fashion() -> ConfigDict:
    # Small batches: how far the net gets is a matter of updates. Patches of 7 pixels: with 4 there are 49 tokens, and a third of the updates.
    return ConfigDict(
        {
            "epochs": 8,
            "batch_size": 32,
            "image_size": (28, 28),
            "eval_every": 3750,
            "eval_batch_size": 500,
            "model": {**SMALL, "patch": 7, "dim": 96, "depth": 2, "class_token": False, "pool": "avg"},
            "data": {"source": "idx", "path": "/usr/share/datasets/fashion-mnist", "mean": (0.286,), "std": (0.353,)},
            "augment": {"flip": True},
            "task": {"name": "classify", "label_smoothing": 0.1},
            "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "schedule": "cosine", "warmup": 0.05, "clip": 1.0, "ema": 0.998},
        }
    )


def folder() -> ConfigDict:
    return ConfigDict(
        {
            "epochs": 30,
            "batch_size": 128,
            "image_size": (224, 224),
            "model": {"name": "vit_small_patch16_224", "dtype": "bfloat16", "drop_path": 0.1},
            "data": {"source": "folder", "crop": "random_resized", "scale": (0.2, 1.0), "corrupt": "skip"},
            "augment": {"flip": True, "randaugment": "rand-m9-mstd0.5-inc1"},
            "task": {"name": "classify", "label_smoothing": 0.1},
            "optim": {"name": "adamw", "lr": 5e-4, "weight_decay": 0.05, "schedule": "cosine", "warmup": 0.1, "clip": 1.0, "ema": 0.999},
        }
    )


def s16(dataset: str) -> ConfigDict:
    # big_vision's configs/vit_s16_i1k.py: 2-d sine-cosine positions, mean pooling, one hidden layer in the head, RandAugment(2, 10), mixup 0.2.
    return ConfigDict(
        {
            "epochs": 90,
            "batch_size": 1024,
            "image_size": (224, 224),
            "model": {
                "name": "vit_small_patch16_224",
                "dtype": "bfloat16",
                "class_token": False,
                "pool": "avg",
                "position": "sincos2d",
                "rep_size": 384,
                "activation": "gelu_tanh",
            },
            "data": {
                "source": "tfds",
                "name": dataset,
                "train": "train[:99%]",
                "test": "validation",
                "crop": "random_resized",
                "scale": (0.05, 1.0),
                "mean": (0.5, 0.5, 0.5),
                "std": (0.5, 0.5, 0.5),
            },
            "augment": {"flip": True, "randaugment": "rand-m10-n2", "mixup": 0.2},
            "optim": {
                "name": "adamw",
                "lr": 1e-3,
                "weight_decay": 1e-4 / 1e-3,  # big_vision's decay is not multiplied by the learning rate's peak
                "schedule": "cosine",
                "warmup": 10000,
                "clip": 1.0,
            },
            "checkpoint": {"every": 1000},
            "eval_every": 5000,
        }
    )


VARIANTS = {"digits": digits, "demo": demo, "fashion": fashion, "folder": folder, "s16": s16}


def get_config(variant: str = "digits") -> ConfigDict:
    name, *rest = variant.split(",")
    if name not in VARIANTS:
        raise ConfigError(f"configs/vit.py has no variant {name!r}; {nearest(name, VARIANTS)}")
    if (name == "s16") != bool(rest):
        raise ConfigError("configs/vit.py: 's16' takes a tfds data set, 's16,imagenet2012'; the other variants take nothing")
    return VARIANTS[name](*rest)

"""ConvFirstNet (Lavin 2024, "On the Efficiency of Convolutional Neural Networks", arXiv 2404.03617).

    python -m jaxvision.main --config=configs/convfirst.py:demo --workdir=runs/convfirst
        two stages of ConvFirst blocks and MLPs on scikit-learn's 1,797 digits; a minute or two on two CPU cores
    python -m jaxvision.main --config=configs/convfirst.py:demo,convnext --workdir=runs/depthwise
        blocks of another kind at about the same number of multiply-adds: depthwise 7x7 (convnext), or convolution inside (mbconv)

    python -m jaxvision.main --config=configs/convfirst.py:tiny --workdir=runs/convfirst_tiny
        ImageNet-1k at 224; tiny, small. The paper's recipe is not public: this is ConvNeXt's, and the sizes are ours, so no accuracy is expected.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

# Widths at which the two stages of the demo cost about as many multiply-adds with each kind of block, and channels of the convolution's groups.
DEMO = {"convfirst": ((32, 64), 8), "convnext": ((32, 64), 8), "mbconv": ((24, 48), 8)}
PUBLISHED = {"tiny": ("convfirstnet_tiny", 0.1), "small": ("convfirstnet_small", 0.2)}


def demo(block: str = "convfirst") -> ConfigDict:
    dims, group_width = DEMO[block]
    return ConfigDict(
        {
            "epochs": 12,
            "batch_size": 32,
            "image_size": (16, 16),
            "eval_every": 225,
            "eval_batch_size": 120,
            "model": {
                "name": "convfirstnet_tiny",
                "block": block,
                "depths": (3, 3),
                "dims": dims,
                "stem": 16,
                "hidden": 128,
                "group_width": group_width,
            },
            "data": {"source": "digits", "mean": (0.5,), "std": (0.5,), "crop": "resize"},
            "augment": {"pad_crop": 1},
            "task": {"name": "classify", "label_smoothing": 0.1},
            "optim": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05, "schedule": "cosine", "warmup": 0.1},
        }
    )


def imagenet(name: str, dataset: str = "imagenet2012") -> ConfigDict:
    model, drop_path = PUBLISHED[name]
    return ConfigDict(
        {
            "epochs": 300,
            "batch_size": 4096,
            "image_size": (224, 224),
            "model": {"name": model, "dtype": "bfloat16", "drop_path": drop_path},
            "data": {"source": "tfds", "name": dataset, "train": "train", "test": "validation", "crop": "random_resized"},
            "augment": {
                "flip": True,
                "randaugment": "rand-m9-mstd0.5-inc1",
                "erasing": 0.25,
                "mixup": 0.8,
                "cutmix": 1.0,
                "switch_prob": 0.5,
            },
            "task": {"name": "classify", "label_smoothing": 0.1},
            "optim": {
                "name": "adamw",
                "lr": 4e-3,
                "lr_end": 1e-6,
                "weight_decay": 0.05,
                "schedule": "cosine",
                "warmup": "20ep",
                "ema": 0.9999,
            },
            "checkpoint": {"every": 1000},
        }
    )


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name in PUBLISHED and len(rest) <= 1:
        return imagenet(name, *rest)
    if name != "demo":
        raise ConfigError(f"configs/convfirst.py has no variant {name!r}; {nearest(name, ['demo', *PUBLISHED])}")
    if len(rest) > 1 or (rest and rest[0] not in DEMO):
        raise ConfigError(f"configs/convfirst.py: demo takes one kind of block, got {','.join(rest)!r}; {nearest(','.join(rest), DEMO)}")
    return demo(*rest)

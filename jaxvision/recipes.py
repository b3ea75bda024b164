"""Recipes that several configs share; a paper's config states what it does differently.

The configs of `configs/` are read from a path, so what they share is imported from here. It is plain data: nothing of the library is loaded.
"""

from ml_collections import ConfigDict

# What timm and the official repositories of DeiT, Swin, ConvNeXt, PoolFormer and their successors pass for "strong augmentation". Colour jitter is
# named there too, but timm leaves it out beside RandAugment.
STRONG = {"flip": True, "randaugment": "rand-m9-mstd0.5-inc1", "erasing": 0.25, "mixup": 0.8, "cutmix": 1.0, "switch_prob": 0.5}


def changed(config: ConfigDict, changes: dict) -> ConfigDict:
    """`config` with `changes`: a section given as a dict is merged into the section, anything else replaces what was there."""
    with config.ignore_type():  # a warm-up may be epochs here and a share there
        for key, value in changes.items():
            if isinstance(value, dict) and key in config:
                config[key].update(value)
            else:
                config[key] = value
    return config


def imagenet(model: str, dataset: str = "imagenet2012", *, drop_path: float, lr: float, **changes) -> ConfigDict:
    """DeiT's recipe (Touvron et al. 2021, arXiv 2012.12877) in the form that ConvNeXt and its successors use.

    300 epochs at batch 4,096 and 224x224: AdamW with decay 0.05, 20 epochs of warm-up, then a cosine to zero; strong augmentation, labels smoothed
    by 0.1. `dataset` is a name of tensorflow_datasets; `changes` are sections or keys of the config: `optim={"clip": 5.0}`, `epochs=600`.
    """
    config = ConfigDict(
        {
            "epochs": 300,
            "batch_size": 4096,
            "image_size": (224, 224),
            "model": {"name": model, "dtype": "bfloat16", "drop_path": drop_path},
            "data": {"source": "tfds", "name": dataset, "train": "train", "test": "validation", "crop": "random_resized"},
            "augment": STRONG,
            "task": {"name": "classify", "label_smoothing": 0.1},
            "optim": {"name": "adamw", "lr": lr, "weight_decay": 0.05, "schedule": "cosine", "warmup": "20ep"},
            "checkpoint": {"every": 1000},
        }
    )
    return changed(config, changes)


def digits(model: dict, **changes) -> ConfigDict:
    """A run of a minute or two on two CPU cores: scikit-learn's 1,797 digits of 8x8 pixels, 360 of them for the test, in batches of 32.

    30 epochs of AdamW at 3e-3 with decay 0.05, a tenth of warm-up and a cosine; shifts by one pixel; labels smoothed by 0.1.
    """
    config = ConfigDict(
        {
            "epochs": 30,
            "batch_size": 32,
            "image_size": (8, 8),
            "eval_every": 225,
            "eval_batch_size": 120,
            "model": model,
            "data": {"source": "digits", "mean": (0.5,), "std": (0.5,)},
            "augment": {"pad_crop": 1},
            "task": {"name": "classify", "label_smoothing": 0.1},
            "optim": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05, "schedule": "cosine", "warmup": 0.1},
        }
    )
    return changed(config, changes)

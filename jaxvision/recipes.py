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


# How a self-supervised backbone is judged: stages that start from the stage `source`, each on a share of the labels if asked ("data.limit": 0.01).


def linear_probe(source: str = "pretrain", name: str = "linear", **changes) -> tuple[str, dict]:
    """A stage that trains a classifier on the frozen backbone: 30 epochs of SGD with momentum at 0.1 x batch / 256, without decay.

    `changes` are dotted keys with two underscores for the dot: `data__limit=0.1`, `optim__lr=0.3`, `epochs=100`.
    """
    optim = {"name": "momentum", "lr": 0.1, "lr_batch": 256, "weight_decay": 0.0, "schedule": "cosine", "warmup": 0, "ema": None, "clip": None}
    return name, {"task.name": "probe", "epochs": 30, "steps": None, **_backbone(source), **_dotted("optim", optim), **_spelled(changes)}


def nearest_neighbours(source: str = "pretrain", name: str = "knn", **changes) -> tuple[str, dict]:
    """A stage that trains nothing: the weighted vote of the 20 nearest training pictures."""
    return name, {"task.name": "knn", "epochs": None, "steps": 1, "optim.ema": None, **_backbone(source), **_spelled(changes)}


def finetuned(source: str = "pretrain", name: str = "finetune", **changes) -> tuple[str, dict]:
    """A stage that trains all of the network with a new classifier; its optimizer is the config's unless `changes` say otherwise."""
    return name, {"task.name": "classify", **_backbone(source), **_spelled(changes)}


def _backbone(source: str) -> dict:
    return {"init_from": f"stage:{source}", "init_branch": "backbone", "reinit_head": True}


def _dotted(section: str, values: dict) -> dict:
    return {f"{section}.{key}": value for key, value in values.items()}


def _spelled(changes: dict) -> dict:
    return {key.replace("__", "."): value for key, value in changes.items()}

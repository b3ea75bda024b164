"""Sharpness-aware training of plain networks (Chen et al. 2022, "When Vision Transformers Outperform ResNets without Pre-training or Strong Data
Augmentations", arXiv 2106.01548): random crop and flip only, AdamW or momentum around a SAM gradient.

    python -m jaxvision.main --config=configs/sam_vit.py:demo --workdir=runs/sam
    python -m jaxvision.main --config=configs/sam_vit.py:demo,plain --workdir=runs/plain
        a ViT of 2 blocks on 300 of scikit-learn's digits, half a minute on two CPU cores; four seeds: 80.4 % of 360 held-out digits with SAM, 76.3 %
        without. demo,mixer and demo,mixer,plain: a Mixer, 91.0 % and 89.7 %
    python -m jaxvision.main --mode=analyse --workdir=runs/sam
        how sharp the minimum is, how sparse the first layers, how robust to corruptions: analysis.json and analysis.png, a minute and a half.
        Here the dominant eigenvalue of the Hessian is 1.4 after SAM and 3.7 without (Mixer 0.20 and 0.84)

    python -m jaxvision.main --config=configs/sam_vit.py:vit_b16 --workdir=runs/vit_b16
        ImageNet-1k as published. Top-1 at 224 (in brackets the gain over the same run without SAM, the variant with ",plain"):
            vit_s32 70.5 (+2.1)     mixer_s32 66.7 (+2.8)     resnet50  76.7 (+0.7)
            vit_s16 78.1 (+3.7)     mixer_s16 72.9 (+4.1)     resnet101 78.6 (+0.8)
            vit_s14 78.8 (+4.0)     mixer_s8  75.9 (+5.7)     resnet152 79.3 (+0.8)
            vit_s8  81.3 (+5.3)     mixer_b32 72.4 (+9.9)
            vit_b32 73.6 (+4.1)     mixer_b16 77.4 (+11.0)
            vit_b16 79.9 (+5.3)     mixer_b8  79.0 (+10.4)
        further words: another data set of tensorflow_datasets, and "plain": vit_s16,imagenette,plain

The published runs ascend on each accelerator core's own examples (m-sharpness). The number of cores is not stated; optim.groups = 64 makes m = 64 of
a batch of 4,096 (64 cores). Set --config.optim.groups for another m: it does not depend on the devices at hand.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

BATCH, GROUPS = 4096, 64
# variant -> (model, radius of the ascent)
PUBLISHED = {
    "vit_s32": ("vit_small_patch32_224", 0.05),
    "vit_s16": ("vit_small_patch16_224", 0.1),
    "vit_s14": ("vit_small_patch14_224", 0.1),
    "vit_s8": ("vit_small_patch8_224", 0.15),
    "vit_b32": ("vit_base_patch32_224", 0.15),
    "vit_b16": ("vit_base_patch16_224", 0.2),
    "mixer_s32": ("mixer_s32_224", 0.1),
    "mixer_s16": ("mixer_s16_224", 0.15),
    "mixer_s8": ("mixer_s8_224", 0.2),
    "mixer_b32": ("mixer_b32_224", 0.35),
    "mixer_b16": ("mixer_b16_224", 0.6),
    "mixer_b8": ("mixer_b8_224", 0.6),
    "resnet50": ("resnet50", 0.02),
    "resnet101": ("resnet101", 0.05),
    "resnet152": ("resnet152", 0.02),
}
ADAMW = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.3, "b1": 0.9, "b2": 0.999, "warmup": 10_000, "clip": 1.0}
# family -> (epochs, fields of the model, optimizer)
RECIPES = {
    "vit": (300, {"dropout": 0.1, "pos_drop": 0.1, "activation": "gelu_tanh"}, {**ADAMW, "schedule": "cosine"}),
    "mixer": (300, {"drop_path": 0.1, "activation": "gelu_tanh"}, {**ADAMW, "schedule": "linear"}),
    # The L2 penalty is added after the ascent, which climbs the loss alone; the first SAM code climbed the penalty too.
    "resnet": (
        90,
        {},
        {"name": "momentum", "lr": 0.1, "lr_batch": 256, "momentum": 0.9, "weight_decay": 1e-3, "decay": "l2", "warmup": 5000, "schedule": "cosine"},
    ),
}
# family -> (model of a few thousand parameters, radius)
SMALL = {
    "vit": ({"name": "vit_small_patch16_224", "patch": 2, "dim": 32, "depth": 2, "heads": 4, "class_token": False, "pool": "avg"}, 0.15),
    "mixer": ({"name": "mixer_s16_224", "patch": 2, "dim": 32, "depth": 2}, 0.1),
}


def ascent(plain: bool, rho: float, groups: int) -> dict:
    return {} if plain else {"rule": "sam", "rho": rho, "groups": groups}


def imagenet(variant: str, plain: bool, dataset: str = "imagenet2012") -> ConfigDict:
    model, rho = PUBLISHED[variant]
    epochs, fields, optimizer = RECIPES[variant.split("_")[0].rstrip("0123456789")]
    return ConfigDict(
        {
            "epochs": epochs,
            "batch_size": BATCH,
            "image_size": (224, 224),
            "model": {"name": model, "dtype": "bfloat16", **fields},
            "data": {
                "source": "tfds",
                "name": dataset,
                "train": "train",
                "test": "validation",
                "crop": "random_resized",
                "scale": (0.05, 1.0),
                "mean": (0.5, 0.5, 0.5),
                "std": (0.5, 0.5, 0.5),
                "eval_crop": 0.875,
            },
            "augment": {"flip": True},
            "task": {"name": "classify"},
            "optim": {**optimizer, **ascent(plain, rho, GROUPS)},
            "checkpoint": {"every": 1000},
        }
    )


def demo(plain: bool, family: str = "vit") -> ConfigDict:
    model, rho = SMALL[family]
    # So few pictures that a plain network knows them by heart. The batch is one group: 32 examples are fewer than the published m.
    return ConfigDict(
        {
            "steps": 800,
            "batch_size": 32,
            "image_size": (8, 8),
            "eval_every": 400,
            "eval_batch_size": 120,
            "model": {**model, "activation": "gelu_tanh"},
            "data": {"source": "digits", "limit": 300, "mean": (0.5,), "std": (0.5,)},
            "task": {"name": "classify"},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.1, "warmup": 0.1, "clip": 1.0, "schedule": "cosine", **ascent(plain, rho, 1)},
        }
    )


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    plain, words = "plain" in rest, [word for word in rest if word != "plain"]
    if name not in (*PUBLISHED, "demo"):
        raise ConfigError(f"configs/sam_vit.py has no variant {name!r}; {nearest(name, ['demo', *PUBLISHED])}")
    if len(words) > 1:
        raise ConfigError(f"configs/sam_vit.py: {name!r} takes one word beside 'plain', got {','.join(words)!r}")
    if name == "demo" and words and words[0] not in SMALL:
        raise ConfigError(f"configs/sam_vit.py: 'demo' takes 'plain' and a family, got {words[0]!r}; {nearest(words[0], SMALL)}")
    return demo(plain, *words) if name == "demo" else imagenet(name, plain, *words)

"""Self-supervised learning for surgical video (Ramesh et al. 2023, arXiv 2207.00449): MoCo v2, SimCLR, SwAV and DINO under one recipe.

    python -m jaxvision.main --config=configs/surgical_ssl.py:demo --workdir=runs/ssl
        2,048 procedural pictures of one shape each, grey, 32 x 32: pre-training without labels, then fine-tuning on an eighth of the labels.
        "demo,moco" is the default; "demo,simclr", "demo,swav", "demo,dino"

    python -m jaxvision.main --config=configs/surgical_ssl.py:full --config.data.path=cholec80 --config.init_from=resnet50.pth --workdir=runs/moco
        frames of Cholec80 in folders by phase (train/<phase>/video01_000025.jpg, test/): 60 epochs from ImageNet's supervised weights, then 30 of all
        weights on phases, with labels of 5, 10 and all 40 videos, the first two drawn three times; "full" is "moco", the others are simclr, swav and
        dino
    … tools --config.data.path=cholec80_tools --config.init_from=runs/moco/pretrain
        which of seven instruments a frame shows, as mean average precision, from arrayrecords whose label is seven numbers; where they have a
        field `video`, --config.data.limit=0.125 --config.data.limit_by=video draws five videos
    … tcn --config.data.path=features
        phases from whole videos: TeCNO on features of their frames, a .npz a video
    … moco_imagenet, simclr_imagenet, swav_imagenet, dino_imagenet, dino_imagenet_vit: the four originals: linear probes of 67.5, 69.3 and 75.3 %
        for the first three; DINO's are the released commands of 100 and 300 epochs (75.3 and 77.0 % after 800)

    A released file starts any of these, or a classifier: --config.init_from=swav_800ep_pretrain.pth.tar

Different from the study: which videos are drawn, by our seeds instead of its lists; views are cut on the device from frames of 252 x 448 pixels,
as the study resizes them. Different from the originals: crops come from pictures that the host has brought to 256 x 256.
"""

from ml_collections import ConfigDict

from jaxvision import recipes
from jaxvision.errors import ConfigError, nearest

OPERATIONS = (
    "Sharpness", "AutoContrast", "Equalize", "Color", "Contrast", "Brightness", "Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip
RANDAUGMENT = ("rand-m8-mstd0.5-inc1", OPERATIONS)
SURGICAL = {
    "scale": (0.5, 1.0), "interpolation": "bilinear", "randaugment": RANDAUGMENT, "color_jitter": 0.4, "jitter": 1.0, "erasing": (0.8, "const"),
    "erasing_area": (0.02, 0.1),
}  # fmt: skip
# Settings of the method in the study, its head included; 4 devices of 64 pictures each, SimCLR compares those of one device.
STUDY = {
    "moco": {"name": "ssl/moco", "head": "surgical", "queue": 65536, "momentum": 0.999, "temperature": 0.2},
    "simclr": {"name": "ssl/simclr", "head": "surgical", "temperature": 0.1, "groups": 4},
    "swav": {"name": "ssl/swav", "head": "surgical_prototypes", "prototypes": 4096, "freeze": 313},
    "dino": {
        "name": "ssl/dino", "head": "surgical_prototypes", "head_init": "torch", "prototypes": 4096, "gain": True, "warmup": 7500, "freeze": 1251,
    },
}  # fmt: skip
LARC = {"name": "larc", "lr": 0.1, "lr_batch": 256, "momentum": 0.9, "trust": 1e-3, "weight_decay": 1e-6, "no_decay": (), "decay_1d": True}
# Of a frame's name, and a share of the videos with its draw.
VIDEO = r"video\d+"
SHARES = {
    **{f"phases_12_{draw}": (0.125, draw) for draw in range(3)}, **{f"phases_25_{draw}": (0.25, draw) for draw in range(3)}, "phases": (None, 0),
}  # fmt: skip


def study(method: str) -> ConfigDict:
    pretrain = {"task": {"view_size": (224, 224), "monitor": False, **STUDY[method]}, "augment": SURGICAL}
    phases = {"epochs": 30, "image_size": (224, 399), "augment__flip": True, "augment__color_jitter": 0.4, "augment__randaugment": RANDAUGMENT}
    return ConfigDict(
        {
            "epochs": 60,
            "batch_size": 256,
            "image_size": (252, 448),
            "eval_every": 2000,
            "model": {"name": "resnet50", "dtype": "bfloat16", "zero_init": False},
            # Of 40 videos at 5 frames a second, for preflight where the frames are not there.
            "data": {"source": "folder", "crop": "resize", "interpolation": "bilinear", "classes": 7, "train_size": 431_000, "test_size": 69_000},
            "optim": {**LARC, "schedule": "cosine"},
            "stages": (
                ("pretrain", pretrain),
                *(
                    recipes.finetuned(name=name, data__limit=share, data__limit_seed=draw, data__limit_by=VIDEO, **phases)
                    for name, (share, draw) in SHARES.items()
                ),
            ),
        }
    )


def tools() -> ConfigDict:
    """All weights trained for the presence of seven instruments: Adam at 1e-5, a tenth of that from epoch 25 on, frames as they are."""
    weights = (0.5201, 20.0287, 0.7826, 52.1675, 25.8399, 15.0371, 13.9903)
    return ConfigDict(
        {
            "epochs": 50,
            "batch_size": 256,
            "image_size": (224, 399),
            "init_branch": "backbone",
            "reinit_head": True,
            "model": {"name": "resnet50", "dtype": "bfloat16"},
            "data": {"source": "arrayrecord", "crop": "resize", "interpolation": "bilinear"},
            "task": {"name": "classify", "loss": "sigmoid", "positive_weights": weights, "metrics": ("map",)},
            "optim": {
                "name": "adam", "lr": 1e-5, "schedule": "step", "milestones": ("25ep",), "weight_decay": 5e-4, "decay": "l2", "decay_1d": True,
                "no_decay": (),
            },
            "checkpoint": {"metric": "test/map"},
        }
    )  # fmt: skip


def tcn() -> ConfigDict:
    """Two causal stages over whole videos, one a step: Adam at 7e-4, constant and without decay, 100 epochs."""
    return ConfigDict(
        {
            "epochs": 100,
            "batch_size": 1,
            "image_size": (224, 399),
            "model": {"name": "resnet50"},
            "data": {"source": "sequences"},
            "task": {"name": "phases"},
            "optim": {"name": "adam", "lr": 7e-4, "schedule": "constant"},
            "mesh": {"data": 1},
        }
    )


# --- the originals on ImageNet ---

BLUR = {"grey": 0.2, "blur": 0.5, "sigma": (0.1, 2.0)}
MOCO_VIEWS = {"scale": (0.2, 1.0), "interpolation": "bilinear", "color_jitter": (0.4, 0.4, 0.4, 0.1), **BLUR}
SIMCLR_VIEWS = {"scale": (0.08, 1.0), "color_jitter": (0.8, 0.8, 0.8, 0.2), **BLUR}
SWAV_VIEWS = {"interpolation": "bilinear", "color_jitter": (0.8, 0.8, 0.8, 0.2), **BLUR}
DINO_VIEWS = {"color_jitter": (0.4, 0.4, 0.2, 0.1), "grey": 0.2, "sigma": (0.1, 2.0)}
SWAV_CROPS = ({"count": 2, "scale": (0.14, 1.0)}, {"count": 6, "size": (96, 96), "scale": (0.05, 0.14)})


def dino_crops(border: float, local: int) -> tuple[dict, ...]:
    """The first large view is always blurred, the second seldom and sometimes solarized."""
    return (
        {"scale": (border, 1.0), "blur": 1.0},
        {"scale": (border, 1.0), "blur": 0.1, "solarize": 0.2},
        {"count": local, "size": (96, 96), "scale": (0.05, border), "blur": 0.5},
    )


SGD = {"name": "momentum", "lr": 0.03, "lr_batch": 256, "weight_decay": 1e-4, "decay": "l2", "no_decay": (), "decay_1d": True, "schedule": "cosine"}
LARS = {"name": "lars", "lr": 0.3, "lr_batch": 256, "weight_decay": 1e-6, "schedule": "cosine", "warmup": "10ep"}
SWAV_LARC = {**LARC, "lr": 4.8, "lr_batch": 4096, "schedule": "cosine", "warmup": "10ep"}
ADAMW = {
    "name": "adamw", "lr": 5e-4, "lr_batch": 256, "lr_end": 1e-6, "weight_decay": 0.04, "weight_decay_end": 0.4, "schedule": "cosine",
    "warmup": "10ep", "clip_each": 3.0,
}  # fmt: skip
DINO_SGD = {
    "name": "momentum", "lr": 0.03, "lr_batch": 256, "lr_end": 1e-6, "weight_decay": 1e-4, "decay": "l2", "schedule": "cosine", "warmup": "10ep",
    "clip_each": 3.0,
}  # fmt: skip
DINO_TASK = {"name": "ssl/dino", "teacher_temperature": (0.04, 0.07), "warmup": "30ep", "freeze": "1ep", "gain": True}
VIT = {"name": "deit_small_patch16_224", "dynamic_size": True, "drop_path": 0.1}
# Network, task, views, optimizer, batch, epochs.
ORIGINALS = {
    "moco_imagenet": ({}, {"name": "ssl/moco"}, MOCO_VIEWS, SGD, 256, 200),
    "simclr_imagenet": ({}, {"name": "ssl/simclr", "directions": "sum"}, SIMCLR_VIEWS, LARS, 4096, 1000),
    "swav_imagenet": ({}, {"name": "ssl/swav", "views": SWAV_CROPS}, SWAV_VIEWS, SWAV_LARC, 4096, 800),
    "dino_imagenet": (
        {}, {"name": "ssl/dino", "teacher_temperature": (0.04, 0.04), "views": dino_crops(0.14, 8)}, DINO_VIEWS, DINO_SGD, 512, 100,
    ),
    "dino_imagenet_vit": (VIT, {**DINO_TASK, "views": dino_crops(0.4, 8)}, DINO_VIEWS, ADAMW, 1024, 300),
}  # fmt: skip


def original(name: str) -> ConfigDict:
    model, task, views, optim, batch_size, epochs = ORIGINALS[name]
    pretrain = {"epochs": epochs, "image_size": (256, 256), "data.crop": "resize", "batch_size": batch_size}
    pretrain |= {f"optim.{key}": value for key, value in optim.items()}
    pretrain |= {"task": {"view_size": (224, 224), "monitor": False, **task}, "augment": views}
    return ConfigDict(
        {
            "epochs": epochs,
            "batch_size": 256,
            "image_size": (224, 224),
            "eval_every": 20_000,
            "model": {"name": "resnet50", "dtype": "bfloat16", **model},
            "data": {"source": "tfds", "name": "imagenet2012", "train": "train", "test": "validation"},
            "checkpoint": {"every": 5000},
            "stages": (
                ("pretrain", pretrain),
                recipes.nearest_neighbours(data__crop="random_resized"),
                recipes.linear_probe(epochs=100, data__crop="random_resized", augment__flip=True, eval_every=5000),
            ),
        }
    )


# --- small ---

# Of grey pictures, in which brightness and contrast tell nothing.
SHAPES = {"scale": (0.4, 1.0), "interpolation": "bilinear", "color_jitter": (0.8, 0.8, 0.0), "jitter": 1.0}
HEAD = ((128, "bn_relu"), (64, ""))
DEMO = {
    "moco": {"name": "ssl/moco", "head": HEAD, "queue": 1024, "momentum": 0.99, "temperature": 0.2},
    "simclr": {"name": "ssl/simclr", "head": HEAD, "temperature": 0.2},
    "swav": {"name": "ssl/swav", "head": HEAD, "prototypes": 64, "freeze": 32},
    "dino": {"name": "ssl/dino", "head": HEAD, "head_init": "torch", "prototypes": 256, "momentum": 0.99, "warmup": 0.3, "freeze": 32},
}


def demo(method: str, epochs: int = 12) -> ConfigDict:
    pretrain = {"epochs": epochs, "batch_size": 128, "task": DEMO[method], "augment": SHAPES, "optim.lr": 2e-3, "optim.warmup": 0.1}
    return ConfigDict(
        {
            "epochs": 20,
            "batch_size": 64,
            "image_size": (32, 32),
            "eval_every": 10_000,
            "eval_batch_size": 256,
            "model": {"name": "resnet20_cifar", "depths": (1, 1, 1), "widths": (32, 64, 128), "stem": "7x7"},
            "data": {"source": "shapes", "count": 2048, "size": (32, 32), "max_boxes": 1, "channels": 1, "mean": (0.5,), "std": (0.25,)},
            "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 1e-4, "schedule": "cosine"},
            "stages": (
                ("pretrain", pretrain),
                recipes.finetuned(data__limit=0.125),
            ),
        }
    )


OTHERS = {"tools": tools, "tcn": tcn}


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name == "demo" and len(rest) <= 1 and (rest or ["moco"])[0] in DEMO:
        return demo((rest or ["moco"])[0])
    if rest:
        raise ConfigError(f"configs/surgical_ssl.py: {name!r} takes {'one of ' + ', '.join(DEMO) if name == 'demo' else 'nothing'}, got {variant!r}")
    if name in OTHERS:
        return OTHERS[name]()
    if name in ORIGINALS:
        return original(name)
    name = "moco" if name == "full" else name
    if name not in STUDY:
        raise ConfigError(f"configs/surgical_ssl.py has no variant {name!r}; {nearest(name, ('demo', 'full', *OTHERS, *STUDY, *ORIGINALS))}")
    return study(name)

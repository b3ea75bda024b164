"""Fine-tuning and probing: a network that has learned one thing is taught, or asked, another.

    python -m jaxvision.main --config=configs/finetune.py:digits --workdir=runs/finetune
        a demo of all steps on scikit-learn's digits: a ViT learns at 8x8 pixels; at 16x16 (its positions resized) a new head learns on the frozen
        backbone, and then everything does; about two minutes on two CPU cores

    python -m jaxvision.main --config=configs/finetune.py:imagenet --config.init_from=ViT-B_16.npz --config.data.path=pictures --workdir=runs/ft
        ViT-B/16 from a released file (npz of the JAX releases, or safetensors and .pth of timm) to any folder of pictures, as published: at 384
        pixels, SGD with momentum 0.9 at 0.03, cosine, no weight decay, gradients clipped at norm 1, batch 512 (Dosovitskiy et al. 2021, arXiv
        2010.11929, appendix B.1.1). "imagenet,cifar100" takes a data set of tensorflow_datasets instead; published there: 91.67 % of CIFAR-100
        from ImageNet-21k
    … configs/finetune.py:layer_decay --config.init_from=mae_pretrain_vit_base.pth --config.data.path=pictures
        AdamW with a learning rate that shrinks by 0.65 a layer from the head down, drop path, mixup and CutMix: the recipe with which BEiT (Bao et
        al. 2022, arXiv 2106.08254) and MAE (arXiv 2111.06377) fine-tune ViT-B/16, 100 epochs; published: 83.6 % of ImageNet from MAE
    … configs/finetune.py:linear --config.init_from=runs/mine --config.data.path=pictures
        linear probe: the head alone, on a frozen backbone; SGD with momentum, no weight decay, random crops and flips, 100 epochs, as DINO's
    … configs/finetune.py:knn --config.init_from=runs/mine --config.data.path=pictures
        nearest-neighbour probe, 20 neighbours at temperature 0.07; nothing is trained
    … configs/finetune.py:gradual --config.init_from=runs/mine --config.data.path=pictures
        two stages: the head first, with the backbone frozen, then everything at a tenth of the learning rate

`init_from` is a workdir, one of its checkpoints, a file of timm's, PyTorch's or a JAX release, or "stage:<name>". The network has to be the one that
the weights belong to: --config.model.name=resnet50. What follows the image size (position tables) is resized. The head starts anew; with
--config.match_classes=True its columns are kept for classes that a workdir has under the same name, and are zero for the others, so that a class may
be added or dropped without forgetting the rest. A method that wraps its backbone needs --config.init_branch=backbone.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

SMALL = {"name": "vit_tiny_patch16_224", "patch": 2, "dim": 48, "depth": 4, "heads": 4, "pool": "avg", "class_token": False}


def digits() -> ConfigDict:
    new = {"image_size": (16, 16), "data.crop": "resize", "init_from": "stage:pretrain", "reinit_head": True}
    return ConfigDict(
        {
            "epochs": 20,
            "batch_size": 32,
            "image_size": (8, 8),
            "eval_every": 225,
            "eval_batch_size": 120,
            "model": {**SMALL, "drop_path": 0.05},
            "data": {"source": "digits", "mean": (0.5,), "std": (0.5,)},
            "augment": {"pad_crop": 1},
            "task": {"name": "classify", "label_smoothing": 0.1},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05, "schedule": "cosine", "warmup": 0.1, "clip": 1.0},
            "stages": (
                ("pretrain", {}),
                ("head", {**new, "epochs": 3, "task.name": "probe", "optim.lr": 1e-2}),
                ("all", {**new, "epochs": 4, "init_from": "stage:head", "reinit_head": False, "optim.lr": 5e-4}),
            ),
        }
    )


def _pictures(dataset: str | None, **data) -> dict:
    """A folder, or a data set of tensorflow_datasets."""
    source = {"source": "tfds", "name": dataset} if dataset else {"source": "folder", "corrupt": "skip"}
    return {**source, "crop": "random_resized", **data}


def imagenet(dataset: str | None = None) -> ConfigDict:
    # The paper trains for a fixed number of steps: 20,000 on ImageNet, 10,000 on CIFAR-100, 500 on the small sets of Oxford.
    return ConfigDict(
        {
            "steps": 10_000,
            "batch_size": 512,
            "image_size": (384, 384),
            "reinit_head": True,
            "model": {"name": "vit_base_patch16_384", "dtype": "bfloat16", "activation": "gelu_tanh"},
            "data": _pictures(dataset, scale=(0.05, 1.0), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
            "augment": {"flip": True},
            "optim": {"name": "momentum", "momentum": 0.9, "lr": 0.03, "schedule": "cosine", "warmup": 500, "clip": 1.0},
            "eval_every": 1000,
        }
    )


def layer_decay(dataset: str | None = None) -> ConfigDict:
    return ConfigDict(
        {
            "epochs": 100,
            "batch_size": 1024,
            "image_size": (224, 224),
            "reinit_head": True,
            "model": {
                "name": "vit_base_patch16_224",
                "dtype": "bfloat16",
                "drop_path": 0.1,
                "pool": "avg",  # after the pre-trained last norm; MAE averages first and begins a new norm
            },
            "data": _pictures(dataset, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
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
                "lr": 5e-4,
                "lr_batch": 256,
                "lr_end": 1e-6,
                "weight_decay": 0.05,
                "schedule": "cosine",
                "warmup": "5ep",
                "layer_decay": 0.65,
            },
        }
    )


def linear(dataset: str | None = None) -> ConfigDict:
    return ConfigDict(
        {
            "epochs": 100,
            "batch_size": 1024,
            "image_size": (224, 224),
            "reinit_head": True,
            "model": {"name": "vit_small_patch16_224", "dtype": "bfloat16"},
            "data": _pictures(dataset),
            "augment": {"flip": True},
            "task": {"name": "probe"},
            "optim": {"name": "momentum", "momentum": 0.9, "lr": 0.001, "lr_batch": 256, "schedule": "cosine"},
        }
    )


def knn(dataset: str | None = None) -> ConfigDict:
    return ConfigDict(
        {
            "steps": 1,
            "batch_size": 256,
            "image_size": (224, 224),
            "reinit_head": True,
            "model": {"name": "vit_small_patch16_224", "dtype": "bfloat16"},
            "data": _pictures(dataset),
            "task": {"name": "knn", "k": 20, "temperature": 0.07},
        }
    )


def gradual(dataset: str | None = None) -> ConfigDict:
    return ConfigDict(
        {
            "epochs": 20,
            "batch_size": 256,
            "image_size": (224, 224),
            "model": {"name": "vit_small_patch16_224", "dtype": "bfloat16"},
            "data": _pictures(dataset, scale=(0.2, 1.0)),
            "augment": {"flip": True},
            "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "schedule": "cosine", "warmup": 0.1, "clip": 1.0},
            "stages": (
                ("head", {"reinit_head": True, "epochs": 5, "task.name": "probe"}),
                ("all", {"init_from": "stage:head", "optim.lr": 1e-4}),
            ),
        }
    )


VARIANTS = {"digits": digits, "imagenet": imagenet, "layer_decay": layer_decay, "linear": linear, "knn": knn, "gradual": gradual}


def get_config(variant: str = "digits") -> ConfigDict:
    name, *rest = variant.split(",")
    name = "digits" if name == "demo" else name
    if name not in VARIANTS:
        raise ConfigError(f"configs/finetune.py has no variant {name!r}; {nearest(name, VARIANTS)}")
    if len(rest) > (name != "digits"):
        most = "at most one data set of tfds" if name != "digits" else "nothing"
        raise ConfigError(f"configs/finetune.py: {name!r} takes {most}, got {','.join(rest)!r}")
    return VARIANTS[name](*rest)

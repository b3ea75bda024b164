"""A ResNet-18 for referable diabetic retinopathy (Castilla et al. 2022, "A ResNet is All You Need?", arXiv 2210.03180).

    python -m jaxvision.main --config=configs/dr_resnet.py:demo --workdir=runs/dr
        procedural photographs of the retina at 64 pixels: two cameras to train with, a third to test with; a ResNet-18 a quarter as wide; about two
        minutes on two CPU cores
    … configs/dr_resnet.py:demo,pooled          without augmentation
    … configs/dr_resnet.py:demo,augmented       with one camera for as many photographs
    … configs/dr_resnet.py:demo,single          with neither
    python -m jaxvision.main --config=configs/dr_resnet.py:demo,calibration --mode=search --workdir=runs/policy
        the calibration of the augmentation: transforms are added one at a time and kept where the AUC on a validation camera rises

    python -m jaxvision.main --config=configs/dr_resnet.py:full --config.data.path=photographs --config.init_from=resnet18.pth --workdir=runs/dr
        photographs in folders by grade, 0 to 4 (train/ and test/, or split by patient), field of view cut out, at 512 pixels; weights of torchvision
        (IMAGENET1K_V1) or timm, a new head of one logit. The published figure, of 61,007 test photographs pooled from public sets: AUC 0.955 (95 %
        0.953-0.956)
    … configs/dr_resnet.py:grade …
        the same network for all five grades, with the quadratic kappa

The paper's recipe is known in outline only (ImageNet weights, pooled sources, calibrated augmentation); optimizer, schedule, batch and ranges are
ours. Sets with other scales (MESSIDOR: 0-3) need --config.task.referable; DDR's grade 5 means ungradable: leave that folder out.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

CALIBRATED = ("flip", "rotate", "scale", "shift", "color", "gamma", "blur", "noise")
ARMS = {
    "calibrated": ("a+b", "c:1000", CALIBRATED),
    "pooled": ("a+b", "c:1000", ()),
    "augmented": ("a:800", "c:1000", CALIBRATED),
    "single": ("a:800", "c:1000", ()),
    "calibration": ("a:800", "b:400", ()),
}


def demo(arm: str = "calibrated") -> ConfigDict:
    if arm not in ARMS:
        raise ConfigError(f"configs/dr_resnet.py: 'demo' takes an arm, got {arm!r}; {nearest(arm, ARMS)}")
    train, test, policy = ARMS[arm]
    return ConfigDict(
        {
            "epochs": 12,
            "batch_size": 32,
            "image_size": (64, 64),
            "eval_every": 300,
            "eval_batch_size": 200,
            "model": {"name": "resnet18", "widths": (16, 32, 64, 128)},
            "data": {"source": "fundus", "train": train, "test": test, "count": 400, "size": (64, 64)},
            "task": {"name": "retinopathy", "policy": policy},
            "optim": {"name": "adamw", "lr": 3e-3, "weight_decay": 1e-4, "schedule": "cosine", "warmup": 0.05},
            "checkpoint": {"metric": "test/auc"},
            "search": {"name": "policy"},
        }
    )


def _photographs(task: dict, metric: str) -> ConfigDict:
    return ConfigDict(
        {
            "epochs": 50,
            "batch_size": 64,
            "image_size": (512, 512),
            "reinit_head": True,
            "model": {"name": "resnet18", "dtype": "bfloat16"},
            "data": {"source": "fundus_folder", "crop": "resize", "interpolation": "bilinear", "corrupt": "skip"},
            "task": task,
            "optim": {"name": "adamw", "lr": 1e-4, "weight_decay": 1e-4, "schedule": "cosine", "warmup": 0.05},
            "checkpoint": {"metric": metric},
        }
    )


def full() -> ConfigDict:
    # A fifth of EyePACS is referable, so that a referable photograph weighs four times as much.
    return _photographs({"name": "retinopathy", "policy": CALIBRATED, "positive_weight": 4.0}, "test/auc")


def grade() -> ConfigDict:
    config = _photographs({"name": "classify", "metrics": ("auc", "kappa")}, "test/kappa")
    config.augment = ConfigDict({"flip": True, "color_jitter": (0.3, 0.3, 0.3, 0.05)})
    return config


VARIANTS = {"demo": demo, "full": full, "grade": grade}


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name not in VARIANTS:
        raise ConfigError(f"configs/dr_resnet.py has no variant {name!r}; {nearest(name, VARIANTS)}")
    if len(rest) > (name == "demo"):
        raise ConfigError(f"configs/dr_resnet.py: {name!r} takes {'one arm' if name == 'demo' else 'nothing'}, got {','.join(rest)!r}")
    return VARIANTS[name](*rest)

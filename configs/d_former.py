"""D-Former (Wu et al. 2022, arXiv 2201.00462): segmentation of organs in 3-D scans.

    python -m jaxvision.main --config=configs/d_former.py:demo --workdir=runs/d_former
        a small network on procedural phantoms with five organs; whole volumes are judged in overlapping windows, distances in millimetres
    python -m jaxvision.main --mode=predict --workdir=runs/d_former --input=scan.nii.gz
        writes a mask that lies on the scan, and a picture of it; DICOM series likewise, and to train on, with DICOM Segmentation objects as masks

    python -m jaxvision.main --config=configs/d_former.py:synapse --config.data.path=BTCV --workdir=runs/d_former_synapse
        30 abdominal CTs with 13 organs (img/ and label/, of train/ and test/ where the published 18 and 12 are wanted); published, Dice 88.83 % over
        eight organs
    … acdc --config.data.path=ACDC/training
        100 patients' hearts in MR, two times each (patientNNN_frameNN_gt.nii.gz), a fifth of the patients held out; published, Dice 92.29 %

The released code is the network alone. Preparation, augmentation, loss and optimizer are nnU-Net's, on which the paper builds; patches of Synapse
are those of the paper, those of ACDC ours.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

# nnU-Net's: rotations in the plane of thick slices, else about all axes.
AUGMENT = {
    "flip": True,
    "rotate": 30.0,
    "scale": (0.7, 1.4),
    "noise": 0.1,
    "blur": (0.5, 1.0),
    "brightness": 0.25,
    "contrast": 0.25,
    "gamma": (0.7, 1.5),
}
# In the order of the labels of BTCV.
ORGANS = ("spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "vena_cava", "portal_vein", "pancreas")
# Of the published tables.
JUDGED = ("spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")


def _config(model: dict, data: dict, augment: dict, **keys) -> ConfigDict:
    return ConfigDict(
        {
            "model": model,
            "data": data,
            "augment": augment,
            "task": {"name": "segment/volumes", "supervision": (1.0, 0.5), "metrics": ("dice", "hd95_pooled", "hd95", "asd")},
            "checkpoint": {"metric": "test/dice"},
            **keys,
        }
    )


def demo() -> ConfigDict:
    data = {"source": "phantoms", "name": "organs", "size": (24, 48, 48), "count": 64, "spacing": (2.0, 1.0, 1.0), "balance": 0.5}
    # Left and right tell liver from spleen, so that nothing is mirrored.
    augment = {"rotate": (15.0, 0.0, 0.0), "scale": (0.9, 1.1), "noise": 0.05, "brightness": 0.1, "contrast": 0.1}
    config = _config(
        {"name": "d_former_demo"},
        data,
        augment,
        steps=200,
        batch_size=8,
        image_size=(16, 32, 32),
        eval_every=200,
        eval_batch_size=8,
        log_every=25,
        optim={"name": "adamw", "lr": 2e-3, "schedule": "cosine", "warmup": 0.05, "weight_decay": 0.01, "clip": 1.0},
    )
    config.task.supervision = (1.0,)  # two stages have one output
    return config


def _published(model: dict, data: dict, augment: dict, size: tuple[int, int, int], batch: int) -> ConfigDict:
    return _config(
        {**model, "dtype": "bfloat16", "remat": True},
        data,
        augment,
        steps=250_000,
        batch_size=batch,
        image_size=size,
        eval_every=12_500,
        eval_batch_size=2,
        optim={"name": "nesterov", "momentum": 0.99, "lr": 1e-2, "schedule": "polynomial", "power": 0.9, "weight_decay": 3e-5, "clip": 12.0},
    )


def synapse() -> ConfigDict:
    data = {
        "source": "volumes",
        "spacing": (3.0, 0.76, 0.76),
        "intensity": ("clip", -175.0, 250.0),
        "test_share": 0.4,
        "classes": 13,
        "train_size": 18,
        "test_size": 12,
        "columns": ("mask",),
    }
    config = _published({"name": "d_former"}, data, AUGMENT, (64, 128, 128), 2)
    # Organs go by their numbers, as folders without dataset.json have them.
    config.task.judged = tuple(str(1 + ORGANS.index(name)) for name in ORGANS if name in JUDGED)
    return config


def acdc() -> ConfigDict:
    data = {
        "source": "volumes",
        "spacing": (10.0, 1.52, 1.52),
        "intensity": "foreground_zscore",
        "classes": 3,
        "train_size": 160,
        "test_size": 40,
        "columns": ("mask",),
    }
    augment = {**AUGMENT, "rotate": (180.0, 0.0, 0.0)}
    return _published({"name": "d_former_thick"}, data, augment, (16, 160, 160), 2)


VARIANTS = {"demo": demo, "synapse": synapse, "acdc": acdc}


def get_config(variant: str = "demo") -> ConfigDict:
    if variant not in VARIANTS:
        raise ConfigError(f"configs/d_former.py has no variant {variant!r}; {nearest(variant, VARIANTS)}")
    return VARIANTS[variant]()

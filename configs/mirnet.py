"""MIRNet (Zamir et al. 2020, arXiv 2003.06792): denoising, super-resolution and enhancement of real photographs by streams at three resolutions.

    python -m jaxvision.main --config=configs/mirnet.py:demo --workdir=runs/mirnet
        a small network takes noise of deviation 25 / 255 from photographs that come with scikit-image and scikit-learn, measured on windows of three
        others; seen, 28.37 dB where the noisy windows have 20.80 (SSIM 0.71 and 0.27); some two minutes on two CPU cores
    python -m jaxvision.main --mode=predict --workdir=runs/mirnet --input=photo.jpg
        writes the photograph restored

    python -m jaxvision.main --config=configs/mirnet.py:denoise --config.data.path=SIDD_patches --workdir=runs/sidd
        pairs of patches in train/input, train/groundtruth and val/…; published on SIDD: 39.72 dB, SSIM 0.959
    … configs/mirnet.py:lol --config.data.path=LOL      our485/low, our485/high and eval15/…; published 24.14 dB, 0.830
    … configs/mirnet.py:fivek --config.data.path=FiveK  train/input, train/target and test/…; published 23.73 dB, 0.925
    … configs/mirnet.py:sr,4 --config.data.path=RealSR  pairs of one size, the small picture enlarged: train/input, train/target and test/…;
        published on luma at x2, x3, x4: 34.35, 31.16, 29.14 dB

The recipe is the one released for denoising, which the authors point to for all tasks: 60 epochs of 16 patches of 128 x 128 pixels, mixup from the
sixth epoch, pictures clipped before the loss. The rate moves every step here, every epoch there.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

# Folder names of the splits, size at which pictures are cut (and tested), metrics, and how many pairs there are, for preflight without them.
TASKS = {
    "denoise": ({"name": "input,groundtruth", "train_size": 96_000, "test_size": 1280}, (256, 256), ("psnr", "ssim")),
    "lol": ({"name": "low,high", "train": "our485", "test": "eval15", "train_size": 485, "test_size": 15}, (400, 600), ("psnr", "ssim")),
    "fivek": ({"name": "input,target", "train_size": 4500, "test_size": 500}, (256, 256), ("psnr", "ssim")),
    "sr": ({"name": "input,target", "train_size": 500, "test_size": 100}, (256, 256), ("psnr_y", "ssim_y")),
}
SCALES = ("2", "3", "4")


def demo() -> ConfigDict:
    return ConfigDict(
        {
            "model": {"name": "mirnet_tiny"},
            "data": {"source": "photos", "size": (96, 96)},
            "task": {
                "name": "restore/supervised",
                "degrade": (("noise", 25 / 255),),
                "rounded": False,
                "loss": "clipped_charbonnier",
                "patch": 32,
                "metrics": ("psnr", "ssim"),
                "tile": 96,
            },
            "optim": {"name": "adam", "lr": 2e-3, "lr_end": 1e-5, "schedule": "cosine", "warmup": 0.04, "ema": 0.99, "ema_warmup": "tf"},
            "checkpoint": {"metric": "test/psnr"},
            "steps": 500,
            "batch_size": 8,
            "image_size": (96, 96),
            "eval_every": 250,
            "eval_batch_size": 8,
        }
    )


def published(name: str) -> ConfigDict:
    data, size, metrics = TASKS[name]
    return ConfigDict(
        {
            "model": {"name": "mirnet", "remat": True},
            "data": {"source": "paired", "crop": "window", "corrupt": "skip", "classes": 0, "columns": ("target",), **data},
            "task": {
                "name": "restore/supervised",
                "loss": "clipped_charbonnier",
                "patch": 128,
                "mixup": 1.2,
                "mixup_from": 5,
                "metrics": metrics,
                "tile": 256,
                "overlap": 64,
            },
            "optim": {
                "name": "adam",
                "lr": 2e-4,
                "lr_end": 1e-6,
                "weight_decay": 1e-8,
                "decay": "l2",
                "schedule": "cosine",
                "warmup": "3ep",
            },
            "checkpoint": {"metric": f"test/{metrics[0]}"},
            "epochs": 60,
            "batch_size": 16,
            "image_size": size,
        }
    )


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name != "demo" and name not in TASKS:
        raise ConfigError(f"configs/mirnet.py has no variant {name!r}; {nearest(name, ('demo', *TASKS))}")
    if name == "sr":
        if len(rest) != 1 or rest[0] not in SCALES:
            raise ConfigError(f"configs/mirnet.py: 'sr' takes a scale, {', '.join(SCALES)}; got {','.join(rest)!r}")
        config = published(name)
        # The pictures are enlarged already: the scale says how many pixels at the border are left out when measuring.
        config.task.border = int(rest[0])
        return config
    if rest:
        raise ConfigError(f"configs/mirnet.py: {name!r} takes nothing; got {','.join(rest)!r}")
    return demo() if name == "demo" else published(name)

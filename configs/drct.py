"""DRCT (Hsu et al. 2024, arXiv 2404.00722): super-resolution by a transformer of dense groups, so that features stay strong to the end.

    python -m jaxvision.main --config=configs/drct.py:demo --workdir=runs/drct
        a small network of one group at x2 on photographs that come with scikit-image and scikit-learn, measured on three that are held out, beside
        bicubic interpolation; seen, 34.28 dB on luma as the mean over the three, bicubic 33.12; about a minute on two CPU cores. It starts as
        bilinear interpolation (model.start): from drawn kernels alone it had 32.97 after 2,500 steps
    python -m jaxvision.main --mode=predict --workdir=runs/drct --input=photo.jpg
        writes the photograph at twice its size

    python -m jaxvision.main --config=configs/drct.py:scratch,4 --config.data.path=DF2K --workdir=runs/drct_x4
        DIV2K and Flickr2K in one folder (train/ and test/, or split by seed), the small pictures made by MATLAB's bicubic interpolation on the fly;
        published without any pre-training, luma at x4: Set5 33.11 dB, Set14 29.35, BSD100 28.18, Urban100 28.06, Manga109 32.59
    … configs/drct.py:imagenet,4                        pre-training on ImageNet's pictures (tfds)
    … configs/drct.py:finetune,4 --config.init_from=runs/imagenet --config.data.path=DF2K
    … configs/drct.py:from_x2,4 --config.init_from=runs/drct_x2 --config.data.path=DF2K
        the trunk of the network of half the scale goes on, what enlarges starts anew
    … configs/drct.py:imagenet,4,large and finetune,4,large     DRCT-L, published at x4: 33.37, 29.54, 28.16, 28.70, 33.14 dB

A released file is tested as it is: --config.init_from=DRCT_X4.pth with --mode=eval. Every published recipe: patches of 64 x 64 small pixels, 32 of
them a step, Adam with b2 = 0.99, L1, averaged weights of rate 0.999, the rate halved four or five times.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

SCALES, SIZES = ("2", "3", "4"), {"base": "drct", "large": "drct_l"}
# Their sizes, for preflight where they are not there.
DF2K = {"source": "folder", "crop": "window", "corrupt": "skip", "classes": 0, "train_size": 3450, "test_size": 100}
IMAGENET = {"source": "tfds", "name": "imagenet2012", "train": "train", "test": "validation", "crop": "window"}
# Data, rate, steps in thousands, where the rate is halved.
RECIPES = {
    "scratch": (DF2K, 2e-4, 500, (250, 400, 450, 475)),
    "imagenet": (IMAGENET, 2e-4, 800, (300, 500, 650, 700, 750)),
    "finetune": (DF2K, 1e-5, 250, (125, 200, 225, 240)),
    "from_x2": (DF2K, 1e-4, 250, (125, 200, 225, 240)),
}


def demo() -> ConfigDict:
    # Light enough for some thirty steps a second on two CPU cores.
    small = {"dim": 16, "groups": 1, "growth": 8, "heads": 1, "window": 8, "features": 16, "drop_path": 0.0, "start": "bilinear"}
    return ConfigDict(
        {
            "model": {"name": "drct_x2", **small},
            "data": {"source": "photos", "size": (96, 96)},
            "task": {"name": "restore/supervised", "patch": 32, "tile": 64},
            "optim": {"name": "adam", "lr": 2e-3, "lr_end": 1e-5, "b2": 0.99, "schedule": "cosine", "warmup": 0.05, "ema": 0.999, "ema_warmup": "tf"},
            "checkpoint": {"metric": "test/picture_psnr_y"},
            "steps": 1500,
            "batch_size": 8,
            "image_size": (96, 96),
            "eval_every": 750,
            "eval_batch_size": 24,
            "log_every": 100,
        }
    )


def published(name: str, scale: int, size: str) -> ConfigDict:
    data, lr, thousands, halved = RECIPES[name]
    return ConfigDict(
        {
            "model": {"name": f"{SIZES[size]}_x{scale}", "remat": size == "large"},
            "data": data,
            "task": {"name": "restore/supervised", "loss": "l1", "tile": 128, "overlap": 32},
            "optim": {
                "name": "adam",
                "lr": lr,
                "b2": 0.99,
                "schedule": "step",
                "milestones": tuple(1000 * step for step in halved),
                "decay_factor": 0.5,
                "ema": 0.999,
            },
            "checkpoint": {"metric": "test/psnr_y", "every": 5000},
            "steps": 1000 * thousands,
            "batch_size": 32,
            "image_size": (64 * scale, 64 * scale),
            "reinit_head": name == "from_x2",
            "eval_every": 5000,
        }
    )


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name != "demo" and name not in RECIPES:
        raise ConfigError(f"configs/drct.py has no variant {name!r}; {nearest(name, ('demo', *RECIPES))}")
    if name == "demo":
        if rest:
            raise ConfigError(f"configs/drct.py: 'demo' takes nothing; got {','.join(rest)!r}")
        return demo()
    scale, size, *_ = (*rest, *("4", "base")[len(rest) :])
    if len(rest) > 2 or scale not in SCALES or size not in SIZES:
        takes = f"a scale, {', '.join(SCALES)}, and a size, {' or '.join(SIZES)}"
        raise ConfigError(f"configs/drct.py: {name!r} takes {takes}; got {','.join(rest)!r}")
    return published(name, int(scale), size)

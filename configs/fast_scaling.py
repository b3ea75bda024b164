"""Fast and Accurate Model Scaling (Dollar, Singh, Girshick 2021, arXiv 2103.06877): RegNetY-4GF and EfficientNet-B0 made four times as costly.

    python -m jaxvision.main --config=configs/fast_scaling.py:demo --workdir=runs/fast
        a small RegNetY on scikit-learn's digits, scaled four times by the fast rule; about a minute on two CPU cores.
        demo,base is the network before scaling; demo,d demo,wg demo,r demo,uniform grow depth, width (and groups), resolution, or all alike

    python -m jaxvision.main --config=configs/fast_scaling.py:regnety,fast --workdir=runs/fast
        RegNetY-4GF x4 (15.6 G multiply-adds, 26.5 M activations, 240 pixels) on ImageNet-1k. Strategies: base, fast, uniform, dwr, d, w, wg, r.
        The paper: errors within a few tenths of each other, and the fast rule far quicker, since activations grow as the 0.6th power of the cost
    … configs/fast_scaling.py:efficientnet,fast
        EfficientNet-B0 x4, with the strategies base, fast, uniform, dwr, d, w, r
        A third word names another data set of tensorflow_datasets: regnety,fast,imagenette

The recipe is that of the published code's baselines: 100 epochs, SGD with Nesterov momentum, cosine, decay of every parameter in the gradient, flips.
Lighting noise (PCA, deviation 0.1) is left out, the rate changes every step instead of every epoch, and batch statistics are running averages.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

STRATEGIES = ("base", "fast", "uniform", "dwr", "d", "w", "wg", "r")
# Model, batch, rate, weight decay, warm-up.
BASES = {"regnety": ("regnety_040", 512, 0.4, 5e-5, "5ep"), "efficientnet": ("efficientnet_b0", 256, 0.4, 1e-5, 0)}
# Side of the crop, and of the picture that it is cut from in evaluation; (224, 256) where resolution does not grow.
SIDES = {"fast": (240, 276), "uniform": (284, 324), "dwr": (284, 324), "r": (448, 512)}
# Depths, widths, group widths, side: what models/scaling.py makes of the base, by 4.
SMALL = {
    "base": ((2, 2), (48, 96), (24, 24), 32),
    "d": ((8, 8), (48, 96), (24, 24), 32),
    "wg": ((2, 2), (96, 192), (48, 48), 32),
    "r": ((2, 2), (48, 96), (24, 24), 64),
    "uniform": ((3, 3), (64, 128), (32, 32), 40),
    "fast": ((2, 2), (80, 160), (40, 40), 36),
}


def demo(strategy: str = "fast") -> ConfigDict:
    if strategy not in SMALL:
        raise ConfigError(f"configs/fast_scaling.py: 'demo' takes a strategy, got {strategy!r}; {nearest(strategy, SMALL)}")
    depths, widths, groups, side = SMALL[strategy]
    return ConfigDict(
        {
            "epochs": 10,
            "batch_size": 32,
            "image_size": (side, side),
            "eval_every": 225,
            "eval_batch_size": 120,
            "model": {"name": "regnety_040", "depths": depths, "widths": widths, "group_widths": groups},
            "data": {"source": "digits", "crop": "resize", "mean": (0.5,), "std": (0.5,)},
            "augment": {"pad_crop": 2},
            "optim": {"name": "nesterov", "lr": 0.05, "schedule": "cosine", "warmup": 0.1, "weight_decay": 5e-5, "decay": "l2"},
        }
    )


def imagenet(base: str, strategy: str = "fast", dataset: str = "imagenet2012") -> ConfigDict:
    allowed = [name for name in STRATEGIES if (base, name) != ("efficientnet", "wg")]
    if strategy not in allowed:
        raise ConfigError(f"configs/fast_scaling.py: {base!r} takes a strategy, got {strategy!r}; {nearest(strategy, allowed)}")
    model, batch, lr, weight_decay, warmup = BASES[base]
    side, resized = SIDES.get(strategy, (224, 256))
    return ConfigDict(
        {
            "epochs": 100,
            "batch_size": batch,
            "image_size": (side, side),
            "model": {"name": model if strategy == "base" else f"{model}_x4_{strategy}", "dtype": "bfloat16"},
            "data": {
                "source": "tfds",
                "name": dataset,
                "train": "train",
                "test": "validation",
                "crop": "random_resized",
                "eval_crop": side / resized,
            },
            "augment": {"flip": True},
            "optim": {
                "name": "nesterov",
                "momentum": 0.9,
                "lr": lr,
                "lr_start": 0.1 * lr,
                "schedule": "cosine",
                "warmup": warmup,
                "weight_decay": weight_decay,
                "decay": "l2",
                "decay_1d": True,
                "no_decay": (),
            },
            "checkpoint": {"every": 1000},
        }
    )


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name != "demo" and name not in BASES:
        raise ConfigError(f"configs/fast_scaling.py has no variant {name!r}; {nearest(name, ['demo', *BASES])}")
    if len(rest) > (1 if name == "demo" else 2):
        raise ConfigError(f"configs/fast_scaling.py: {name!r} takes fewer words than {','.join(rest)!r}")
    return demo(*rest) if name == "demo" else imagenet(name, *rest)

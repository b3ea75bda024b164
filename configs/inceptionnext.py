"""InceptionNeXt (Yu et al. 2024, arXiv 2303.16900): a ConvNeXt whose depthwise convolution is a square and two bands on few channels.

    python -m jaxvision.main --config=configs/inceptionnext.py:demo --workdir=runs/inceptionnext
        a net of two stages on scikit-learn's 1,797 digits; about a minute on two CPU cores

    python -m jaxvision.main --config=configs/inceptionnext.py:tiny --workdir=runs/inceptionnext_tiny
        ImageNet-1k, 300 epochs at batch 4096: tiny 82.3, small 83.5, base 84.0 %; atto, 600 epochs at batch 1280, 75.3 %
    python -m jaxvision.main --config=configs/inceptionnext.py:base384 --config.init_from=runs/inceptionnext_base --workdir=runs/base384
        30 epochs at 384 pixels from a run or a checkpoint of `base`: 85.2 %
        A second word names another data set of tensorflow_datasets: tiny,imagenette
"""

from ml_collections import ConfigDict

from jaxvision import recipes
from jaxvision.errors import ConfigError, nearest

# Drop path rate.
PUBLISHED = {"atto": 0.1, "tiny": 0.1, "small": 0.3, "base": 0.4}


def demo() -> ConfigDict:
    # At the published 1e-6 the branches would not wake up within a short run, so the layer scale starts at 1.
    small = {"patch": 1, "depths": (2, 2), "dims": (24, 48), "mlp_ratios": (4, 3), "band": 7, "layer_scale": 1.0}
    return recipes.digits({"name": "inception_next_tiny", **small})


def imagenet(name: str, dataset: str = "imagenet2012", **changes) -> ConfigDict:
    # Ten further epochs at the lowest rate are left out.
    config = recipes.imagenet(f"inception_next_{name}", dataset, drop_path=PUBLISHED[name], lr=4e-3, optim={"lr_start": 1e-6, "lr_end": 1e-5})
    return recipes.changed(config, changes)


def atto(dataset: str = "imagenet2012") -> ConfigDict:
    augment = {"randaugment": "rand-m5-inc1-mstd101", "erasing": 0.1, "mixup": 0.2}
    optim = {"lr": 1e-3, "lr_start": 5e-7, "lr_end": 5e-7, "warmup": "5ep"}
    return imagenet("atto", dataset, epochs=600, batch_size=1280, augment=augment, optim=optim)


def base384(dataset: str = "imagenet2012") -> ConfigDict:
    model = {"drop_path": 0.7, "dropout": 0.5}
    config = imagenet("base", dataset, epochs=30, batch_size=1024, image_size=(384, 384), model=model, data={"eval_crop": 1.0})
    config.augment = ConfigDict({"flip": True, "randaugment": "rand-m9-mstd0.5-inc1", "erasing": 0.25})
    config.optim = ConfigDict({"name": "adamw", "lr": 5e-5, "weight_decay": 0.05, "schedule": "constant", "warmup": 0, "ema": 0.9999})
    return config


VARIANTS = {"demo": demo, "atto": atto, "base384": base384}


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name not in {**VARIANTS, **PUBLISHED}:
        raise ConfigError(f"configs/inceptionnext.py has no variant {name!r}; {nearest(name, {**VARIANTS, **PUBLISHED})}")
    if len(rest) > (name != "demo"):
        raise ConfigError(f"configs/inceptionnext.py: {name!r} takes {'one data set' if name != 'demo' else 'nothing'}, got {','.join(rest)!r}")
    return VARIANTS[name](*rest) if name in VARIANTS else imagenet(name, *rest)

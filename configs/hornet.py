"""HorNet (Rao et al. 2022, arXiv 2207.14284): features multiplied with each other up to the fifth order.

    python -m jaxvision.main --config=configs/hornet.py:demo --workdir=runs/hornet
        a net of two stages on scikit-learn's 1,797 digits; about a minute on two CPU cores
    … demo,gf: its second stage with frequency filters

    python -m jaxvision.main --config=configs/hornet.py:tiny_7x7 --workdir=runs/hornet_tiny
        ImageNet-1k, 300 epochs at batch 4096: tiny_7x7 82.8, tiny_gf 83.0, small_7x7 83.8, small_gf 84.0, base_7x7 84.2, base_gf 84.3 %
    python -m jaxvision.main --config=configs/hornet.py:large_gf_384 --config.init_from=hornet_large_gf_in22k.pth --workdir=runs/hornet_large
        30 epochs at 384 pixels from weights of ImageNet-22k: 87.7 % as far as known
        A second word names another data set of tensorflow_datasets: tiny_gf,imagenette
"""

from ml_collections import ConfigDict

from jaxvision import recipes
from jaxvision.errors import ConfigError, nearest

# Drop path rate, RandAugment's magnitude, and the norm to which gradients are clipped.
PUBLISHED = {
    "tiny_7x7": (0.2, 9, 100.0),
    "tiny_gf": (0.2, 9, 1.0),
    "small_7x7": (0.4, 9, 5.0),
    "small_gf": (0.4, 12, 1.0),
    "base_7x7": (0.5, 9, 5.0),
    "base_gf": (0.5, 15, 1.0),
}


def demo(mixer: str = "7x7") -> ConfigDict:
    if mixer not in ("7x7", "gf"):
        raise ConfigError(f"configs/hornet.py: 'demo' takes 7x7 or gf, got {mixer!r}")
    # At the published 1e-6 the branches would not wake up within a short run, so the layer scale starts at 1.
    small = {"patch": 1, "dim": 16, "depths": (1, 2), "orders": (2, 3), "filters": (False, mixer == "gf"), "layer_scale": 1.0}
    return recipes.digits({"name": "hornet_tiny_7x7", **small}, epochs=25, optim={"clip": 1.0})


def imagenet(name: str, dataset: str = "imagenet2012") -> ConfigDict:
    drop_path, magnitude, clip = PUBLISHED[name]
    augment, optim = {"randaugment": f"rand-m{magnitude}-mstd0.5-inc1"}, {"lr_end": 1e-6, "clip": clip, "ema": 0.9999}
    return recipes.imagenet(f"hornet_{name}", dataset, drop_path=drop_path, lr=4e-3, augment=augment, optim=optim)


def large_gf_384(dataset: str = "imagenet2012") -> ConfigDict:
    # Layer-wise decay here counts every block; the public code groups two blocks of the third stage to a rate.
    config = imagenet("base_gf", dataset)
    config.epochs, config.batch_size, config.image_size = 30, 512, (384, 384)
    config.model.update({"name": "hornet_large_gf_img384", "drop_path": 0.4})
    config.data.eval_crop = 1.0
    config.augment = ConfigDict({"flip": True, "randaugment": "rand-m9-mstd0.5-inc1", "erasing": 0.25})
    config.optim.update({"lr": 5e-5, "weight_decay": 1e-8, "warmup": "0ep", "clip": 1.0, "layer_decay": 0.7})
    return config


VARIANTS = {"demo": demo, "large_gf_384": large_gf_384}


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name not in {**VARIANTS, **PUBLISHED}:
        raise ConfigError(f"configs/hornet.py has no variant {name!r}; {nearest(name, {**VARIANTS, **PUBLISHED})}")
    if len(rest) > 1:
        raise ConfigError(f"configs/hornet.py: {name!r} takes one word more, got {','.join(rest)!r}")
    return VARIANTS[name](*rest) if name in VARIANTS else imagenet(name, *rest)

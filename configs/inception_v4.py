"""Inception-v4 and Inception-ResNet (Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
arXiv 1602.07261).

    python -m jaxvision.main --config=configs/inception_v4.py:demo --workdir=runs/inception
        16 small residual Inception blocks on scikit-learn's 1,797 digits; about a minute on two CPU cores; demo,plain is the same without residuals,
        which needs far more steps to the same loss

    python -m jaxvision.main --config=configs/inception_v4.py:v4 --workdir=runs/v4
        ImageNet-1k at 299 pixels; error of one crop, top-1 / top-5, as published: v4 20.0 / 5.0 %, resnet_v1 21.3 / 5.5 %, resnet_v2 19.9 / 4.9 %.
        resnet_v2 is the network as released (10, 20, 10 blocks), resnet_v2_drawn follows the paper's figures (stem of v4; 5, 10, 5 blocks),
        resnet_v2_short has the released widths with the blocks of the figures.
        A second word names another data set of tensorflow_datasets: v4,imagenette

The recipe is the paper's: RMSProp with decay 0.9 and epsilon 1, 0.045 times 0.94 every two epochs for 20 replicas of 32 images, averaged weights in
evaluation; label smoothing and weight decay as the released code has them. Its auxiliary classifier is left out, and the number of epochs, which the
paper does not state, is ours.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

PUBLISHED = {
    "v4": {"name": "inception_v4"},
    "resnet_v1": {"name": "inception_resnet_v1"},
    "resnet_v2": {"name": "inception_resnet_v2"},
    "resnet_v2_drawn": {"name": "inception_resnet_v2_drawn"},
    "resnet_v2_short": {"name": "inception_resnet_v2", "depths": (5, 10, 4)},
}
ARMS = {"residual": "inception_resnet_stack", "plain": "inception_stack"}


def demo(arm: str = "residual") -> ConfigDict:
    if arm not in ARMS:
        raise ConfigError(f"configs/inception_v4.py: 'demo' takes an arm, got {arm!r}; {nearest(arm, ARMS)}")
    return ConfigDict(
        {
            "epochs": 15,
            "batch_size": 64,
            "image_size": (8, 8),
            "eval_every": 112,
            "eval_batch_size": 120,
            "model": {"name": ARMS[arm]},
            "data": {"source": "digits"},
            "optim": {"name": "momentum", "momentum": 0.9, "lr": 0.02, "schedule": "constant"},
        }
    )


def imagenet(name: str, dataset: str = "imagenet2012") -> ConfigDict:
    return ConfigDict(
        {
            "epochs": 160,
            "batch_size": 640,
            "image_size": (299, 299),
            "model": {**PUBLISHED[name], "dtype": "bfloat16"},
            "data": {"source": "tfds", "name": dataset, "train": "train", "test": "validation", "crop": "random_resized", "scale": (0.05, 1.0)},
            "augment": {"flip": True, "color_jitter": (0.125, 0.5, 0.5, 0.2)},
            "task": {"name": "classify", "label_smoothing": 0.1},
            "optim": {
                "name": "rmsprop_tf",
                "b2": 0.9,
                "eps": 1.0,
                "momentum": 0.0,
                "lr": 0.045,
                "schedule": "exponential",
                "decay_every": "2ep",
                "decay_factor": 0.94,
                "weight_decay": 4e-5,
                "decay": "l2",
                "ema": 0.9999,
            },
            "checkpoint": {"every": 1000},
        }
    )


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name != "demo" and name not in PUBLISHED:
        raise ConfigError(f"configs/inception_v4.py has no variant {name!r}; {nearest(name, ['demo', *PUBLISHED])}")
    if len(rest) > 1:
        raise ConfigError(f"configs/inception_v4.py: {name!r} takes at most one word, got {','.join(rest)!r}")
    return demo(*rest) if name == "demo" else imagenet(name, *rest)

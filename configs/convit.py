"""ConViT (d'Ascoli et al. 2021, arXiv 2103.10697): transformers whose first layers start as convolutions, which few pictures are enough for.

    python -m jaxvision.main --config=configs/convit.py:demo --workdir=runs/convit
        four layers with nine heads on 200 of scikit-learn's digits; about a minute on two CPU cores
    … demo,plain: the same without positional layers; demo,random: positional layers that start anywhere

    python -m jaxvision.main --config=configs/convit.py:small --workdir=runs/convit_small
        ImageNet-1k, 300 epochs: tiny 73.1, tiny_plus 76.7, small 81.3, small_plus 82.2, base 82.4, base_plus 82.5 %
        A second word names another data set of tensorflow_datasets: small,imagenette
"""

from ml_collections import ConfigDict

from jaxvision import recipes
from jaxvision.errors import ConfigError, nearest

ARMS = {"local": {}, "random": {"local_init": False}, "plain": {"local_layers": 0}}
PUBLISHED = ("tiny", "tiny_plus", "small", "small_plus", "base", "base_plus")


def demo(arm: str = "local") -> ConfigDict:
    if arm not in ARMS:
        raise ConfigError(f"configs/convit.py: 'demo' takes an arm, got {arm!r}; {nearest(arm, ARMS)}")
    return ConfigDict(
        {
            "steps": 1000,
            "batch_size": 32,
            "image_size": (8, 8),
            "eval_every": 250,
            "eval_batch_size": 120,
            "model": {
                "name": "convit_tiny", "patch": 1, "dim": 72, "depth": 4, "heads": 9, "mlp_ratio": 2.0, "local_layers": 3, **ARMS[arm]
            },
            "data": {"source": "digits", "limit": 200, "mean": (0.5,), "std": (0.5,)},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05, "schedule": "cosine", "warmup": 0.1, "clip": 1.0},
        }
    )  # fmt: skip


def imagenet(name: str, dataset: str = "imagenet2012") -> ConfigDict:
    # Without clipping and without averaged weights; each image comes once an epoch (the public code repeats it three times).
    optim = {"lr_batch": 512, "lr_start": 1e-6, "lr_end": 1e-5, "warmup": "5ep"}
    return recipes.imagenet(f"convit_{name}", dataset, drop_path=0.1, lr=5e-4, batch_size=1024, optim=optim)


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name not in ("demo", *PUBLISHED):
        raise ConfigError(f"configs/convit.py has no variant {name!r}; {nearest(name, ('demo', *PUBLISHED))}")
    if len(rest) > 1:
        raise ConfigError(f"configs/convit.py: {name!r} takes one word more, got {','.join(rest)!r}")
    return demo(*rest) if name == "demo" else imagenet(name, *rest)

"""MetaFormer and PoolFormer (Yu et al. 2022, "MetaFormer Is Actually What You Need for Vision", arXiv 2111.11418): does the token mixer matter?

    python -m jaxvision.main --config=configs/metaformer.py:demo --workdir=runs/poolformer
        a PoolFormer of 4 blocks on scikit-learn's 1,797 digits; about a minute on two CPU cores
    python -m jaxvision.main --config=configs/metaformer.py:demo,attention --workdir=runs/attention
        the same net with another mixer: identity, attention, random, sep_conv
    python -m jaxvision.main --config=configs/metaformer.py:bag,pool --workdir=runs/bag
        the same with patches that do not overlap, so that nothing but the mixer moves information between pixels; compare bag,identity

    python -m jaxvision.main --config=configs/metaformer.py:s12 --workdir=runs/s12
        ImageNet-1k as published; top-1 at 224: s12 77.2 %, s24 80.3 %, s36 81.4 %, m36 82.1 %, m48 82.5 %.
        id, pppa, ppaa, pppf, ppff: S12 with identity mixing, or with attention (a) or spatial layers (f) in its last stages.
        A second word names another data set of tensorflow_datasets: s12,imagenette
"""

from ml_collections import ConfigDict

from jaxvision import recipes
from jaxvision.errors import ConfigError, nearest

MIXERS = ("pool", "identity", "attention", "random", "sep_conv")
# Name of the model and drop path rate.
PUBLISHED = {
    "s12": ("poolformer_s12", 0.1),
    "s24": ("poolformer_s24", 0.1),
    "s36": ("poolformer_s36", 0.2),
    "m36": ("poolformer_m36", 0.3),
    "m48": ("poolformer_m48", 0.4),
    "id": ("metaformer_id_s12", 0.1),
    "pppa": ("metaformer_pppa_s12_224", 0.1),
    "ppaa": ("metaformer_ppaa_s12_224", 0.1),
    "pppf": ("metaformer_pppf_s12_224", 0.1),
    "ppff": ("metaformer_ppff_s12_224", 0.1),
}


def small(mixer: str, stem: tuple[int, int, int], down: tuple[int, int, int]) -> ConfigDict:
    # At the published 1e-5 the branches of four blocks would not wake up within a short run, so the layer scale starts at 1.
    fields = {"depths": (2, 2), "dims": (32, 64), "mixers": (mixer, mixer), "stem": stem, "down": down, "layer_scale": 1.0, "head_norm": "map"}
    return recipes.digits({"name": "poolformer_s12", **fields})


def demo(mixer: str = "pool") -> ConfigDict:
    return small(mixer, stem=(3, 2, 1), down=(3, 2, 1))


def bag(mixer: str = "pool") -> ConfigDict:
    return small(mixer, stem=(2, 2, 0), down=(1, 1, 0))


def imagenet(name: str, dataset: str = "imagenet2012") -> ConfigDict:
    # The official run: 1,024 images a step at 1e-3, 4,096 in the paper at 4e-3; ten further epochs at the lowest rate are left out.
    model, drop_path = PUBLISHED[name]
    optim = {"lr_batch": 1024, "lr_start": 1e-6, "lr_end": 1e-5, "warmup": "5ep"}
    return recipes.imagenet(model, dataset, drop_path=drop_path, lr=1e-3, optim=optim)


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name in PUBLISHED and len(rest) <= 1:
        return imagenet(name, *rest)
    if name not in ("demo", "bag"):
        raise ConfigError(f"configs/metaformer.py has no variant {name!r}; {nearest(name, ['demo', 'bag', *PUBLISHED])}")
    if len(rest) > 1 or (rest and rest[0] not in MIXERS):
        raise ConfigError(f"configs/metaformer.py: {name!r} takes one token mixer, got {','.join(rest)!r}; {nearest(','.join(rest), MIXERS)}")
    return {"demo": demo, "bag": bag}[name](*rest)

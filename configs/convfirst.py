"""ConvFirstNet (Lavin 2024, "On the Efficiency of Convolutional Neural Networks", arXiv 2404.03617).

    python -m jaxvision.main --config=configs/convfirst.py:demo --workdir=runs/convfirst
        two stages of ConvFirst blocks and MLPs on scikit-learn's 1,797 digits; a minute or two on two CPU cores
    python -m jaxvision.main --config=configs/convfirst.py:demo,convnext --workdir=runs/depthwise
        blocks of another kind at about the same number of multiply-adds: depthwise 7x7 (convnext), or convolution inside (mbconv)

    python -m jaxvision.main --config=configs/convfirst.py:tiny --workdir=runs/convfirst_tiny
        ImageNet-1k at 224; tiny, small. The paper's recipe is not public: this is ConvNeXt's, and the sizes are ours, so no accuracy is expected.
"""

from ml_collections import ConfigDict

from jaxvision import recipes
from jaxvision.errors import ConfigError, nearest

# Widths at which the two stages of the demo cost about as many multiply-adds with each kind of block, and channels of the convolution's groups.
DEMO = {"convfirst": ((32, 64), 8), "convnext": ((32, 64), 8), "mbconv": ((24, 48), 8)}
PUBLISHED = {"tiny": ("convfirstnet_tiny", 0.1), "small": ("convfirstnet_small", 0.2)}


def demo(block: str = "convfirst") -> ConfigDict:
    dims, group_width = DEMO[block]
    small = {"block": block, "depths": (3, 3), "dims": dims, "stem": 16, "hidden": 128, "group_width": group_width}
    return recipes.digits({"name": "convfirstnet_tiny", **small}, epochs=12, image_size=(16, 16), data={"crop": "resize"})


def imagenet(name: str, dataset: str = "imagenet2012") -> ConfigDict:
    model, drop_path = PUBLISHED[name]
    return recipes.imagenet(model, dataset, drop_path=drop_path, lr=4e-3, optim={"lr_end": 1e-6, "ema": 0.9999})


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name in PUBLISHED and len(rest) <= 1:
        return imagenet(name, *rest)
    if name != "demo":
        raise ConfigError(f"configs/convfirst.py has no variant {name!r}; {nearest(name, ['demo', *PUBLISHED])}")
    if len(rest) > 1 or (rest and rest[0] not in DEMO):
        raise ConfigError(f"configs/convfirst.py: demo takes one kind of block, got {','.join(rest)!r}; {nearest(','.join(rest), DEMO)}")
    return demo(*rest)

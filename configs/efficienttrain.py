"""EfficientTrain (Wang et al. 2023, arXiv 2211.09703) and EfficientTrain++ (2024, arXiv 2405.08768): low frequencies and weak augmentation first.

    python -m jaxvision.main --config=configs/efficienttrain.py:demo --workdir=runs/curriculum
        a ViT on scikit-learn's 1,797 digits, seen at 6, 6, 6, 8 and 8 pixels; about a minute on two CPU cores;
        "digits,baseline" and "digits,cut" are the run without a curriculum, whole and cut to the same compute
    python -m jaxvision.main --config=configs/efficienttrain.py:fashion --workdir=runs/fashion_curriculum
        the same on Fashion-MNIST at 20, 20, 20, 24 and 28 pixels, the published proportions; "fashion,conv" is a ConvNeXt, "fashion,resnet"
        a ResNet, "fashion,vit,baseline" and "fashion,vit,cut" the other two arms
    python -m jaxvision.main --config=configs/efficienttrain.py:search --workdir=runs/search --mode=search
        the greedy search for sizes that found the published schedule, on digits

    python -m jaxvision.main --config=configs/efficienttrain.py:deit_s --workdir=runs/deit_s
        ImageNet-1k, 300 epochs of EfficientTrain: deit_t 73.3, deit_s 80.4, swin_t 81.4, swin_s 83.2, swin_b 83.6, convnext_t 82.2,
        convnext_s 83.2, convnext_b 83.7, resnet50 79.4, for 0.65 of the compute; caformer_s18, _s36, _m36 were published with ++ only
    … deit_s,450 other epochs; deit_s,plus200 the ++ schedule of 200 equivalent epochs (100, 150, 300): deit_s 81.0 (79.8, 80.6, 81.3),
        swin_t 81.6, convnext_t 82.2, resnet50 79.6, caformer_s18 83.4; deit_s,plus200,replay with the replay buffer for slow input pipelines;
        deit_s,baseline without a curriculum, 80.3
"""

from ml_collections import ConfigDict

from jaxvision import recipes
from jaxvision.errors import ConfigError, nearest

SIZES = (160, 160, 160, 192, 224)
MAGNITUDES = (1.0, 3.0, 5.0, 7.0, 9.0)
# Of ++, a size a tenth of the compute.
TENTHS = {
    "default": (96, 96, 160, 160, 160, 160, 224, 224, 224, 224),
    "convnext": (160, 160, 160, 160, 160, 160, 224, 224, 224, 224),
    "deit": (96, 96, 160, 160, 160, 160, 192, 192, 224, 224),
}
# Model, drop path, tenths of ++, and what differs from the common recipe. Windows of Swin follow the size, and its tables of relative
# positions decay, as in the public code.
_DEIT = {"optim.clip": 5.0}
_SWIN = {"optim.clip": 5.0, "model.window": None, "optim.no_decay": (r"(^|/)bias$", r"norm[^/]*/(scale|bias)$")}
_CONVNEXT = {"optim.ema": 0.9999}
# The public code has no launcher for CAFormer; its own recipe (arXiv 2210.13452): LAMB, head dropout for the two larger ones.
_CAFORMER = {"optim.name": "lamb", "optim.lr": 8e-3}
MODELS = {
    "deit_t": ("deit_tiny_patch16_224", 0.1, "deit", _DEIT),
    "deit_s": ("deit_small_patch16_224", 0.1, "deit", _DEIT),
    "swin_t": ("swin_tiny_patch4_window7_224", 0.2, "default", _SWIN),
    "swin_s": ("swin_small_patch4_window7_224", 0.3, "default", _SWIN),
    "swin_b": ("swin_base_patch4_window7_224", 0.5, "default", _SWIN),
    "convnext_t": ("convnext_tiny", 0.1, "convnext", _CONVNEXT),
    "convnext_s": ("convnext_small", 0.4, "convnext", _CONVNEXT),
    "convnext_b": ("convnext_base", 0.5, "convnext", _CONVNEXT),
    "resnet50": ("resnet50", 0.0, "default", {}),
    "caformer_s18": ("caformer_s18", 0.15, "default", _CAFORMER),
    "caformer_s36": ("caformer_s36", 0.3, "default", {**_CAFORMER, "model.dropout": 0.4}),
    "caformer_m36": ("caformer_m36", 0.4, "default", {**_CAFORMER, "model.dropout": 0.4}),
}
# (uses of an image, batches remembered) by size.
REPLAY = {"deit_s": {96: (4, 1920), 160: (2, 256)}, "resnet50": {96: (4, 1920), 160: (2, 256)}, "swin_t": {96: (2, 1024)}}


def efficienttrain(epochs: int, sizes: tuple[int, ...] = SIZES, magnitudes: tuple[float, ...] = MAGNITUDES) -> tuple[dict, ...]:
    """The phases of EfficientTrain: stages of equal numbers of epochs."""
    count = len(sizes)
    return tuple(
        {"until": f"{epochs * (stage + 1) / count:g}ep", "size": size, "magnitude": magnitude}
        for stage, (size, magnitude) in enumerate(zip(sizes, magnitudes))
    )


def plus_stages(equivalent: int, sizes: tuple[int, ...], full: int = 224) -> list[tuple[int, int, int]]:
    """(epochs R that the run would have at the stage's size, first epoch, end) of each stage of ++, whole numbers as the public code makes them."""
    stages, end, before = [], 0, full
    for stage, size in enumerate(sizes):
        whole = equivalent * full**2 // size**2
        start, before = round(end * before**2 / size**2), size
        end = int(whole / len(sizes) * (stage + 1))
        stages.append((whole, start, end))
    return stages


def efficienttrain_plus(equivalent: int, sizes: tuple[int, ...], replay: dict | None = None) -> tuple[tuple[dict, ...], int]:
    """(phases, epochs really seen) of ++: stages of equal compute, Lanczos down-sampling, the learning rate a function of the compute done."""
    phases, seen = [], 0
    for magnitude, (size, (whole, start, end)) in enumerate(zip(sizes, plus_stages(equivalent, sizes))):
        seen += end - start
        phase = {"until": f"{seen}ep", "size": size, "crop": "resize", "magnitude": float(magnitude), "schedule": (start, whole)}
        phases.append(phase | ({"replay": replay[size]} if replay and size in replay else {}))
    return tuple(phases), seen


def imagenet(name: str, schedule: str = "300", option: str = "") -> ConfigDict:
    model, drop_path, tenths, changes = MODELS[name]
    warmup: str | float = "20ep"
    if schedule.startswith("plus"):
        equivalent = int(schedule.removeprefix("plus"))
        phases, epochs = efficienttrain_plus(equivalent, TENTHS[tenths], REPLAY[name] if option else None)
        drop_path *= equivalent / 200
        warmup = 0.2 if tenths == "deit" else "20ep"
    elif schedule == "baseline":
        phases, epochs = (), 300
    else:
        epochs = int(schedule)
        phases = efficienttrain(epochs)
    optim = {"lr_end": 1e-6, "warmup": warmup}
    config = recipes.imagenet(model, drop_path=drop_path, lr=4e-3, epochs=epochs, phases=phases, data={"eval_crop": 0.875}, optim=optim)
    for key, value in changes.items():
        section, field = key.split(".")
        config[section][field] = value
    return config


VIT = {"name": "vit_tiny_patch16_224", "dim": 48, "depth": 3, "heads": 4, "pool": "avg", "class_token": False, "drop_path": 0.05}
CONVNET = {"name": "convnext_tiny", "depths": (2, 2), "dims": (48, 96), "layer_scale": 1.0, "drop_path": 0.05}
RESNET = {"name": "resnet18_cifar", "depths": (1, 1, 1), "widths": (16, 32, 64), "drop_path": 0.05}
ARMS = ("curriculum", "baseline", "cut")
# Of 28 pixels what 160, 192 and 224 are of 224.
SMALL_SIZES = (20, 20, 20, 24, 28)


def small(model: dict, data: dict, size: int, epochs: float, phases: tuple) -> ConfigDict:
    return ConfigDict(
        {
            "epochs": epochs,
            "batch_size": 64,
            "image_size": (size, size),
            "phases": phases,
            "model": model,
            "data": data,
            "augment": {"pad_crop": 1, "randaugment": "rand-m9-n1-mstd0.5-inc1"},
            "task": {"name": "classify", "label_smoothing": 0.1},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05, "schedule": "cosine", "warmup": 0.1, "clip": 1.0},
        }
    )


DIGITS = {"source": "digits", "mean": (0.5,), "std": (0.5,)}
FASHION = {"source": "idx", "path": "/usr/share/datasets/fashion-mnist", "mean": (0.286,), "std": (0.353,)}


def phases_of(arm: str, epochs: int, sizes: tuple[int, ...], magnitudes: tuple[float, ...]) -> tuple[tuple[dict, ...], float]:
    """(phases, epochs) of an arm: "curriculum", "baseline" of as many epochs, or "cut" to the curriculum's compute."""
    share = sum(size**2 for size in sizes) / (len(sizes) * sizes[-1] ** 2)
    return {"curriculum": (efficienttrain(epochs, sizes, magnitudes), epochs), "baseline": ((), epochs), "cut": ((), epochs * share)}[arm]


def digits(arm: str = "curriculum", epochs: int = 40) -> ConfigDict:
    phases, length = phases_of(arm, epochs, (6, 6, 6, 8, 8), (0.5, 1.0, 1.5, 2.0, 2.5))
    config = small({**VIT, "patch": 2, "depth": 4}, DIGITS, 8, length, phases)
    config.batch_size, config.eval_batch_size, config.eval_every = 32, 120, 225
    config.augment.randaugment = "rand-m2.5-n1-mstd0.5-inc1"  # where the curriculum ends, for the arms without one
    return config


def fashion(kind: str = "vit", arm: str = "curriculum", epochs: int = 10) -> ConfigDict:
    model = {"vit": {**VIT, "patch": 4}, "conv": CONVNET, "resnet": RESNET}[kind]
    phases, length = phases_of(arm, epochs, SMALL_SIZES, MAGNITUDES)
    config = small(model, FASHION, 28, length, phases)
    config.augment.flip, config.eval_batch_size, config.data.limit = True, 500, 20000
    return config


def search() -> ConfigDict:
    config = small({**VIT, "patch": 2, "dim": 32, "depth": 2}, DIGITS, 8, 40, ())
    config.batch_size, config.eval_batch_size, config.eval_every = 32, 120, 1800
    config.search = {"name": "curriculum", "sizes": (4, 6, 8), "stages": 3, "tolerance": 0.01}
    return config


SMALL = {"demo": digits, "digits": digits, "fashion": fashion, "search": search}


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name in MODELS:
        schedule, *option = rest or ["300"]
        known = schedule == "baseline" or schedule.removeprefix("plus").isdigit()
        if not known or len(option) > 1 or (option and (option != ["replay"] or name not in REPLAY or not schedule.startswith("plus"))):
            raise ConfigError(
                f"configs/efficienttrain.py: {variant!r}; a model takes 'baseline', a number of epochs, or plus100 … plus300, "
                f"the last of {', '.join(REPLAY)} also ',replay'"
            )
        return imagenet(name, schedule, *option)
    if name not in SMALL:
        raise ConfigError(f"configs/efficienttrain.py has no variant {name!r}; {nearest(name, [*SMALL, *MODELS])}")
    choices = {"fashion": [("vit", "conv", "resnet"), ARMS], "digits": [ARMS]}.get(name, [])
    for word, allowed in zip(rest, choices):
        if word not in allowed:
            raise ConfigError(f"configs/efficienttrain.py: {name!r} takes {' or '.join(allowed)} here, got {word!r}")
    if len(rest) > len(choices):
        raise ConfigError(f"configs/efficienttrain.py: {variant!r} has a word too many: {rest[len(choices)]!r}")
    return SMALL[name](*rest)

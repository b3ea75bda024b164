"""ScaleKD (Fan et al. 2024, arXiv 2411.06786): a strong transformer teaches any student through its own last stage.

    python -m jaxvision.main --config=configs/scalekd.py:demo --workdir=runs/scalekd
        scikit-learn's digits: a small ViT learns first, then a residual network of 20 thousand parameters from it, of sixty pictures that are mixed;
        student/pictures/ shows at every position how near the projected maps come to the teacher's
    … demo,kd  demo,fd  demo,alone      the same student with logits alone, with squares of 1x1-convolved maps, and without a teacher
    … --config.task.cache=True          asks the teacher once about each picture, where pictures are neither augmented nor mixed

    python -m jaxvision.main --config=configs/scalekd.py:resnet50 --config.frozen.teacher.source=swin_large_22k_1k.safetensors --workdir=runs/r50
        ResNet-50 by Swin-L (86.24 %), 100 epochs at batch 256
    … mobilenet                  MobileNet-V1 by Swin-L, 72.10 -> 75.15 % published
    … resnet50_strong            ResNet-50-D by Swin-L, 300 epochs, LAMB, 78.64 -> 82.03 %
    … vit_base                   ViT-B/16 without class token by Swin-L, 300 epochs, 81.80 -> 85.53 %
    … resnet50,swin_base  resnet50,swin_small    the two smaller teachers of the traditional recipe
    … vit_small, swin_tiny, mixer_small, mixer_base, convnext_tiny    the paper's other students, by the recipe of vit_base: theirs are not released

    … resnet50_strong,eva_large  mixer_base,eva_large  vit_base,eva_large
        EVA's ViT-L/14 (88.58 %, called BEiT-L/14 in the paper) teaches from 16 x 16 patches, the last two students with patches of 14 pixels too:
        82.34, 82.89 and 86.43 % published

The teacher's file may be timm's (swin_large_patch4_window7_224.ms_in22k_ft_in1k, eva_large_patch14_196.in22k_ft_in22k_in1k) or OpenMMLab's. The
rates, losses and projectors are those of the released configs; for EVA none is released, and its projectors have as many heads as EVA itself. As in
the released code the third stage's maps pass its last two blocks, the fourth stage's are compared as they are, and nothing is normalized.
"""

from ml_collections import ConfigDict

from jaxvision import recipes
from jaxvision.errors import ConfigError, nearest

SWIN = ("layers_2", "norm")
# Ends of the third and of the last stage; heads of the projectors of both stages; weights of the two views of each; whether logits are compared.
TEACHERS = {
    "swin_large": ("swin_large_patch4_window7_224", SWIN, (16, 24), ((0.08, 0.06), (0.08, 0.06)), True),
    "swin_base": ("swin_base_patch4_window7_224", SWIN, (8, 16), ((0.08, 0.06), (0.08, 0.06)), True),
    "swin_small": ("swin_small_patch4_window7_224", SWIN, (3, 6), ((0.08, 0.06), (0.08, 0.0)), False),
    "eva_large": ("eva_large_patch14_196", ("blocks_21", "blocks_23"), (16, 16), ((0.08, 0.06), (0.08, 0.06)), True),
}
# What EVA's students of tokens differ in: they have its grid.
PATCHED = {"eva_large": {"patch": 14}}
VIT = {"class_token": False, "pool": "avg"}
# Model, fields, and the modules that end its third and fourth stage; recipe.
STUDENTS = {
    "resnet50": ("resnet50", {}, ("layer3_5", "layer4_2"), "traditional"),
    "mobilenet": ("mobilenetv1_100", {}, ("blocks_3_5", "blocks_4_1"), "cosine"),
    "resnet50_strong": ("resnet50d", {}, ("layer3_5", "layer4_2"), "strong"),
    "vit_base": ("deit_base_patch16_224", VIT, ("blocks_8", "norm"), "transformer"),
    "vit_small": ("deit_small_patch16_224", VIT, ("blocks_8", "norm"), "transformer"),
    "swin_tiny": ("swin_tiny_patch4_window7_224", {}, ("layers_2", "norm"), "transformer"),
    "mixer_small": ("mixer_s16_224", {}, ("blocks_5", "norm"), "transformer"),
    "mixer_base": ("mixer_b16_224", {}, ("blocks_8", "norm"), "transformer"),
    "convnext_tiny": ("convnext_tiny", {}, ("stages_2", "stages_3"), "transformer"),
}
SGD = {"name": "momentum", "lr": 0.1, "weight_decay": 1e-4, "decay": "l2", "decay_1d": True, "no_decay": ()}
DECAY_ALL = {"decay_1d": True, "no_decay": ()}
# Epochs, batch, augmentation, label smoothing, loss, optimizer.
RECIPES = {
    "traditional": (
        100, 256, {"flip": True}, 0.0, "softmax", {**SGD, "schedule": "step", "milestones": ("30ep", "60ep", "90ep"), "decay_factor": 0.1},
    ),
    "cosine": (100, 256, {"flip": True}, 0.1, "softmax", {**SGD, "schedule": "cosine"}),
    "strong": (
        300, 2048, {"flip": True, "randaugment": "rand-m8.75-mstd0.625-inc1", "erasing": (0.25, "rand")}, 0.0, "sigmoid",
        {"name": "lamb", "lr": 5e-3, "weight_decay": 0.02, "warmup": "5ep", "lr_start": 1.25e-3, "clip": 5.0, **DECAY_ALL},
    ),
    "transformer": (
        300, 1024, {"flip": True, "randaugment": "rand-m9-mstd0.5-inc1", "erasing": (0.25, "rand")}, 0.1, "softmax",
        {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "warmup": "20ep", "lr_start": 1e-6, "lr_end": 1e-5, "clip": 5.0, "ema": 0.9999},
    ),
}  # fmt: skip


def published(student: str, teacher: str) -> ConfigDict:
    model, fields, taps, recipe = STUDENTS[student]
    fields = {**fields, **(PATCHED.get(teacher, {}) if student.startswith(("vit", "mixer")) else {})}
    name, teacher_taps, heads, alphas, logits = TEACHERS[teacher]
    epochs, batch, augment, smoothing, loss, optim = RECIPES[recipe]
    # The released ViT-B has eight heads in every projector.
    heads = (8, 8) if recipe == "transformer" and teacher_taps == SWIN else heads
    return ConfigDict(
        {
            "epochs": epochs,
            "batch_size": batch,
            "image_size": (224, 224),
            "model": {"name": model, "dtype": "bfloat16", **fields},
            "data": {
                "source": "tfds", "name": "imagenet2012", "train": "train", "test": "validation", "crop": "random_resized",
                "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "eval_crop": 224 / 256,
            },
            "augment": augment,
            "frozen": {"teacher": {"source": "", "model": name, "image_size": (224, 224), "num_classes": 1000, "dtype": "bfloat16"}},
            "task": {
                "name": "scalekd", "loss": loss, "label_smoothing": smoothing, "logits": "kd" if logits else "none", "student_taps": taps,
                "teacher_taps": teacher_taps, "heads": heads, "alphas": alphas,
            },
            "optim": {"schedule": "cosine", **optim},
            "checkpoint": {"every": 1000},
        }
    )  # fmt: skip


TEACHER = {"name": "vit_tiny_patch16_224", "patch": 2, "dim": 48, "depth": 4, "heads": 4, "position": "sincos2d", **VIT}
TAUGHT = {"epochs": 45, "optim.lr": 2e-3, "optim.weight_decay": 0.3, "optim.clip": 1.0}
STUDENT = {"name": "resnet18_cifar", "depths": (1, 1, 1), "widths": (8, 16, 32)}
TAPS = {"student_taps": ("layer2_0", "layer3_0"), "teacher_taps": ("blocks_1", "norm"), "heads": (4, 4)}
# Sums over 16 positions, for a student of 20 thousand parameters and 500 steps: at the published weights they are all that it learns.
METHODS = {
    "scalekd": {"name": "scalekd", "alphas": ((0.02, 0.015), (0.02, 0.015)), **TAPS},
    "kd": {"name": "distil"},
    "fd": {"name": "distil", "logits": "none", "features": ({"student": "layer2_0", "teacher": "norm", "weight": 0.02},)},
    "alone": {"name": "classify"},
}


def demo(method: str) -> ConfigDict:
    changes = {f"task.{key}": value for key, value in METHODS[method].items()}
    # Sixty pictures, mixed with one another: a student alone knows no more of the mixtures than their shares.
    few = {"epochs": None, "steps": 500, "eval_every": 500, "data.limit": 60, "augment.mixup": 1.0}
    student = {**few, "optim.lr": 5e-3, "optim.weight_decay": 1e-4, **changes}
    student |= {f"model.{key}": value for key, value in STUDENT.items()}
    if method != "alone":
        student["frozen.teacher.source"] = "stage:teacher"
    teacher = {**TAUGHT, **{f"model.{key}": value for key, value in TEACHER.items()}}
    return recipes.digits({}, stages=(("teacher", teacher), ("student", student)))


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name == "demo":
        known, default = METHODS, "scalekd"
    else:
        known, default = TEACHERS, "swin_large"
        if name not in STUDENTS:
            raise ConfigError(f"configs/scalekd.py has no variant {name!r}; {nearest(name, ('demo', *STUDENTS))}")
    choice = rest[0] if rest else default
    if len(rest) > 1 or choice not in known:
        raise ConfigError(f"configs/scalekd.py: {name!r} takes one of {', '.join(known)}; got {','.join(rest)!r}")
    return demo(choice) if name == "demo" else published(name, choice)

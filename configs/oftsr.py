"""OFTSR (Zhu et al. 2024, arXiv 2412.09465): super-resolution by a flow, distilled to one step whose time chooses between fidelity and realism.

    python -m jaxvision.main --config=configs/oftsr.py:demo --workdir=runs/oftsr
        scikit-learn's digits from 2 x 2 pixels to 8 x 8, an MLP as velocity: teacher, then student; student/pictures/ has sheets of input,
        t = 0.01 … 0.99, the teacher in 1, 10 and 100 steps, truth, and PSNR against t. Seen: 13.3, 13.0, 12.6, 12.4, 12.3 dB at t = 0.01, 0.25,
        0.5, 0.75, 0.99 on 360 held-out digits

    python -m jaxvision.main --config=configs/oftsr.py:ffhq --config.data.path=ffhq256 --config.init_from=ffhq_10m.pt --workdir=runs/oftsr_ffhq
        x4 of faces at 256 x 256 from a diffusion network's weights (the first convolution begins anew): teacher 100,000 steps, student 40,000
    … ffhq_noisy (4 x 4 means and noise), div2k, imagenet (the network of 553 million parameters, sharded over four devices)
    … ffhq,student --config.init_from=teacher.pth --config.frozen.teacher.source=teacher.pth
        the student alone, from a released teacher (a list of averaged weights)

The released steps, rates, batches and perturbations; float32 as released, --config.model.dtype=bfloat16 for half the memory.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

SMALL, LARGE = "oftsr_unet_128", "oftsr_unet_256"
CLEAN = {"degrade": ("bicubic_cut",), "enlarge": "bicubic"}
# Noise of 0.05 where pixels are in -1..1.
NOISY = {"degrade": ("average", ("noise", 0.025)), "enlarge": "repeat", "rounded": False}
# FFHQ's pictures without labels, for preflight where they are not there.
FOLDER = {"source": "folder", "crop": "resize", "corrupt": "skip", "classes": 0, "train_size": 69_000, "test_size": 1_000}
# Model, data, task, teacher's steps, rate and batch, student's; devices that the parameters are cut over.
RUNS = {
    "ffhq": (SMALL, FOLDER, {**CLEAN, "strength": 0.1}, (100_000, 1e-4, 32), (40_000, 1e-5, 32), 1),
    "ffhq_noisy": (SMALL, FOLDER, {**NOISY, "strength": 0.5}, (230_000, 1e-4, 128), (40_000, 2e-5, 32), 1),
    "div2k": (
        SMALL,
        {
            "source": "tfds",
            "name": "div2k/bicubic_x4",
            "train": "train",
            "test": "validation",
            "crop": "window",
            "classes": 0,
            "train_size": 800,
            "test_size": 100,
        },
        {**CLEAN, "strength": 0.2},
        (40_000, 1e-5, 128),
        (50_000, 1e-5, 32),
        1,
    ),
    "imagenet": (
        LARGE,
        {"source": "tfds", "name": "imagenet2012", "train": "train", "test": "validation", "crop": "random_resized", "scale": (0.8, 1.0)},
        {**CLEAN, "strength": 0.2},
        (100_000, 1e-4, 32),
        (100_000, 1e-4, 8),
        4,
    ),
}
PARTS = ("both", "teacher", "student")


def _optim(lr: float) -> dict:
    return {"name": "adam", "lr": lr, "schedule": "constant", "warmup": 500, "clip": 1.0, "ema": 0.9999, "ema_warmup": "tf"}


def released(name: str, part: str) -> ConfigDict:
    model, data, task, teacher, student, fsdp = RUNS[name]
    steps, lr, batch = teacher if part != "student" else student
    shared = {"name": "restore/oftsr", "scale": 4, "metrics": ("psnr", "ssim"), "tile": 64, "overlap": 16, **task}
    config = ConfigDict(
        {
            "steps": steps,
            "batch_size": batch,
            "image_size": (256, 256),
            "nonfinite": "skip",
            "eval_every": 10_000,
            "eval_batch_size": 16,
            "model": {"name": model, "remat": model == LARGE},
            "data": data,
            "task": {**shared, "dihedral": False, "role": "student" if part == "student" else "teacher"},
            "optim": _optim(lr),
            "mesh": {"fsdp": fsdp},
            "checkpoint": {"metric": "test/psnr", "every": 5000},
        }
    )
    if part == "student":
        config.frozen = ConfigDict({"teacher": {"model": model, "source": ""}})
    if part == "both":
        config.stages = (("teacher", {}), ("student", _as_student(*student)))
    return config


def _as_student(steps: int, lr: float, batch: int) -> dict:
    return {
        "steps": steps,
        "batch_size": batch,
        "optim.lr": lr,
        "task.role": "student",
        "init_from": "stage:teacher",
        "frozen.teacher.source": "stage:teacher",
    }


def demo() -> ConfigDict:
    return ConfigDict(
        {
            "steps": 3000,
            "batch_size": 128,
            "image_size": (8, 8),
            "log_every": 100,
            "eval_every": 1500,
            "eval_batch_size": 120,
            "model": {"name": "velocity_mlp"},
            "data": {"source": "digits"},
            "task": {
                "name": "restore/oftsr",
                "scale": 4,
                "degrade": ("average",),
                "rounded": False,
                "enlarge": "repeat",
                "strength": 0.2,
                "loss": "l2",
                "dihedral": False,
                "border": 0,
                "metrics": ("psnr",),
                "sampler": "midpoint",
                "steps": 40,
                "tile": 2,
                "overlap": 0,
            },
            "optim": {"name": "adam", "lr": 2e-3, "schedule": "cosine", "warmup": 0.03, "clip": 1.0, "ema": 0.999, "ema_warmup": "tf"},
            "checkpoint": {"metric": "test/psnr"},
            "stages": (("teacher", {}), ("student", _as_student(3000, 1e-3, 128))),
        }
    )


def get_config(variant: str = "demo") -> ConfigDict:
    name, *rest = variant.split(",")
    if name != "demo" and name not in RUNS:
        raise ConfigError(f"configs/oftsr.py has no variant {name!r}; {nearest(name, ('demo', *RUNS))}")
    if len(rest) > (name in RUNS) or any(word not in PARTS for word in rest):
        raise ConfigError(f"configs/oftsr.py: {name!r} takes {'one of ' + ', '.join(PARTS) if name in RUNS else 'nothing'}; got {','.join(rest)!r}")
    return demo() if name == "demo" else released(name, rest[0] if rest else "both")

"""Pseudo-convolutional policy gradient for lip reading (Luo et al. 2020, arXiv 2003.03983).

    python -m jaxvision.main --config=configs/pcpg.py:demo --workdir=runs/pcpg
        words that a drawn mouth speaks; first cross entropy, then the policy beside it, judged by character and word error rates
        (seen: CER 5.5 %, WER 14.5 %)
    python -m jaxvision.main --config=configs/pcpg.py:compare --workdir=runs/pcpg_compare
        the same beginning, then equal steps of cross entropy alone, of the plain policy gradient, and of windows of 3 and 5 steps
        (seen: CER 5.54, 5.64, 5.51 and 5.51 %, of 5.49 % before: no difference)
    python -m jaxvision.main --mode=predict --workdir=runs/pcpg --input=clip.mp4
        writes texts.csv; a .npy, a folder of frames and a folder of clips likewise

    python -m jaxvision.main --config=configs/pcpg.py:lrw --config.data.path=LRW --workdir=runs/pcpg_lrw
        500 English words, 29 frames; published, word accuracy 83.5 %, from the pretrained cross entropy to the policy in two stages
    … grid --config.data.path=GRID
        sentences of six words, 75 frames, 34 speakers; published, WER 11.2 %
    … lrw1000 --config.data.path=LRW1000
        1,000 Mandarin words in pinyin letters, grey, train.csv and test.csv with lines "path,text"; published, accuracy 38.7 %

Clips of the published variants are mouths that were cut before, as videos or folders of frames, 100 x 50 pixels. Batch, decay, augmentation and
network are those of the first author's baselines; the first rate, the epochs, the ratio of teacher forcing and the policy's weight are ours.
"""

from ml_collections import ConfigDict

from jaxvision.errors import ConfigError, nearest

POLICY = {"task.name": "pcpg", "init_from": "stage:cross_entropy"}
AUGMENT = {"flip": True, "repeat": 0.05}


def _demo(stages: tuple) -> ConfigDict:
    return ConfigDict(
        {
            "steps": 800,
            "batch_size": 32,
            "image_size": (24, 16, 16),
            "eval_every": 400,
            "eval_batch_size": 128,
            "log_every": 25,
            "model": {
                "name": "lipreader_lrw",
                "hidden": 64,
                "layers": 1,
                "embed": 16,
                "front": (3, 5, 5),
                "depths": (1, 1),
                "widths": (8, 16),
                "frame_dropout": 0.2,
                "dropout": 0.1,
            },
            "data": {
                "source": "lips",
                "name": "words",
                "size": (24, 16, 16),
                "count": 1024,
                "difficulty": 0.5,
                "text_length": 9,
                "crop": "none",
                "mean": (0.5,),
                "std": (0.25,),
            },
            "augment": {**AUGMENT, "pad_crop": 1},
            "task": {"name": "text/transcribe", "forcing": (1.0, 0.5)},
            "optim": {"name": "adam", "lr": 3e-3, "schedule": "cosine", "warmup": 0.05, "clip": 1.0},
            "checkpoint": {"metric": "test/cer", "mode": "min"},
            "stages": (("cross_entropy", {}), *stages),
        }
    )


def _continued(name: str, **task) -> tuple[str, dict]:
    # The policy's loss is a sum over a text's steps, cross entropy their mean: a tenth is about one half of both as means.
    settings = {f"task.{key}": value for key, value in ({"weight": 0.1} | task).items()}
    return name, {**POLICY, "steps": 150, "eval_every": 150, "optim.lr": 5e-4, "task.forcing": (0.5, 0.5), **settings}


def demo() -> ConfigDict:
    return _demo((_continued("policy"),))


def compare() -> ConfigDict:
    windows = tuple(_continued(f"window_{window}", window=window) for window in (3, 5))
    return _demo((_continued("cross_entropy_on", weight=0.0), _continued("policy_gradient", window=1), *windows))


def _published(model: str, data: dict, decay: float, weight_decay: float = 0.0, size: tuple = (29, 50, 100)) -> ConfigDict:
    return ConfigDict(
        {
            "epochs": 30,
            "batch_size": 32,
            "image_size": size,
            "model": {"name": model, "dtype": "bfloat16"},
            "data": {"source": "clips", "crop": "resize", "interpolation": "bilinear", **data},
            "augment": AUGMENT,
            "task": {"name": "text/transcribe", "forcing": (0.5, 0.01), "padding": True, "metrics": ("bleu",)},
            "optim": {
                "name": "adam",
                "lr": 3e-4,
                "weight_decay": weight_decay,
                "schedule": "exponential",
                "decay_every": "1ep",
                "decay_factor": decay,
            },
            "checkpoint": {"metric": "test/cer", "mode": "min"},
            "stages": (
                ("cross_entropy", {}),
                ("policy", {**POLICY, "epochs": 10, "optim.lr": 5e-5, "task.forcing": (0.01, 0.01)}),
            ),
        }
    )


def lrw() -> ConfigDict:
    data = {"name": "lrw", "text_length": 15, "train_size": 488_766, "test_size": 25_000}
    return _published("lipreader_lrw", data, 0.92)


def lrw1000() -> ConfigDict:
    data = {"name": "list", "text_length": 24, "train_size": 603_193, "test_size": 51_588, "channels": 1, "mean": (0.0,), "std": (1.0,)}
    return _published("lipreader_lrw", data, 0.92, size=(40, 50, 100))


def grid() -> ConfigDict:
    data = {"name": "grid", "text_length": 100, "train_size": 28_775, "test_size": 3_971}
    config = _published("lipreader_grid", data, 0.8, weight_decay=1e-6, size=(75, 50, 100))
    config.task.beam = 5
    return config


VARIANTS = {"demo": demo, "compare": compare, "lrw": lrw, "lrw1000": lrw1000, "grid": grid}


def get_config(variant: str = "demo") -> ConfigDict:
    if variant not in VARIANTS:
        raise ConfigError(f"configs/pcpg.py has no variant {variant!r}; {nearest(variant, VARIANTS)}")
    return VARIANTS[variant]()

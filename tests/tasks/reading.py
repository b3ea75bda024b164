"""A tiny run on procedural clips with texts."""

from jaxvision.train.config import complete
from tests.runs import changed

TINY = {
    "steps": 4,
    "batch_size": 8,
    "image_size": (12, 8, 8),
    "log_every": 1,
    "eval_every": 100,
    "eval_batch_size": 8,
    "writers": ("jsonl",),
    "compilation_cache": "",
    "mesh": {"data": 1},
    "model": {
        **{"name": "lipreader_lrw", "hidden": 8, "layers": 1, "embed": 4, "front": (3, 3, 3), "depths": (1,), "widths": (8,)},
        **{"frame_dropout": 0.2, "dropout": 0.1},
    },
    "data": {
        **{"source": "lips", "name": "words", "size": (12, 8, 8), "count": 32, "difficulty": 0.2, "text_length": 9, "crop": "none"},
        **{"mean": (0.5,), "std": (0.25,)},
    },
    "augment": {"flip": True, "repeat": 0.1, "pad_crop": 1},
    "task": {"name": "pcpg", "metrics": ("bleu",), "forcing": 0.5},
    "optim": {"name": "sgd", "lr": 0.05, "clip": 1.0},
    "checkpoint": {"metric": "test/cer", "mode": "min"},
}


def tiny(**changes):
    """The complete config; changes are {"optim__lr": 0.1} for optim.lr."""
    return complete(changed(TINY, changes))

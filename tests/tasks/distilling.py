"""A tiny teacher in a file, and tiny runs of its students."""

import jax
import jax.numpy as jnp

from jaxvision import interop
from jaxvision.models.registry import create_model
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from tests.runs import tiny

FIELDS = {"patch": 2, "dim": 16, "depth": 2, "heads": 2}
NAME = "vit_tiny_patch16_224"
CLASSES = tuple("0123456789")
SCALEKD = {"student_taps": ("layer1_0", "layer2_0"), "teacher_taps": ("blocks_0", "norm"), "heads": (2, 4)}


def teacher_file(folder):
    """(its module, variables, file) of a random transformer with a class token."""
    model = create_model(NAME, num_classes=10, image_size=8, **FIELDS)
    variables = jax.jit(model.init)(jax.random.key(7), jnp.zeros((1, 8, 8, 1)))
    variables = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), variables)
    path = folder / "teacher.safetensors"
    interop.save_pretrained(model, variables, path)
    return model, variables, path


def section(source, **changes):
    own = {"model": NAME, "fields": FIELDS, "num_classes": 10, "image_size": (8, 8), "mean": (0.25,), "std": (0.5,)}
    return {"source": str(source), **own, **changes}


def config(source, name="scalekd", teacher=(), **changes):
    task = {f"task__{key}": value for key, value in (SCALEKD if name == "scalekd" else {}).items()}
    model = {"name": "resnet18_cifar", "depths": (1, 1), "widths": (4, 8)}
    settings = {"steps": 4, "model": model, "task__name": name, "optim__ema": None, "frozen__teacher": section(source, **dict(teacher))}
    return tiny(**{**settings, **task, **changes})


def task_of(config, noted=()):
    known = {"classes": CLASSES, "channels": 1, "train_size": 100, "total_steps": 4, "steps_per_epoch": 6.0}
    return make_task(config, Problem(**known, frozen={"teacher": dict(noted)}))


def batch(task, count=4, train=True):
    image = jax.random.randint(jax.random.key(1), (count, 8, 8, 1), 0, 256).astype(jnp.uint8)
    made = {"image": image, "label": jnp.arange(count), "index": jnp.arange(count), "valid": jnp.ones(count, bool)}
    return task.prepare(made, jax.random.key(2), train=train)

"""Paper 51, small: a student of one step lies on its teacher's trajectory, begins at the teacher's first prediction, and its time trades one for the
other."""

import itertools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision
from jaxvision import data
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.tasks.restore import flow
from jaxvision.train.config import complete, load_config, plain
from jaxvision.train.init_from import read_checkpoint_variables

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "oftsr.py"
HERE = ["--config.mesh.data=1", "--config.writers=('jsonl',)", "--config.compilation_cache=", "--config.eval_every=100000"]
TIMES = (0.25, 0.5, 0.75, 0.99)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Teacher's and student's velocities on 360 held-out digits with the same noise: (teacher, student, x0, clean)."""
    workdir = tmp_path_factory.mktemp("oftsr")
    config = load_config(f"{CONFIG}:demo", HERE)
    metrics = jaxvision.fit(config, workdir, report=lambda line: None)
    print({name: round(value, 3) for name, value in metrics.items() if "psnr" in name})
    settings = complete(plain(config) | {"stages": ()})
    task = make_task(settings, Problem(classes=(), channels=1, train_size=1437, total_steps=1000, steps_per_epoch=11.0))
    image = data.open_source(settings.data, "test", seed=0).columns["image"]
    batch = {"image": jnp.asarray(image), "index": jnp.arange(len(image)), "valid": jnp.ones(len(image), bool)}
    batch = task.prepare(batch, jax.random.key(0), train=False)
    condition = task.condition(batch["image"])
    teacher, student = (
        jax.jit(task.velocity(jax.tree.map(jnp.asarray, read_checkpoint_variables(workdir / name, "last")[0]), condition, train=False))
        for name in ("teacher", "student")
    )
    return teacher, student, task.start(condition, batch["noise"]), batch["clean"] * 2 - 1


def psnr(a, b):
    return float(10 * jnp.log10(4 / jnp.square(a - b).mean((1, 2, 3))).mean())


def until(velocity, x0, t, steps=40):
    """The teacher's trajectory from eps to t."""
    grid = np.linspace(flow.EPS, t, steps + 1)
    for a, b in itertools.pairwise(grid):
        x0 = x0 + (b - a) * flow.mean_velocity(velocity, x0, jnp.full(len(x0), a), jnp.full(len(x0), b))
    return x0


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_the_student_lies_on_the_trajectory_of_its_teacher(trained):
    teacher, student, x0, _ = trained
    first = teacher(x0, jnp.full(len(x0), flow.EPS))
    errors = {}
    for t in TIMES:
        truth = until(teacher, x0, t)
        ours = x0 + t * student(x0, jnp.full(len(x0), t))
        errors[t] = tuple(float(jnp.sqrt(jnp.square(x - truth).mean())) for x in (ours, x0 + t * first))
    print(errors)
    assert all(plain_step >= 1.3 * ours for ours, plain_step in errors.values())
    assert all(errors[t][1] >= 1.7 * errors[t][0] for t in (0.5, 0.75))


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_small_times_are_faithful_and_begin_at_the_teachers_first_prediction(trained):
    teacher, student, x0, clean = trained
    made = {t: flow.one_step(student, x0, t) for t in (0.01, 0.5, 0.99)}
    one, ode = flow.one_step(teacher, x0, flow.EPS), until(teacher, x0, 1.0)
    figures = {"student": {t: psnr(x, clean) for t, x in made.items()}, "teacher": {"one step": psnr(one, clean), "ode": psnr(ode, clean)}}
    print(figures)
    gap = figures["teacher"]["one step"] - figures["teacher"]["ode"]
    assert figures["student"][0.01] - figures["student"][0.99] >= gap / 3 > 0
    rms = lambda x: float(jnp.sqrt(jnp.square(x).mean()))
    assert rms(made[0.01] - one) < 0.5 * rms(made[0.5] - one)


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_one_call_of_the_student_is_much_faster_than_the_teacher_in_32_steps(trained):
    teacher, student, x0, _ = trained
    arms = {"student": jax.jit(lambda x: flow.one_step(student, x, 0.99)), "teacher": jax.jit(lambda x: flow.euler(teacher, x, 32))}
    spent = {name: [] for name in arms}
    for turn in range(12):
        for name, call in arms.items():
            began = time.perf_counter()
            call(x0).block_until_ready()
            if turn > 1:
                spent[name].append(time.perf_counter() - began)
    ratio = float(np.median(spent["teacher"]) / np.median(spent["student"]))
    print({"teacher of 32 steps over student": round(ratio, 1)})
    assert ratio > 10

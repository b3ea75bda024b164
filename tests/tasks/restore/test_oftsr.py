import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvision import fit
from jaxvision.errors import ConfigError
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.tasks.restore import flow
from jaxvision.tasks.restore.oftsr import noise_at
from jaxvision.train.config import complete, load_config, plain
from jaxvision.train.modes import predict
from jaxvision.train.writers import read_metrics
from tests.runs import ROOT


def demo(steps=2, **changes):
    tree = plain(load_config(str(ROOT / "configs" / "oftsr.py") + ":demo"))
    cut = {"steps": steps, "eval_every": 100, "batch_size": 16}
    tree |= {**cut, "writers": ("jsonl",), "compilation_cache": "", "mesh": {"data": 1}, "model": {"name": "velocity_mlp", "widths": (8,)}}
    tree["optim"] = {**tree["optim"], "warmup": 0}
    tree["stages"] = tuple((name, {**stage, **({"steps": steps} if stage else {})}) for name, stage in tree["stages"])
    tree["task"] = {**tree["task"], **changes}
    return complete(tree)


def alone(role, **changes):
    """The task of one stage, its batch and the variables of a fresh network."""
    config = plain(demo(**{"role": role, **changes})) | {"stages": (), "frozen": {"teacher": {"source": "anywhere"}}}
    task = make_task(complete(config), Problem(classes=(), channels=1, train_size=100, total_steps=2, steps_per_epoch=6.0))
    image = np.random.RandomState(0).randint(0, 256, (16, 8, 8, 1)).astype(np.uint8)
    batch = {"image": jnp.asarray(image), "index": jnp.arange(16), "valid": jnp.ones(16, bool)}
    shapes = {"image": jax.ShapeDtypeStruct(image.shape, image.dtype)}
    return task, task.prepare(batch, jax.random.key(0), train=True), task.init_variables(jax.random.key(1), shapes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "oftsr"
    return workdir, fit(demo(), workdir, report=lambda line: None)


def test_teacher_and_student_train_in_stages_and_the_student_is_measured_over_t(finished):
    workdir, metrics = finished
    assert {f"test/psnr@{t:g}" for t in (0.01, 0.25, 0.5, 0.75, 0.99)} <= metrics.keys()
    assert metrics["test/psnr"] == pytest.approx(metrics["test/psnr@0.99"])
    student = [line for line in read_metrics(workdir / "student") if "train/trajectory" in line]
    assert student and {"train/boundary", "train/align"} <= student[-1].keys()
    assert "test/psnr_one_step" in read_metrics(workdir / "teacher")[-1]
    assert (workdir / "student" / "pictures" / "psnr_versus_t.png").is_file()
    with Image.open(workdir / "student" / "pictures" / "00000002.png") as sheet:
        assert sheet.width > 10 * 112  # input, five times, three teachers, truth


def test_prediction_enlarges_by_the_scale(finished, tmp_path):
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20).save(tmp_path / "low.png")
    (written,) = predict(None, finished[0], tmp_path / "low.png", output=tmp_path / "out", report=lambda line: None)
    with Image.open(written) as picture:
        assert picture.size == (16, 12)


def zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def test_the_teachers_target_is_the_clean_picture_less_its_perturbed_start():
    task, batch, variables = alone("teacher")
    value, _ = task.loss(zeros(variables["params"]), {}, {}, batch, jax.random.key(0), static=None, train=True)
    condition = np.repeat(np.repeat(np.asarray(batch["image"]), 4, 1), 4, 2) * 2 - 1
    start = np.sqrt(1 - 0.2**2) * condition + 0.2 * np.asarray(batch["noise"])
    assert float(value) == pytest.approx(np.square(np.asarray(batch["clean"]) * 2 - 1 - start).mean(), rel=1e-5)


def test_the_student_does_not_see_the_clean_pictures_and_starts_where_the_boundary_holds():
    task, batch, variables = alone("student")
    frozen = {"teacher": variables}
    run = lambda params, batch: task.loss(params, {}, frozen, batch, jax.random.key(0), static=None, train=True)
    value, aux = run(variables["params"], batch)
    assert float(aux["metrics"]["boundary"]) == 0.0  # it is its teacher still
    other, _ = run(variables["params"], {**batch, "clean": batch["clean"] * 0})
    assert float(other) == float(value) > 0
    of_teacher = lambda teacher: task.loss(variables["params"], {}, {"teacher": teacher}, batch, jax.random.key(0), static=None, train=True)[0]
    gradient = jax.grad(of_teacher)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient(variables)))


def test_one_call_of_the_network_is_all_that_a_student_takes():
    task, batch, variables = alone("student")
    calls = []
    apply = task.model.apply
    task.model = type("Counted", (), {"apply": lambda self, *a, **k: calls.append(1) or apply(*a, **k)})()
    condition = task.condition(batch["image"])
    x0 = task.start(condition, batch["noise"])
    made = task.made(task.velocity(variables, condition, train=False), x0)
    assert len(calls) == 1
    network = apply(variables, x0, time=jnp.full(16, 0.99), condition=condition)
    np.testing.assert_allclose(made, (x0 + (1 - flow.EPS) * network) * 0.5 + 0.5, atol=1e-5)


def test_noise_belongs_to_the_place_so_that_tiles_agree_where_they_overlap():
    key = jax.random.key(3)
    one, two = noise_at(key, jnp.asarray([[0, 0], [2, 3]]), (6, 8, 2))
    np.testing.assert_array_equal(one[2:, 3:], two[:4, :5])
    field = np.asarray(noise_at(key, jnp.asarray([[0, 0]]), (40, 40, 2)))
    assert field.std() == pytest.approx(1, abs=0.05) and abs(np.corrcoef(field[0, :, :-1, 0].ravel(), field[0, :, 1:, 0].ravel())[0, 1]) < 0.08


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"role": "pupil"}, "teacher, student|student, teacher"),
        ({"sampler": "rk4"}, "rk45"),
        ({"solver": "eular"}, "'euler'"),
        ({"t_min": 0.0}, "0 < t_min"),
        ({"color": "y"}, "leave it out"),
        ({"strength": 2.0}, r"task\.strength"),
    ],
)
def test_a_task_that_cannot_be_is_one_line(changes, named):
    with pytest.raises(ConfigError, match=named):
        alone(changes.pop("role", "teacher"), **changes)


def test_a_student_without_a_teacher_says_how_to_name_one():
    config = plain(demo(role="student")) | {"stages": ()}
    with pytest.raises(ConfigError, match=r"frozen\.teacher\.source"):
        make_task(complete(config), Problem(classes=(), channels=1, train_size=100, total_steps=2, steps_per_epoch=6.0))

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ConfigError
from jaxvision.nn.resize import resize
from jaxvision.tasks import distil
from tests.tasks import distilling
from tests.tasks.scalekd_golden import GOLDEN

ONES = jnp.ones(3)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_hinton_s_loss_is_the_public_code_s(temperature):
    assert 0.5 * float(distil.kd(GOLDEN["ls"], GOLDEN["lt"], ONES, temperature)) == pytest.approx(float(GOLDEN[f"kd{temperature:g}"]), rel=1e-6)


def test_dist_is_zero_for_logits_that_agree_up_to_a_shift_and_two_correlations_else():
    student, teacher = jnp.asarray(GOLDEN["ls"]), jnp.asarray(GOLDEN["lt"])
    assert float(distil.dist(teacher + 3, teacher, ONES, 2.0)) == pytest.approx(0, abs=1e-4)
    a, b = (np.asarray(jax.nn.softmax(x / 2)) for x in (student, teacher))
    rows, columns = (np.mean([1 - np.corrcoef(x, y)[0, 1] for x, y in zip(p, q)]) for p, q in ((a, b), (a.T, b.T)))
    assert float(distil.dist(student, teacher, ONES, 2.0)) == pytest.approx(4 * (rows + columns), rel=1e-4)


def test_rows_that_do_not_count_leave_dist_as_it_is():
    student, teacher = (jnp.concatenate([jnp.asarray(GOLDEN[name]), 9 * jnp.ones((1, 7))]) for name in ("ls", "lt"))
    weight = jnp.asarray([4 / 3, 4 / 3, 4 / 3, 0.0])
    assert float(distil.dist(student, teacher, weight, 1.0)) == pytest.approx(float(distil.dist(student[:3], teacher[:3], ONES, 1.0)), rel=1e-5)


def test_maps_are_compared_by_the_public_code_s_normalized_squares():
    from tests.reference_weights import fill

    made = GOLDEN["s3"] @ fill("align.weight", (16, 12, 1, 1))[:, :, 0, 0].T + fill("align.bias", (16,))
    assert 0.3 * float(distil.squares(made, GOLDEN["t3"]).mean()) == pytest.approx(float(GOLDEN["fd"]), rel=1e-6)


def test_the_teacher_sees_the_pictures_by_its_own_constants_and_at_its_own_size(tmp_path):
    path = tmp_path / "absent"
    task = distilling.task_of(distilling.config(path, "distil", teacher={"image_size": (12, 12)}))
    batch = distilling.batch(task)
    image = batch["image"] * 0.5 + 0.5  # the student's mean and deviation are one half
    seen = []
    task.see = lambda network, variables, image, watch, **keys: seen.append((image, keys)) or (distil.Seen(image, jnp.zeros(1), {}, {}), {})
    task.teach({"teacher": {}}, batch["image"])
    np.testing.assert_allclose(seen[0][0], resize((image - 0.25) / 0.5, (12, 12), border="cut"), atol=1e-5)
    assert seen[0][1] == {"train": False} and task.teacher.image_size == (12, 12)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """(task with features and logits, its batch, variables, teacher's variables)."""
    _, variables, path = distilling.teacher_file(tmp_path_factory.mktemp("teacher"))
    features = ({"student": "layer2_0", "teacher": "norm", "weight": 0.1},)
    task = distilling.task_of(distilling.config(path, "distil", task__features=features, task__temperature=2.0))
    own = task.init_variables(jax.random.key(3), {"image": jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.uint8)})
    return task, distilling.batch(task), own, {"teacher": variables}


def test_the_loss_is_what_its_parts_are(taught):
    task, batch, variables, frozen = taught
    run = jax.jit(lambda p, f: task.loss(p, {"batch_stats": variables["batch_stats"]}, f, batch, jax.random.key(0), static=None, train=True))
    value, aux = run(variables["params"], frozen)
    metrics = aux["metrics"]
    assert float(value) == pytest.approx(sum(float(metrics[name]) for name in ("label", "logits", "feature_0")), rel=1e-6)
    assert set(variables["params"]) == {"student", "align_0"} and set(aux["extra"]["batch_stats"]) == {"student"}
    moved = aux["extra"]["batch_stats"]["student"]["bn1"]["mean"]
    assert np.abs(moved).max() > 0
    # Nothing of the teacher has a gradient, all of the student and of what is trained beside it has.
    of_frozen = jax.jit(jax.grad(lambda f: run(variables["params"], f)[0]))(frozen)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_frozen))
    of_params = jax.jit(jax.grad(lambda p: run(p, frozen)[0]))(variables["params"])
    assert np.any(of_params["align_0"]["kernel"]) and np.any(of_params["student"]["conv1"]["kernel"])


def test_a_teacher_that_is_asked_once_is_not_run_for_pictures_that_it_has_seen(tmp_path):
    _, variables, path = distilling.teacher_file(tmp_path)
    features = ({"student": "layer2_0", "teacher": "norm", "weight": 0.1},)
    task = distilling.task_of(distilling.config(path, "distil", task__features=features, task__cache=True, augment__pad_crop=0))
    image = jax.random.randint(jax.random.key(1), (4, 8, 8, 1), 0, 256).astype(jnp.uint8)
    batch = {"image": image, "label": jnp.arange(4), "index": jnp.asarray([5, 0, 99, 7]), "valid": jnp.ones(4, bool)}
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
    step = jax.jit(task.train_step)
    asked, first = step(jax.jit(lambda frozen: task.init(jax.random.key(0), shapes, {"frozen": {"teacher": frozen}}))(variables), batch)
    kept, seen = asked.extra["taught"], task.teach({"teacher": variables}, task.prepare(batch, jax.random.key(0), train=False)["image"])
    assert np.flatnonzero(kept["known"]).tolist() == [0, 5, 7, 99]
    np.testing.assert_allclose(kept["answers"]["logits"][batch["index"]], seen.logits, atol=1e-5)
    np.testing.assert_allclose(kept["answers"]["outputs"]["norm"][batch["index"]], seen.outputs["norm"], atol=1e-5)
    # A teacher that gives no numbers any more is not noticed, until there is a picture that it has not seen.
    broken = asked.replace(frozen=jax.tree.map(lambda leaf: leaf * jnp.nan, asked.frozen))
    (again, second), (unbroken, expected) = step(broken, batch), step(asked, batch)
    assert second["loss"] == expected["loss"] != first["loss"] and second["finite"] == 1
    jax.tree.map(np.testing.assert_array_equal, again.params, unbroken.params)
    assert step(broken, {**batch, "index": batch["index"].at[0].set(6)})[1]["finite"] == 0


@pytest.mark.parametrize(
    "changes, teacher, named",
    [
        ({"task__logits": "kl"}, {}, "kd"),
        ({"task__temperature": 0}, {}, "above 0"),
        ({"task__features": ({"student": "layer2_0"},)}, {}, "teacher"),
        ({"task__features": ({"student": "layer1_0", "teacher": "norm", "weight": 1.0},)}, {}, "one grid"),
        ({"task__features": ({"student": "fc", "teacher": "norm", "weight": 1.0},)}, {}, "map or all tokens"),
        ({"task__feature": ()}, {}, "'features'"),
        ({"task__cache": True}, {}, "pad_crop changes them"),
        ({"task__cache": True, "augment__pad_crop": 0, "data__crop": "random_resized"}, {}, "data.crop='random_resized' changes them"),
        ({}, {"num_classes": 7}, "7 classes"),
        ({}, {"mean": (0.1, 0.2)}, "2 values"),
        ({}, {"size": 8}, "frozen.teacher.size"),
    ],
)
def test_wrong_settings_are_one_line(changes, teacher, named, tmp_path):
    with pytest.raises(ConfigError, match=named):
        distilling.task_of(distilling.config(tmp_path / "absent", "distil", teacher, **changes))


def test_a_student_without_a_teacher_says_how_to_name_one():
    from tests.runs import tiny

    with pytest.raises(ConfigError, match=r"frozen\.teacher\.source"):
        distilling.task_of(tiny(task__name="distil"))

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvision import create_model, fit
from jaxvision.errors import UserError
from jaxvision.interop import save_pretrained
from jaxvision.tasks import teacher_cache
from jaxvision.tasks.base import weighted_mean
from jaxvision.tasks.distil import squares
from jaxvision.tasks.scalekd import ScaleKD, likeness, view_of
from jaxvision.train.init_from import read_checkpoint_variables
from jaxvision.train.loading import load_run
from jaxvision.train.loop import Progress, Stopped
from jaxvision.train.mesh import make_mesh, state_shardings
from jaxvision.train.modes import evaluate, predict
from jaxvision.train.setup import Executables, set_up
from jaxvision.train.writers import read_metrics
from jaxvision.trees import named_leaves
from tests.reference_weights import relative_error
from tests.runs import tiny
from tests.tasks import distilling
from tests.tasks.scalekd_golden import GOLDEN

QUIET = {"report": lambda line: None}


def losses(workdir):
    return [line["train/loss"] for line in read_metrics(workdir) if "train/loss" in line]


@pytest.mark.parametrize("stage, grid", [("3", (4, 4)), ("4", (2, 2))])
@pytest.mark.parametrize("number, view", enumerate(("spatial", "frequency")))
def test_both_views_are_compared_as_in_the_public_code_though_without_a_cosine_transform(stage, grid, number, view):
    made, target = GOLDEN[f"p{stage}_{view}"], GOLDEN[f"t{stage}"]
    loss = squares(view_of(made.reshape(3, *grid, -1), view), view_of(target, view))
    assert (0.08, 0.06)[number] * float(weighted_mean(loss, jnp.ones(3))) == pytest.approx(float(GOLDEN[f"loss{stage}"][number]), rel=1e-5)


def test_likeness_is_one_for_the_same_direction_and_a_common_offset_counts_in_one_view_only():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    np.testing.assert_allclose(likeness(3 * x, x, "spatial"), 1, atol=1e-6)
    offset = 10 * jax.random.normal(jax.random.key(1), (8,))
    np.testing.assert_allclose(likeness(x + offset, x, "frequency"), 1, atol=1e-5)
    assert likeness(x + offset, x, "spatial").mean() < 0.7


def without_drawings(monkeypatch):
    """Curves and pictures, which another run has drawn, take a third of a short run."""
    monkeypatch.setattr("jaxvision.train.loop.draw", lambda *arguments: None)
    monkeypatch.setattr(ScaleKD, "figures", None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return distilling.teacher_file(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    """(workdir, metrics, the frozen networks that every step received) of 4 steps on one device."""
    workdir, seen, train = tmp_path_factory.mktemp("runs") / "scalekd", [], Executables.train
    patch = pytest.MonkeyPatch()
    patch.setattr(Executables, "train", lambda self, carry, frozen, *rest: seen.append(jax.device_get(frozen)) or train(self, carry, frozen, *rest))
    try:
        metrics = fit(distilling.config(teacher[2]), workdir, **QUIET)
    finally:
        patch.undo()
    return workdir, metrics, seen


def test_the_teacher_stays_to_the_bit_and_is_in_no_state(teacher, finished):
    _, variables, _ = teacher
    _, _, seen = finished
    assert len(seen) == 4
    for frozen in seen:
        for name, leaf in named_leaves(variables).items():
            np.testing.assert_array_equal(named_leaves(frozen["teacher"])[name], leaf, err_msg=name)
    saved, meta = read_checkpoint_variables(finished[0])
    assert not any("teacher" in name or "blocks" in name for name in named_leaves(saved)) and meta["frozen"]["teacher"]["checksum"]


def test_student_and_projectors_learn_and_every_likeness_is_measured(finished):
    workdir, metrics, _ = finished
    names = {f"stage{stage}_{view}" for stage in (3, 4) for view in ("spatial", "frequency")}
    assert {f"test/cosine_{name}" for name in names} < metrics.keys() and {"test/accuracy", "test/loss"} < metrics.keys()
    lines = [line for line in read_metrics(workdir) if "train/loss" in line]
    parts = {f"train/{name}" for name in ("label", "logits", *names)}
    assert lines[-1]["train/loss"] == pytest.approx(sum(lines[-1][name] for name in parts), rel=1e-5)
    assert lines[-1]["train/teacher_accuracy"] >= 0
    saved = read_checkpoint_variables(workdir)[0]
    assert set(saved["params"]) == {"student", *names} == set(saved["batch_stats"])
    with Image.open(workdir / "pictures" / "00000004.png") as sheet:
        assert sheet.width >= 5 * 112  # the picture and four likenesses


def test_a_student_may_begin_from_a_file_and_is_what_a_later_stage_begins_from(teacher, finished, tmp_path):
    student = {"name": "resnet18_cifar", "depths": (1, 1), "widths": (4, 8)}
    trained = read_checkpoint_variables(finished[0])[0]
    later = set_up(tiny(model=student, init_from=str(finished[0]), init_branch="student", optim__ema=None)).given
    jax.tree.map(np.testing.assert_array_equal, later["params"], trained["params"]["student"])
    alone = create_model(num_classes=10, image_size=8, **student)
    variables = {name: trained[name]["student"] for name in ("params", "batch_stats")}
    save_pretrained(alone, variables, tmp_path / "student.safetensors")
    begun = set_up(distilling.config(teacher[2], init_from=str(tmp_path / "student.safetensors"))).given
    jax.tree.map(np.testing.assert_array_equal, begun["params"], {"student": variables["params"]})
    jax.tree.map(np.testing.assert_array_equal, begun["extra"]["batch_stats"], {"student": variables["batch_stats"]})
    run = load_run(finished[0])
    image = np.random.RandomState(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(run.model.apply)(run.variables, image), jax.jit(alone.apply)(variables, image))


def test_a_student_predicts_and_is_evaluated_when_its_teacher_has_gone(teacher, finished, tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "digit.png")
    hidden = teacher[2].rename(tmp_path / "hidden.safetensors")
    try:
        written = predict(None, finished[0], tmp_path / "digit.png", output=tmp_path / "out", **QUIET)
        metrics = evaluate(None, finished[0], **QUIET)
    finally:
        hidden.rename(teacher[2])
    assert written and all(path.is_file() for path in written)
    assert metrics["test/accuracy"] == finished[1]["test/accuracy"] and not any("cosine" in name for name in metrics)


def test_resumed_it_is_bit_identical_and_the_teacher_is_read_again(teacher, finished, tmp_path, monkeypatch):
    without_drawings(monkeypatch)
    update, fired = Progress.update, []

    def stop_once(self, step, metrics):
        if step == 2 and not fired:
            fired.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        update(self, step, metrics)

    monkeypatch.setattr(Progress, "update", stop_once)
    with pytest.raises(Stopped, match="step 2"):
        fit(distilling.config(teacher[2]), tmp_path, **QUIET)
    fit(distilling.config(teacher[2]), tmp_path, **QUIET)
    assert losses(tmp_path) == losses(finished[0])
    whole, resumed = (named_leaves(read_checkpoint_variables(workdir)[0]) for workdir in (finished[0], tmp_path))
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)


def test_eight_devices_take_the_first_steps_of_one(teacher, finished, tmp_path, monkeypatch):
    without_drawings(monkeypatch)
    rules = ((r"^(params|opt_state|extra)/", None),)
    fit(distilling.config(teacher[2], mesh__data=4, mesh__fsdp=2, mesh__rules=rules), tmp_path, **QUIET)
    np.testing.assert_allclose(losses(tmp_path), losses(finished[0]), rtol=2e-5)


def test_teacher_and_student_are_cut_by_rules_of_their_own():
    mesh = make_mesh({"data": -1, "fsdp": 2, "tensor": 1})
    leaf = jax.ShapeDtypeStruct((128, 256), jnp.float32)
    state = {"params": {"kernel": leaf}, "frozen": {"teacher": {"params": {"kernel": leaf}}}}
    specs = lambda *rules: [sharding.spec for sharding in jax.tree.leaves(state_shardings(state, mesh, rules))]
    cut, whole = (None, "fsdp"), ()
    assert specs() == [cut, cut] or [tuple(spec) for spec in specs()] == [cut, cut]
    assert [tuple(spec) for spec in specs((r"^frozen/teacher/", None))] == [whole, cut]
    assert [tuple(spec) for spec in specs((r"^params/", None))] == [cut, whole]


def test_the_teacher_s_own_third_stage_goes_through_its_tail_to_its_own_last(teacher):
    _, variables, path = teacher
    task = distilling.task_of(distilling.config(path))
    seen = task.teach({"teacher": variables}, distilling.batch(task)["image"])
    enter, leave = task.teacher_taps
    one, two = task.tail({"teacher": variables}, seen, enter, leave, [seen.maps[enter], 2 * seen.maps[enter]])
    assert relative_error(one, seen.maps[leave]) < 1e-6  # the class token comes from the teacher's own pass
    assert relative_error(two, seen.maps[leave]) > 1e-2
    # From answers that were kept, the same, though nothing of the pictures is left.
    frozen, image, index = {"teacher": variables}, distilling.batch(task)["image"], jnp.arange(4)
    kept = teacher_cache.empty(4, {"logits": task.teacher_shapes.logits, "outputs": task.teacher_shapes.outputs})
    _, said = task.teach_once(frozen, image, index, kept)
    again, _ = task.teach_once(frozen, jnp.zeros_like(image), index, teacher_cache.keep(kept, index, said))
    assert relative_error(task.tail(frozen, again, enter, leave, [again.maps[enter]])[0], seen.maps[leave]) < 1e-6


def test_the_tail_takes_swin_s_maps_from_before_they_are_merged():
    model = {"model": "swin_tiny_patch4_window7_224", "fields": {"dim": 8, "depths": (1, 1), "heads": (1, 2), "window": 2}}
    settings = {"image_size": (16, 16), "task__teacher_taps": ("layers_0", "norm")}
    task = distilling.task_of(distilling.config("absent", teacher={**model, "image_size": (16, 16)}, **settings))
    variables = {"teacher": jax.jit(task.teacher.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))}

    @jax.jit
    def there_and_through(variables, image):
        seen = task.teach(variables, image)
        return seen.maps["layers_0"], seen.maps["norm"], task.tail(variables, seen, "layers_0", "norm", [seen.maps["layers_0"]])[0]

    third, fourth, last = there_and_through(variables, jax.random.normal(jax.random.key(1), (2, 16, 16, 1)))
    np.testing.assert_allclose(last, fourth, atol=1e-6)
    assert third.shape == (2, 4, 4, 8) and last.shape == (2, 2, 2, 16)
    assert task.adapted["stage3_spatial"][0].grid == (4, 4) and task.adapted["stage4_spatial"][0].grid is None


def test_without_perception_the_fourth_stage_asks_by_itself_and_a_view_of_weight_0_is_not_there():
    task = distilling.task_of(distilling.config("absent", task__perception=False))
    assert set(task.adapted) == {"stage4_spatial", "stage4_frequency"} and task.adapted["stage4_spatial"][0].grid == (4, 4)
    task = distilling.task_of(distilling.config("absent", task__alphas=((0.08, 0.06), (0.08, 0.0))))
    assert set(task.adapted) == {"stage3_spatial", "stage3_frequency", "stage4_spatial"}


def test_a_plain_transformer_s_last_block_may_follow_the_fourth_stage(teacher):
    _, variables, path = teacher
    task = distilling.task_of(distilling.config(path, task__last_enter="blocks_0"))
    assert task.teacher_watch == ("blocks_0", "norm", "blocks_0")
    made = {"blocks": jnp.ones((4, 4, 4, 16))}
    adapt = lambda name, *arrays: made["blocks"] * (1 if name.startswith("stage3") else 2)
    seen = task.teach({"teacher": variables}, distilling.batch(task)["image"])
    found = task.projected(adapt, seen._replace(maps={"layer1_0": 0, "layer2_0": 0}), seen, {"teacher": variables})
    (last,) = task.tail({"teacher": variables}, seen, "blocks_0", "norm", [2 * made["blocks"]])
    np.testing.assert_allclose(found["stage3_spatial"], made["blocks"])  # leaves where it entered
    np.testing.assert_allclose(found["stage4_spatial"], last, atol=1e-5)


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"task__student_taps": ("layer1_0",)}, "third and one for the fourth"),
        ({"task__alphas": ((0.0, 0.06), (0.08, 0.06))}, "asked by the third"),
        ({"task__teacher_taps": ("blocks_9", "norm")}, "calls no module 'blocks_9'"),
    ],
)
def test_wrong_settings_are_one_line(changes, named):
    with pytest.raises(UserError, match=named):
        distilling.task_of(distilling.config("absent", **changes))

import importlib.util
import pathlib
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import fit, load_run
from jaxvision.errors import ConfigError, ModelError
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.nn.position import resize_grid
from jaxvision.train import curriculum as room
from jaxvision.train.checkpoint import Checkpoints
from jaxvision.train.curriculum import Curriculum, changed_leaves, resize_leaves
from jaxvision.train.modes import evaluate
from jaxvision.train.setup import in_phase, set_up
from jaxvision.train.writers import read_metrics
from jaxvision.trees import named_leaves
from tests.runs import tiny
from tests.tasks.methods import Masked

FILE = pathlib.Path(__file__).resolve().parents[2] / "configs" / "efficienttrain.py"
spec = importlib.util.spec_from_file_location("efficienttrain_config", FILE)
published = importlib.util.module_from_spec(spec)
spec.loader.exec_module(published)
QUIET = {"report": lambda line: None}
# 4 pixels are one patch, 8 are four; half of a batch of the first phase was seen before, and the middle one differs by its batch.
PHASES = ({"until": 3, "size": 4, "replay": (2, 2)}, {"until": 6, "size": 4, "batch": 8}, {"until": 9})


def phased(**changes):
    kept = {"every": 1, "keep_last": 20, "keep_best": 1, "metric": "test/accuracy", "mode": "max"}
    return tiny(**{"steps": 9, "phases": PHASES, "checkpoint": kept, **changes})


def losses(workdir):
    return [line["train/loss"] for line in read_metrics(workdir) if "train/loss" in line]


def state_at(workdir, step):
    state, meta = Checkpoints(workdir / "checkpoints", read_only=True).restore(None, step)
    return named_leaves(state), meta


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, executables that were used) of a finished run through three phases, with a checkpoint at every step."""
    workdir, made = tmp_path_factory.mktemp("runs") / "phased", []
    original = room.Executables
    room.Executables = lambda setup: made.append(original(setup)) or made[-1]
    try:
        fit(phased(), workdir, **QUIET)
    finally:
        room.Executables = original
    return workdir, made


def test_a_run_goes_through_its_phases_and_nothing_but_tables_of_positions_changes(finished):
    workdir, _ = finished
    assert (workdir / "phases.png").is_file() and len(losses(workdir)) == 9 and np.isfinite(losses(workdir)).all()
    rates = [line["train/lr"] for line in read_metrics(workdir) if "train/lr" in line]
    np.testing.assert_allclose(rates, 0.5e-3 * (1 + np.cos(np.pi * np.arange(9) / 9)), rtol=1e-5)  # one schedule
    assert [state_at(workdir, step)[1]["phase"] for step in (2, 3, 5, 6, 9)] == [0, 1, 1, 2, 2]
    assert [state_at(workdir, step)[1]["position"] for step in (3, 6, 9)] == [24, 48, 96]
    before, after = state_at(workdir, 5)[0], state_at(workdir, 6)[0]
    changed = {name for name in before if before[name].shape != after[name].shape}
    assert {name.split("/")[0] for name in changed} == {"params", "opt_state", "extra"} and all(name.endswith("pos_embed") for name in changed)
    assert len(changed) == 4  # parameter, two moments, average
    assert before.keys() == after.keys() and {int(leaf) for name, leaf in after.items() if name.endswith("count")} == {6}


def test_the_next_phase_was_compiled_ahead_and_is_what_ran(finished):
    first, *later = finished[1]
    assert first.train_step._cache_size() == 1
    assert len(later) == 2 and all(executables.train_step._cache_size() == 0 for executables in later)


@pytest.mark.parametrize("step", [2, 3, 4, 6, 7])
def test_resumed_inside_any_phase_it_is_bit_identical(finished, tmp_path, step):
    workdir, _ = finished
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(workdir / name, tmp_path / name)
    shutil.copytree(workdir / "checkpoints" / str(step), tmp_path / "checkpoints" / str(step))
    fit(phased(), tmp_path, **QUIET)
    ours, theirs = state_at(tmp_path, 9)[0], state_at(workdir, 9)[0]
    for name, leaf in theirs.items():
        plain = jax.random.key_data if name == "key" else np.asarray
        np.testing.assert_array_equal(plain(ours[name]), plain(leaf), err_msg=name)
    assert losses(tmp_path) == losses(workdir)


def test_checkpoints_of_any_phase_are_evaluated_at_its_size_and_the_last_is_the_best(finished):
    workdir, _ = finished
    assert np.isfinite(evaluate(None, workdir, checkpoint=2, **QUIET)["test/loss"])
    last = [line for line in read_metrics(workdir) if "test/loss" in line][-1]
    assert evaluate(None, workdir, **QUIET)["test/loss"] == last["test/loss"]


def test_checkpoints_of_an_early_phase_are_loaded_and_continued_at_another_size(finished):
    workdir, _ = finished
    run = load_run(workdir, checkpoint=2)
    assert run.model.image_size == (4, 4) and run.model.apply(run.variables, np.zeros((1, 4, 4, 1), np.float32)).shape == (1, 10)
    setup = set_up(tiny(init_from=str(workdir / "checkpoints" / "2")))
    assert setup.given["params"]["pos_embed"].shape == (1, 5, 16)


def test_eight_devices_go_on_from_one_and_give_its_losses(finished, tmp_path):
    shutil.copytree(finished[0] / "checkpoints" / "5", tmp_path / "checkpoints" / "5")
    fit(phased(mesh__data=4, mesh__fsdp=2), tmp_path, **QUIET)
    np.testing.assert_allclose(losses(tmp_path), losses(finished[0])[5:], rtol=2e-5)


def test_tables_moments_and_averages_are_resized_bilinearly_and_the_class_token_stays():
    setup = set_up(phased(model__patch=2))
    pair = setup, in_phase(setup, 2)
    table = np.random.RandomState(0).standard_normal((1, 5, 16)).astype(np.float32)
    names = [name for name in changed_leaves(*pair)]
    assert len(names) == 4
    for leaf in resize_leaves({name: table for name in names}, *(one.task for one in pair)).values():
        np.testing.assert_array_equal(leaf[:, 0], table[:, 0])
        # align_corners=False, a factor of two: weights of a quarter and three quarters, the border repeated.
        weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
        grid = np.einsum("pr,qc,rcd->pqd", weights, weights, table[0, 1:].reshape(2, 2, 16))
        np.testing.assert_allclose(leaf[0, 1:].reshape(4, 4, 16), grid, atol=1e-6)


def test_sharpness_aware_masked_training_goes_through_phases(tmp_path):
    config = phased(
        steps=4, task={"name": "tests.tasks.methods:Masked"}, optim__rule="sam", phases=({"until": 2, "size": 4, "crop": "resize"}, {}),
        checkpoint__metric="test/error", checkpoint__mode="min",
    )  # fmt: skip
    fit(config, tmp_path, **QUIET)
    before, after = state_at(tmp_path, 1)[0], state_at(tmp_path, 2)[0]
    assert np.isfinite(losses(tmp_path)).all() and after["params/decoder/positions"].shape == (1, 4, 16)
    assert before["params/decoder/positions"].shape == (1, 1, 16) and after["params/encoder/pos_embed"].shape == (1, 5, 16)
    grown = np.asarray(resize_grid(np.asarray(after["params/decoder/positions"])[0].reshape(2, 2, 16), (1, 1), "bilinear"))
    assert np.abs(grown).max() > 0


def test_a_leaf_that_no_table_resizes_is_named_before_training():
    class Unsaid(Masked):
        size_dependent = ()

    setup = set_up(phased(task={"name": "tests.tasks.methods:Masked"}))
    pair = [room.Setup(**{**vars(one), "task": Unsaid(one.task.config, one.problem)}) for one in (setup, in_phase(setup, 2))]
    with pytest.raises(ModelError, match=r"params/decoder/positions.*4x4 to 8x8.*neither the model's file nor the task"):
        changed_leaves(*pair)


def test_phases_that_differ_in_magnitude_alone_share_an_executable():
    strong = ({"until": 3, "magnitude": 1.0}, {"until": 6, "magnitude": 5.0}, {"magnitude": 9.0})
    setup = set_up(phased(phases=strong, augment__randaugment="rand-m9-n1"))
    course = Curriculum(setup)
    assert course.executables is course._built(2)
    batch = {"valid": jnp.ones(2, bool)}
    levels = [float(setup.task._with_magnitude(batch, jnp.int32(step))["magnitude"][1]) for step in range(9)]
    assert levels == [1.0] * 3 + [5.0] * 3 + [9.0] * 3
    images = np.random.RandomState(0).randint(0, 256, (8, 8, 8, 1)).astype(np.uint8)
    batch = {"image": images, "label": jnp.zeros(8, int), "valid": jnp.ones(8, bool)}
    drawn = jax.jit(lambda level: setup.task.prepare({**batch, "magnitude": jnp.full(8, level)}, jax.random.key(5), train=True))
    weak, strong = drawn(0.0), drawn(9.0)
    assert "magnitude" not in weak and not np.array_equal(weak["image"], strong["image"])


def test_what_cannot_be_compiled_is_said_before_the_boundary_is_reached(tmp_path):
    # Patches of a 4 x 4 grid do not divide the 6 pixels of the second phase; the steps of the first are long enough to notice.
    config = tiny(steps=2000, augment__patch_mixing=(0.3, 4), model__patch=2, phases=({"until": 1900, "size": 4}, {"until": 1950, "size": 6}, {}))
    with pytest.raises(ConfigError, match=r"grid of \(4, 4\).*\(6, 6\)"):
        fit(config, tmp_path, **QUIET)
    assert read_metrics(tmp_path)[-1]["step"] < 1900


def grown(small, full):
    """Names of the leaves that change from one size of a network to another, after checking that its tables bring all of them there."""
    before, after = (named_leaves(shapes_of(model)["params"]) for model in (small, full))
    tasks = [types.SimpleNamespace(model=model, size_dependent=()) for model in (small, full)]
    made = jax.eval_shape(lambda leaves: resize_leaves(leaves, *tasks), before)
    assert {leaf: value.shape for leaf, value in made.items()} == {leaf: value.shape for leaf, value in after.items()}
    return {leaf for leaf in after if before[leaf].shape != after[leaf].shape}


@pytest.mark.parametrize("name", ["deit_t", "swin_t", "convnext_t", "caformer_s18", "resnet50"])
def test_published_backbones_go_from_96_to_224_pixels(name):
    config = published.get_config(f"{name},plus200")
    fields = {key: value for key, value in config.model.items() if key not in ("name", "dtype")}
    changed = grown(*(create_model(config.model.name, image_size=size, **fields) for size in (96, 224)))
    assert len(changed) == {"deit_t": 1, "swin_t": 12}.get(name, 0)


@pytest.mark.parametrize(("name", "count"), [("convit_tiny", 1), ("hornet_tiny_gf", 20)])
def test_other_backbones_with_leaves_that_depend_on_the_size_go_along(name, count):
    assert len(grown(*(create_model(name, image_size=size) for size in (96, 224)))) == count

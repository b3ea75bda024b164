"""A run on phantoms, from the config to NIfTI masks; the loss by its formula."""

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from PIL import Image

import jaxvision
from jaxvision.errors import ConfigError
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.tasks.segment.volumes import nearest_mask, soft_dice
from jaxvision.train.config import complete
from jaxvision.train.modes import evaluate, predict

TINY = {
    "steps": 3,
    "batch_size": 2,
    "image_size": (8, 16, 16),
    "eval_batch_size": 4,
    "log_every": 1,
    "eval_every": 3,
    "writers": ("jsonl",),
    "compilation_cache": "",
    "mesh": {"data": 1},
    "model": {"name": "d_former_demo", "dim": 8, "depths": (1, 2), "heads": (1, 2)},
    "data": {"source": "phantoms", "size": (12, 20, 20), "count": 4, "spacing": (2.0, 1.0, 1.0)},
    "task": {"name": "segment/volumes"},
    "augment": {"flip": (1, 2), "noise": 0.05},
    "optim": {"lr": 1e-3},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("volumes")
    return workdir, jaxvision.fit(complete(TINY), workdir, report=lambda line: None)


def test_whole_volumes_are_judged_class_by_class_and_the_same_from_the_checkpoint(run):
    workdir, metrics = run
    organs = ("liver", "spleen", "kidney", "vessel")
    assert {f"test/{metric}_{name}" for metric in ("dice", "hd95", "asd") for name in organs} <= metrics.keys()
    assert 0 <= metrics["test/dice"] <= 1 and metrics["test/hd95"] > 0
    again = evaluate(None, workdir, report=lambda line: None)
    assert {name: again[name] for name in metrics if name.startswith("test/")} == {name: v for name, v in metrics.items() if name.startswith("test/")}
    assert list((workdir / "pictures").glob("*.png"))


def test_prediction_writes_a_mask_that_lies_on_its_scan_and_a_picture(run, tmp_path):
    workdir, _ = run
    affine = np.array([[0, 0, -1.5, 9], [-2.0, 0, 0, 7], [0, 1.0, 0, -3], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(np.random.RandomState(0).normal(size=(11, 13, 9)).astype(np.float32), affine), tmp_path / "scan.nii.gz")
    (tmp_path / "broken.nii").write_bytes(b"x")
    said = []
    written = predict(None, workdir, tmp_path, output=tmp_path / "out", report=said.append)
    assert [path.name for path in written] == ["scan.nii.gz", "scan.png"] and any("broken.nii" in line for line in said)
    made = nibabel.load(written[0])
    assert made.shape == (11, 13, 9) and np.allclose(made.affine, affine) and made.get_data_dtype() == np.uint8
    assert set(np.unique(np.asarray(made.dataobj))) <= set(range(6))
    assert Image.open(written[1]).size[0] > 20


def test_soft_dice_is_its_formula():
    p, g = np.random.RandomState(0).uniform(size=(2, 2, 3, 4, 5, 3)).astype(np.float32)
    expected = [1 - np.mean([2 * (a[..., k] * b[..., k]).sum() / (a[..., k].sum() + b[..., k].sum()) for k in (1, 2)]) for a, b in zip(p, g)]
    np.testing.assert_allclose(soft_dice(jnp.asarray(p), jnp.asarray(g)), expected, rtol=1e-5)
    mask = jnp.arange(8).reshape(1, 2, 2, 2)
    assert nearest_mask(mask, (1, 2, 4)).shape == (1, 1, 2, 4) and nearest_mask(mask, (4, 4, 4))[0, ::2, ::2, ::2].tolist() == mask[0].tolist()


def test_outputs_are_supervised_each_at_its_size_by_its_weight():
    problem = Problem(classes=("a", "b"), channels=1, train_size=4, total_steps=4, steps_per_epoch=2.0)
    task = make_task(complete({**TINY, "task": {"name": "segment/volumes", "supervision": (1.0, 0.5), "mirror": (1, 2)}}), problem)
    rng = np.random.RandomState(0)
    mask = jnp.asarray(rng.randint(0, 3, (1, 4, 4, 4)))
    logits = tuple(jnp.asarray(rng.normal(size=(1, n, n, n, 3)).astype(np.float32)) for n in (4, 2, 1))
    task.model = type("Model", (), {"outputs": None, "apply": lambda self, *a, **k: (logits, {})})()
    batch = {"volume": mask[..., None].astype(jnp.float32), "mask": mask, "weight": jnp.ones(1)}
    value, _aux = task.loss({}, {}, {}, batch, jax.random.key(0), static=None, train=True)

    def one(logits):
        truth = jax.nn.one_hot(nearest_mask(mask, logits.shape[1:4]), 3)
        return soft_dice(jax.nn.softmax(logits), truth)[0] - (jax.nn.log_softmax(logits) * truth).sum(-1).mean()

    assert float(value) == pytest.approx(float((one(logits[0]) + 0.5 * one(logits[1])) / 1.5), rel=1e-6)
    # Scores of a network that answers by place are averaged over four mirrorings.
    by_place = lambda self, variables, volume, train: jnp.concatenate([volume * 0, volume * jnp.arange(4.0)[:, None]], -1)
    task.model = type("Model", (), {"apply": by_place})()
    volume = jnp.asarray(rng.normal(size=(1, 4, 4, 4, 1)).astype(np.float32))
    made = task.scores({}, volume)
    turned = task.scores({}, jnp.flip(volume, (2, 3)))
    np.testing.assert_allclose(made, jnp.flip(turned, (2, 3)), atol=1e-6)


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"task": {"name": "segment/volumes", "overlapp": 1}}, "did you mean 'overlap'"),
        ({"task": {"name": "segment/volumes", "metrics": ("dise",)}}, "did you mean 'dice'"),
        ({"task": {"name": "segment/volumes", "judged": ("livr",)}}, "did you mean 'liver'"),
        ({"image_size": (16, 16)}, "patches of volumes need"),
        ({"augment": {"mixup": 0.2}}, "augment.mixup is unknown for volumes"),
    ],
)
def test_wrong_settings_are_one_line(changes, line):
    with pytest.raises(ConfigError, match=line):
        make_task(complete({**TINY, **changes}), Problem(classes=("liver",), channels=1, train_size=4, total_steps=4, steps_per_epoch=2.0))

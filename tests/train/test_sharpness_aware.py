"""Runs with optim.rule="sam": resumed, on several devices, with batch norm, and as configs/sam_vit.py says."""

import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import create_model, fit
from jaxvision.errors import ConfigError
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.train.config import complete, load_config
from jaxvision.train.init_from import read_checkpoint_variables
from jaxvision.train.loop import Progress, Stopped
from jaxvision.train.writers import read_metrics
from jaxvision.trees import named_leaves
from tests.runs import tiny

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "sam_vit.py"
SAM = {"optim__rule": "sam", "optim__rho": 0.1, "optim__groups": 8}


def losses(workdir):
    return [line["train/loss"] for line in read_metrics(workdir) if "train/loss" in line]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of 8 steps of SAM in 8 groups, on one device."""
    workdir = tmp_path_factory.mktemp("runs") / "sam"
    fit(tiny(**SAM), workdir, report=lambda line: None)
    return workdir


def test_resume_after_a_signal_gives_identical_parameters(finished, tmp_path, monkeypatch):
    update, fired = Progress.update, []

    def stop_once(self, step, metrics):
        if step == 5 and not fired:
            fired.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        update(self, step, metrics)

    monkeypatch.setattr(Progress, "update", stop_once)
    with pytest.raises(Stopped, match="step 5"):
        fit(tiny(**SAM), tmp_path, report=lambda line: None)
    fit(tiny(**SAM), tmp_path, report=lambda line: None)
    assert losses(tmp_path) == losses(finished)
    whole, resumed = (named_leaves(read_checkpoint_variables(workdir)[0]) for workdir in (finished, tmp_path))
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)


def test_the_first_steps_on_eight_devices_equal_those_on_one(finished, tmp_path):
    fit(tiny(**SAM, mesh__data=8), tmp_path, report=lambda line: None)
    np.testing.assert_allclose(losses(tmp_path), losses(finished), rtol=1e-5)


# --- batch norm ---


def resnet(**optim):
    """The task of a tiny residual network of two basic blocks."""
    model = {"name": "resnet20_cifar", "depths": (1, 1), "widths": (8, 16)}
    config = complete(
        {
            "steps": 4,
            "batch_size": 16,
            "image_size": (8, 8),
            "model": model,
            "data": {"mean": (0.5,), "std": (0.5,)},
            "optim": {"name": "momentum", "lr": 0.1, **optim},
        }
    )
    return make_task(config, Problem(classes=tuple("0123456789"), channels=1, train_size=64, total_steps=4, steps_per_epoch=4.0))


def batch_of_digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    image = np.round(digits.images[:16, ..., None] * 255 / 16).astype(np.uint8)
    return {"image": image, "label": digits.target[:16].astype(np.int32), "index": np.arange(16, dtype=np.int32), "valid": np.ones(16, bool)}


def test_running_statistics_are_the_mean_over_groups_of_the_clean_pass():
    task, batch = resnet(rule="sam", rho=0.5, groups=4), batch_of_digits()
    state = task.init(jax.random.key(0), {"image": jax.ShapeDtypeStruct((16, 8, 8, 1), jnp.uint8)}, {})
    new, _ = jax.jit(task.train_step)(state, batch)
    variables = {"params": state.params, "batch_stats": state.extra["batch_stats"]}
    apply = jax.jit(lambda image: task.model.apply(variables, image, train=True, mutable=["batch_stats"])[1]["batch_stats"])
    image = task.prepare(batch, jax.random.key(0), train=False)["image"]
    expected = jax.tree.map(lambda *xs: sum(xs) / 4, *(apply(image[i : i + 4]) for i in range(0, 16, 4)))
    for name, leaf in named_leaves(expected).items():
        np.testing.assert_allclose(named_leaves(new.extra["batch_stats"])[name], leaf, rtol=1e-4, atol=1e-5, err_msg=name)
    whole = named_leaves(apply(image))
    assert max(np.abs(whole[name] - leaf).max() for name, leaf in named_leaves(expected).items()) > 1e-3


def test_batch_norm_over_the_whole_batch_beside_groups_is_an_error():
    task = resnet(rule="sam", rho=0.1)
    config = complete({**task.config.to_dict(), "model": {**task.config.model.to_dict(), "norm_groups": 1}, "optim": {"rule": "sam", "groups": 4}})
    with pytest.raises(ConfigError, match=r"model\.norm_groups=1 beside optim\.groups > 1"):
        make_task(config, task.problem)


# --- configs/sam_vit.py ---


PUBLISHED = (
    ("vit_s32", "vit_small_patch32_224", 0.05),
    ("vit_b16", "vit_base_patch16_224", 0.2),
    ("mixer_b16", "mixer_b16_224", 0.6),
    ("resnet152", "resnet152", 0.02),
)


@pytest.mark.parametrize("variant, model, rho", PUBLISHED)
def test_the_published_variants_are_what_the_paper_trains(variant, model, rho):
    config = load_config(f"{CONFIG}:{variant}")
    assert (config.model.name, config.optim.rule, config.optim.rho) == (model, "sam", rho)
    assert config.batch_size // config.optim.groups == 64
    assert config.epochs == (90 if model.startswith("resnet") else 300)
    assert dict(config.augment) == {"flip": True}
    fields = {key: value for key, value in config.model.items() if key not in ("name", "dtype", "param_dtype")}
    create_model(model, **fields)


def test_plain_is_the_same_run_without_the_ascent():
    for variant in ("vit_s16", "mixer_s16,imagenette", "demo", "demo,mixer"):
        sam, plain = load_config(f"{CONFIG}:{variant}").to_dict(), load_config(f"{CONFIG}:{variant},plain").to_dict()
        assert plain["optim"].pop("rule") == "plain" and sam["optim"].pop("rule") == "sam"
        for key in ("rho", "groups"):
            sam["optim"].pop(key), plain["optim"].pop(key, None)
        assert sam == plain


@pytest.mark.parametrize(
    "variant, message",
    [("vit_s17", "did you mean"), ("demo,vitt", "did you mean 'vit'"), ("vit_s16,a,b", "takes one word beside 'plain'")],
)
def test_a_wrong_variant_is_one_line(variant, message):
    with pytest.raises(ConfigError, match=message):
        load_config(f"{CONFIG}:{variant}")

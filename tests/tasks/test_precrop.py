"""Widths found before training, and masks of single weights: what the next stage gets."""

import json

import numpy as np
import pytest

import jaxvision
from jaxvision.compress import saliency
from jaxvision.errors import ConfigError
from jaxvision.train.architecture import FILE
from jaxvision.train.config import complete
from jaxvision.train.init_from import read_checkpoint_variables
from jaxvision.train.stages import stage_configs
from tests.runs import tiny

LONG = [pytest.mark.claim, pytest.mark.timeout(120)]
MODEL = {"name": "resnet20_cifar", "depths": (1, 1), "widths": (8, 16), "zero_init": False}


def run(workdir, task, *then, rounds=1):
    crop = {"steps": rounds, "eval_every": rounds, "task": {"name": "precrop", "density": 0.2, **task}}
    stages = (("crop", crop), *(("train", changes) for changes in then))
    optim = {"name": "momentum", "lr": 0.05}
    return jaxvision.fit(tiny(steps=3, model=dict(MODEL), optim=optim, stages=stages), workdir, report=lambda line: None)


def kernels(workdir):
    return saliency.kernels(read_checkpoint_variables(workdir, "last")[0]["params"])


def test_a_cropped_network_has_the_budget_s_weights_and_is_trained_from_scratch(tmp_path):
    metrics = run(tmp_path, {}, {"model.architecture": "stage:crop"})
    whole, small = kernels(tmp_path / "crop"), kernels(tmp_path / "train")
    share = sum(leaf.size for leaf in small.values()) / sum(leaf.size for leaf in whole.values())
    figures = json.loads((tmp_path / "crop" / FILE).read_text())["figures"]
    # A channel of so small a network is up to a twentieth of its weights.
    assert 0.18 < share <= 0.2 and figures["weights"] == pytest.approx(share)
    assert "test/accuracy" in metrics and not json.loads((tmp_path / "crop" / FILE).read_text())["kept"]


@pytest.mark.parametrize("weights", [pytest.param("scored", marks=LONG), "shuffled"])
def test_a_mask_keeps_its_share_and_its_zeros_through_training(tmp_path, weights):
    task = {"scores": "synflow", "realize": "weights", "weights": weights}
    run(tmp_path, task, {"init_from": "stage:crop", "optim.keep_zeros": True}, rounds=4)
    masked, trained = kernels(tmp_path / "crop"), kernels(tmp_path / "train")
    total = sum(leaf.size for leaf in masked.values())
    assert sum((leaf != 0).sum() for leaf in masked.values()) == pytest.approx(0.2 * total, abs=2)
    for name in masked:
        np.testing.assert_array_equal(masked[name] == 0, trained[name] == 0)
        assert (masked[name] != trained[name]).any()


@pytest.mark.parametrize("scores", [pytest.param("snip", marks=LONG), "grasp"])
def test_scores_that_need_data_name_layers_too(tmp_path, scores):
    run(tmp_path, {"scores": scores, "density": 0.3})
    masked = kernels(tmp_path / "crop")
    densities = [float((leaf != 0).mean()) for leaf in masked.values()]
    assert max(densities) > 0.31 > 0.29 > min(densities)


def test_what_cannot_be_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="synflow"):
        run(tmp_path, {"scores": "synflo"})
    with pytest.raises(ConfigError, match="names no weights"):
        run(tmp_path, {"scores": "synexp", "realize": "weights"})


def test_a_table_of_layers_survives_the_config_s_json():
    config = tiny(model={**MODEL, "architecture": (("conv1", (("features", 5),)),)})
    again = complete(json.loads(json.dumps(config.to_dict())))
    assert again.model.architecture == config.model.architecture == (("conv1", (("features", 5),)),)
    assert stage_configs(again)[0][1].model.architecture == config.model.architecture

"""What a run starts from: other classes, another image size, a file, a branch; and fine-tuning in stages."""

import pathlib

import numpy as np
import pytest

from jaxvision import fit
from jaxvision.errors import CheckpointError, ConfigError
from jaxvision.interop import save_pretrained
from jaxvision.nn.position import resize_position
from jaxvision.train.config import load_config
from jaxvision.train.init_from import read_checkpoint_variables
from jaxvision.train.loading import load_run
from jaxvision.train.setup import set_up
from jaxvision.trees import named_leaves
from tests.runs import tiny

QUIET = {"report": lambda line: None}
CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
POSITION = "params/pos_embed"


@pytest.fixture(scope="module")
def shapes_run(tmp_path_factory):
    """A ViT that has seen six classes of grey shapes at 8x8."""
    workdir = tmp_path_factory.mktemp("runs") / "shapes"
    data = {"source": "shapes", "count": 64, "size": (16, 16), "crop": "resize", "channels": 1, "mean": (0.5,), "std": (0.5,)}
    fit(tiny(steps=3, data=data, eval_batch_size=16), workdir, **QUIET)
    return workdir


def test_a_network_of_8x8_is_fine_tuned_at_16x16_with_a_head_for_other_classes(shapes_run, tmp_path):
    config = tiny(steps=2, image_size=(16, 16), data__crop="resize", init_from=str(shapes_run), reinit_head=True, optim__ema=None)
    given = named_leaves(set_up(config).given["params"])
    before = named_leaves(read_checkpoint_variables(shapes_run)[0])
    assert before[POSITION].shape == (1, 1 + 4, 16) and before["params/head/kernel"].shape == (16, 6)
    expected = resize_position(before[POSITION], (2, 2), (4, 4), 1)
    np.testing.assert_allclose(given["pos_embed"], expected, atol=1e-6)
    np.testing.assert_array_equal(given["blocks_0/attn/qkv/kernel"], before["params/blocks_0/attn/qkv/kernel"])
    assert "head/kernel" not in given
    fit(config, tmp_path, **QUIET)
    after = load_run(tmp_path).variables["params"]
    assert after["head"]["kernel"].shape == (16, 10) and (after["pos_embed"] != given["pos_embed"]).any()


def test_a_head_of_other_classes_is_refused_unless_begun_anew(shapes_run):
    with pytest.raises(CheckpointError, match=r"all of it is the head: reinit_head=True starts the head anew"):
        set_up(tiny(init_from=str(shapes_run)))


def test_classes_of_the_same_name_keep_their_columns(shapes_run):
    old = read_checkpoint_variables(shapes_run)[0]["params"]["head"]["kernel"]
    config = tiny(init_from=str(shapes_run), reinit_head=True, match_classes=True)
    new = set_up(config, classes=("cross", "kite", "disc")).given["params"]["head"]["kernel"]
    np.testing.assert_array_equal(new, np.stack([old[:, 4], 0 * old[:, 0], old[:, 0]], 1))
    with pytest.raises(ConfigError, match=r"set --config.reinit_head=True beside it"):
        set_up(tiny(init_from=str(shapes_run), match_classes=True))


def test_a_file_of_weights_is_fitted_to_size_channels_and_classes(shapes_run, tmp_path):
    run = load_run(shapes_run)
    save_pretrained(run.model, run.variables, tmp_path / "weights.safetensors")
    config = tiny(image_size=(16, 16), data__crop="resize", init_from=str(tmp_path / "weights.safetensors"), reinit_head=True)
    given = set_up(config).given["params"]
    before = run.variables["params"]
    np.testing.assert_allclose(given["pos_embed"], resize_position(before["pos_embed"], (2, 2), (4, 4), 1), atol=1e-6)
    np.testing.assert_array_equal(given["patch_embed"]["proj"]["kernel"], before["patch_embed"]["proj"]["kernel"])
    assert "head" not in given
    with pytest.raises(ConfigError, match="match_classes and init_branch need a workdir"):
        set_up(tiny(init_from=str(tmp_path / "weights.safetensors"), init_branch="backbone"))


@pytest.mark.claim
@pytest.mark.timeout(120)
def test_the_demo_of_fine_tuning_freezes_the_backbone_first_and_then_moves_everything(tmp_path):
    small = ["--config.steps=2", "--config.batch_size=16", "--config.eval_batch_size=120", "--config.mesh.data=1", "--config.compilation_cache=",
             "--config.model.depth=1", "--config.model.dim=16", "--config.writers=('jsonl',)"]
    config = load_config(f"{CONFIGS}/finetune.py:digits", small)
    stages = tuple((name, {**dict(changes), **({"epochs": None, "steps": 2} if "epochs" in changes else {})}) for name, changes in config.stages)
    with config.unlocked():
        config.stages = stages
    fit(config, tmp_path, **QUIET)
    pretrained, head, all_ = (named_leaves(read_checkpoint_variables(tmp_path / name, "last")[0]["params"]) for name in ("pretrain", "head", "all"))
    kernel = "blocks_0/mlp/fc1/kernel"
    np.testing.assert_array_equal(pretrained[kernel], head[kernel])
    assert (head[kernel] != all_[kernel]).any() and head["pos_embed"].shape == (1, 64, 16) and pretrained["pos_embed"].shape == (1, 16, 16)


@pytest.mark.parametrize("variant", ["imagenet", "layer_decay,imagenet2012", "linear", "knn", "gradual"])
def test_every_variant_of_the_fine_tuning_config_is_complete(variant):
    assert load_config(f"{CONFIGS}/finetune.py:{variant}").reinit_head or variant == "gradual"

import pytest
from ml_collections import ConfigDict

from jaxvision.errors import ConfigError
from jaxvision.train.config import complete, config_json, load_config, parse_overrides, read_config, run_length, with_changes

SMALL = {"epochs": 2, "model": {"name": "vit_tiny_patch16_224"}}


def test_defaults_fill_what_a_file_leaves_out_and_the_result_is_locked():
    config = complete(ConfigDict({**SMALL, "optim": {"lr": 3}}))
    assert config.optim.lr == 3.0 and config.optim.name == "adamw" and config.batch_size == 128
    with pytest.raises(AttributeError):
        config.batchsize = 3


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("--config.batchsize=3", "batch_size"),
        ("--config.mesh.fdsp=2", "mesh.fsdp"),
        ("--config.batch_size=many", "int"),
        ("--config.checkpoint=3", "section"),
        ("--config.batch_size", "value"),
        ("--cofig.batch_size=3", "--config"),
    ],
)
def test_a_wrong_override_is_one_line_that_says_what_would_be_right(word, named):
    with pytest.raises(ConfigError, match=named) as caught:
        parse_overrides(complete(SMALL), [word])
    assert "\n" not in str(caught.value)


def test_overrides_are_read_as_the_type_that_the_key_has():
    config = parse_overrides(
        complete(SMALL),
        ["--config.batch_size=64", "--config.optim.lr=1e-3", "--config.image_size=(32, 48)", "--config.model.drop_path=0.1", "--config.data.path=1"],
    )
    assert (config.batch_size, config.optim.lr, tuple(config.image_size), config.model.drop_path, config.data.path) == (64, 1e-3, (32, 48), 0.1, "1")


def test_steps_on_the_command_line_replace_the_epochs_of_the_file():
    config = parse_overrides(complete(SMALL), ["--config.steps=7"])
    assert config.epochs is None and run_length(config, 1000) == (7, 1000 / 128)
    assert run_length(complete(SMALL), 1000) == (16, 1000 / 128)  # 2 epochs of 1000 examples: 15.6 batches of 128


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 3}, "exactly one"),
        ({"optim.accumulate": 3}, "not divisible"),
        ({"nonfinite": "ignore"}, "stop"),
        ({"image_size": (0, 3)}, "image_size"),
        ({"batch_size": 0}, "above 0"),
        ({"stages": ("teacher",)}, "stages"),
    ],
)
def test_values_that_contradict_each_other_are_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        with_changes(complete(SMALL), changes)


def test_a_config_survives_its_file(tmp_path):
    config = complete({**SMALL, "image_size": (8, 8), "stages": (("a", {"epochs": 1}), ("b", {"optim.lr": 0.1}))})
    path = tmp_path / "config.json"
    path.write_text(config_json(config))
    assert config_json(read_config(path)) == config_json(config)


def test_a_missing_file_and_a_missing_variant_name_their_neighbours():
    with pytest.raises(ConfigError, match=r"configs/vit\.py"):
        load_config("configs/vti.py:digits")
    with pytest.raises(ConfigError, match="digits"):
        load_config("configs/vit.py:digist")

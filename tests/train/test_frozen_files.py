import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import interop
from jaxvision.errors import ConfigError
from jaxvision.models.registry import create_model
from jaxvision.tasks.networks import build_frozen
from jaxvision.train import given
from jaxvision.train.config import complete, plain
from jaxvision.train.given import load_frozen
from jaxvision.train.preflight import programs
from tests.runs import tiny
from tests.tasks import distilling


def config(**section):
    return complete({"steps": 1, "frozen": {"judge": section}})


def test_a_frozen_network_may_come_from_a_file_of_weights(tmp_path):
    model = create_model("espcn_y_x2", num_classes=0)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 5, 5, 1)))
    path = tmp_path / "espcn.safetensors"
    interop.save_pretrained(model, variables, path)
    loaded, noted = load_frozen(config(model="espcn_y_x2", source=str(path)), {})
    jax.tree.map(np.testing.assert_array_equal, loaded["judge"], jax.device_get(variables))
    assert noted["judge"]["file"] == str(path) and len(noted["judge"]["checksum"]) == 8
    with pytest.raises(ConfigError, match=r"frozen\.judge\.model=NAME"):
        load_frozen(config(source=str(path)), {})


def test_a_run_s_network_comes_at_the_size_and_in_the_types_that_are_asked_for(tmp_path, monkeypatch):
    known = tiny()
    meta = {"config": plain(known), "classes": list("0123456789"), "checksum": "1"}
    model = build_frozen("judge", {}, meta)
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1))))
    monkeypatch.setattr(given, "read_checkpoint_variables", lambda path: (variables, meta))
    section = {"source": str(tmp_path), "image_size": (16, 16), "dtype": "bfloat16", "param_dtype": "bfloat16"}
    loaded, noted = load_frozen(config(**section), {})
    other = build_frozen("judge", section, noted["judge"])
    assert model.image_size == (8, 8) and other.image_size == (16, 16) and other.dtype == jnp.bfloat16
    table = loaded["judge"]["params"]["pos_embed"]
    assert table.shape == (1, 1 + 16, 16) and table.dtype == jnp.bfloat16
    wanted = jax.eval_shape(lambda: other.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1))))
    jax.tree.map(lambda leaf, shape: np.testing.assert_equal(leaf.shape, shape.shape), loaded["judge"]["params"], wanted["params"])


def test_a_frozen_section_s_keys_are_checked_and_it_must_name_a_network():
    with pytest.raises(ConfigError, match=r"frozen\.judge\.modle.*'model'"):
        build_frozen("judge", {"modle": "espcn_y_x2"})
    with pytest.raises(ConfigError, match=r"frozen\.judge\.model=NAME"):
        build_frozen("judge", {"source": "somewhere"}, {})


def test_preflight_takes_a_teacher_s_shapes_where_its_file_is_not_there():
    notes = []
    (setup,) = programs.setups(distilling.config("absent.safetensors"), types.SimpleNamespace(devices=jax.devices()[:1]), notes).values()
    assert setup.state_shapes.frozen["teacher"]["params"]["blocks_1"]["mlp"]["fc1"]["kernel"].shape == (16, 64)
    assert any("absent.safetensors" in note for note in notes)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import interop
from jaxvision.errors import ConfigError
from jaxvision.models.registry import create_model
from jaxvision.train.config import complete
from jaxvision.train.given import load_frozen


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

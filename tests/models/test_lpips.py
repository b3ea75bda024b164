import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.lpips import CHECKPOINT, adapt_checkpoint
from jaxvision.models.registry import create_model
from tests.reference_weights import filled, relative_error

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "lpips.npz"


def test_distances_are_those_of_the_published_code():
    model = create_model("lpips", num_classes=0)
    variables = filled(model, CHECKPOINT["torch"])
    rng = np.random.RandomState(0)
    a, b = (rng.uniform(-1, 1, (2, 3, 48, 40)).astype(np.float32).transpose(0, 2, 3, 1) for _ in range(2))
    distance = jax.jit(model.apply)
    assert relative_error(distance(variables, a, b), np.load(GOLDEN)["distance"]) < 1e-5
    np.testing.assert_allclose(distance(variables, a, a), 0, atol=1e-8)


def test_the_published_file_has_names_twice_and_constants():
    arrays = dict.fromkeys(("lin0.model.1.weight", "lins.0.model.1.weight", "scaling_layer.shift", "net.slice1.0.bias"), np.zeros(1))
    assert list(adapt_checkpoint(arrays, "torch", None)) == ["lin0.model.1.weight", "net.slice1.0.bias"]


def test_pictures_too_small_for_the_pools_are_one_line():
    model = create_model("lpips", num_classes=0)
    with pytest.raises(ModelError, match="at least 32 x 32"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 31, 40, 3))))

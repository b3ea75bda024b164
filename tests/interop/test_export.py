import json

import jax
import numpy as np
import pytest

from jaxvision.errors import CheckpointError
from jaxvision.interop import export_model, load_exported
from jaxvision.models import vit
from jaxvision.models.registry import create_model
from tests.reference_weights import filled


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = create_model("vit_tiny_patch16_224", num_classes=3, image_size=(4, 6), patch=2, dim=16, depth=1, heads=2)
    variables = filled(model, vit.CHECKPOINT["torch"])
    return model, variables, export_model(model, variables, tmp_path_factory.mktemp("export"), about={"classes": ["a", "b", "c"]})


def test_a_reloaded_program_gives_the_model_s_outputs_at_every_batch_size(exported):
    model, variables, folder = exported
    program = load_exported(folder)
    for batch in (1, 3):
        image = np.random.RandomState(batch).standard_normal((batch, 4, 6, 3)).astype(np.float32)
        np.testing.assert_allclose(program(image), jax.jit(model.apply)(variables, image), rtol=1e-5, atol=1e-6)
    assert program.about["classes"] == ["a", "b", "c"] and program.about["image_shape"] == ["b", "4", "6", "3"]


def test_the_program_is_lowered_for_all_three_platforms_and_holds_no_weights(exported):
    _, variables, folder = exported
    program = jax.export.deserialize((folder / "model.stablehlo").read_bytes())
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert len(json.loads((folder / "export.json").read_text())["weights"]) == len(jax.tree.leaves(variables))
    assert "dot_general" in program.mlir_module()


def test_a_fixed_batch_refuses_another_one(exported, tmp_path):
    model, variables, _ = exported
    program = load_exported(export_model(model, variables, tmp_path, batch=2, platforms=("cpu",)))
    assert program(np.zeros((2, 4, 6, 3), np.float32)).shape == (2, 3)
    with pytest.raises(ValueError):
        program(np.zeros((1, 4, 6, 3), np.float32))


def test_an_incomplete_folder_is_one_clear_line(exported, tmp_path):
    with pytest.raises(CheckpointError, match=r"is no exported model: model.stablehlo is missing"):
        load_exported(tmp_path)

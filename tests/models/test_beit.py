import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from scipy.interpolate import RectBivariateSpline

from jaxvision.errors import ModelError
from jaxvision.interop import load_pretrained
from jaxvision.models import rules
from jaxvision.models.beit import CHECKPOINT, Beit, position_index, resize_table
from jaxvision.trees import named_leaves
from tests.reference_weights import fill, filled, relative_error

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "beit.npz")
SMALL = {"num_classes": 10, "dim": 32, "depth": 4, "heads": 4}


def test_logits_and_maps_agree_with_timm():
    model = Beit(image_size=(48, 64), **SMALL)
    variables, image = filled(model, CHECKPOINT["torch"]), np.random.RandomState(0).standard_normal((2, 48, 64, 3)).astype(np.float32)
    logits, maps = jax.jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="stages")))(variables, image)
    assert relative_error(logits, GOLDEN["logits"]) < 1e-5
    for i, ours in enumerate(maps):
        assert relative_error(ours[..., :8], GOLDEN[f"stage{i}"]) < 1e-5


def test_a_table_is_brought_to_another_grid_as_timm_does():
    table = fill("table", (7 * 7 + 3, 2)).astype(np.float32)
    assert relative_error(resize_table(table, (4, 4), (6, 7)), GOLDEN["resized"]) < 1e-5
    with pytest.raises(ModelError, match="a relative-position table of 51 rows is not that of 4x4 patches"):
        resize_table(table[1:], (4, 4), (6, 7))


@pytest.mark.parametrize("old, new", [((4, 4), (7, 7)), ((7, 7), (4, 4)), ((4, 4), (6, 7))])
def test_a_table_is_brought_to_another_grid_by_the_authors_cubic_splines(old, new):
    # Places as the authors' script lists them, splines by FITPACK's surfaces, which their `interp2d` is on a grid.
    def places(old, new):
        left, right = 1.01, 1.5
        while right - left > 1e-6:
            q = (left + right) / 2
            left, right = (left, q) if (1 - q ** (old // 2)) / (1 - q) > new // 2 else (q, right)
        steps, step = [], 1.0
        for i in range(old // 2):
            steps.append(step)
            step += q ** (i + 1)
        return [-x for x in reversed(steps)] + [0] + steps

    (h, w), (h2, w2) = (tuple(2 * side - 1 for side in grid) for grid in (old, new))
    table = fill("table", (h * w + 3, 2)).astype(np.float32)
    at = [np.arange(side) - side // 2 for side in (h2, w2)]
    surfaces = [RectBivariateSpline(places(h, h2), places(w, w2), table[:-3, head].reshape(h, w)) for head in range(2)]
    wanted = np.concatenate([np.stack([surface(*at) for surface in surfaces], -1).reshape(-1, 2), table[-3:]])
    assert relative_error(resize_table(table, old, new, "cubic"), wanted) < 1e-5
    assert relative_error(resize_table(table, old, new), wanted) > 1e-2


def test_a_checkpoint_s_tables_are_resized_as_the_model_says_and_one_that_all_blocks_share_is_copied(tmp_path):
    small = {"num_classes": 2, "dim": 8, "depth": 2, "heads": 2, "patch": 16}
    old, (linear, cubic) = Beit(image_size=(64, 64), **small), (Beit(image_size=(96, 96), table_resize=how, **small) for how in ("linear", "cubic"))
    arrays = {rules.resolve(name, (), "torch").names[0]: array for name, array in named_leaves(filled(old, ())["params"]).items()}
    arrays = {name: rules.to_torch(array) if name.endswith("weight") else np.asarray(array) for name, array in arrays.items()}
    shared = fill("table", (7 * 7 + 3, 2)).astype(np.float32)
    arrays = {name: array for name, array in arrays.items() if "bias_table" not in name}
    safetensors.numpy.save_file({**arrays, "rel_pos_bias.relative_position_bias_table": shared}, tmp_path / "pre.safetensors")
    for model, method in ((linear, "linear"), (cubic, "cubic")):
        params = load_pretrained(model, tmp_path / "pre.safetensors", image_size=(64, 64))["params"]
        for i in range(2):
            found = params[f"blocks_{i}"]["attn"]["relative_position_bias_table"]
            np.testing.assert_array_equal(found, resize_table(shared, (4, 4), (6, 6), method))
    with pytest.raises(ModelError, match="table_resize is 'cubik'; did you mean 'cubic'"):
        jax.eval_shape(lambda: Beit(image_size=(64, 64), table_resize="cubik", **small).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    with pytest.raises(ModelError, match="needs 4 places"):
        resize_table(shared[: 9 + 3], (2, 2), (4, 4), "cubic")


def test_pairs_with_the_class_token_have_rows_of_their_own():
    index = position_index((2, 3))
    assert index.shape == (7, 7) and index[0, 0] == 17 and set(index[0, 1:]) == {15} and set(index[1:, 0]) == {16}
    assert index[1:, 1:].max() == 14 and index[1, 1] == index[5, 5]


def test_images_of_another_size_and_widths_that_do_not_divide_are_refused():
    for message, fields in (("create the model with image_size=\\(32, 48\\)", {}), ("does not divide", {"heads": 5})):
        model = Beit(image_size=(32, 32), **{**SMALL, **fields})
        with pytest.raises(ModelError, match=message):
            jax.eval_shape(lambda model=model: model.init(jax.random.key(0), jnp.zeros((1, 32, 48, 3))))

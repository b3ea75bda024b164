import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import interop
from jaxvision.errors import ModelError
from jaxvision.models.maxim import CHECKPOINT
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.nn.multi_axis import MultiAxisBlock, TokenMix
from jaxvision.trees import named_leaves
from tests.models.counting import parameter_sizes
from tests.reference_weights import fill, filled, relative_error

GOLDEN = np.load(pathlib.Path(__file__).resolve().parent.parent / "golden" / "maxim.npz")
SMALL = {"dim": 8, "depth": 2, "num_groups": 1, "num_bottlenecks": 1, "num_scales": 2, "high_levels": 1, "window": (4, 4), "low_window": (2, 2)}
KINDS = {"both": {"num_stages": 2}, "plain": {"num_stages": 1, "multi_axis": False, "cross_gating": False}}


def small(kind="both", **fields):
    return create_model("maxim_s2", num_classes=0, image_size=(16, 24), **{**SMALL, **KINDS[kind], **fields})


def images():
    rng = np.random.RandomState(0)
    return rng.uniform(size=(2, 16, 24, 3)).astype(np.float32), rng.uniform(size=(1, 13, 22, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The network of two stages with the weights of a file that is laid out as the released ones are, and what makes its pictures."""
    model, path = small(), tmp_path_factory.mktemp("maxim") / "checkpoint.npz"
    names = {name: leaf.shape for name, leaf in named_leaves(shapes_of(model)["params"]).items()}
    np.savez(path, **{f"opt/target/{name}": fill(name, shape, True) for name, shape in names.items()}, **{"opt/state/step": np.int64(7)})
    return model, interop.load_pretrained(model, path), jax.jit(lambda v, x: model.apply(v, x, method="outputs"))


def test_pictures_of_all_stages_and_sizes_are_those_of_the_published_code(both):
    _, variables, outputs = both
    made = outputs(variables, images()[0])
    assert [picture.shape[1:3] for picture in made] == [(8, 12), (16, 24)] * 2
    for number, picture in enumerate(made):
        assert relative_error(picture, GOLDEN[f"both_{number // 2}_{number % 2}"]) < 1e-5


def test_a_picture_of_any_size_is_mirrored_to_a_size_that_fits_and_cut_back(both, monkeypatch):
    """13 x 22 pixels become 16 x 24: first even, then half on each side, as the published evaluation does it."""
    model, variables, outputs = both
    # The compiled function serves, for two pictures at a time.
    monkeypatch.setattr(type(model), "outputs", lambda self, x, train: tuple(y[:1] for y in outputs(variables, jnp.concatenate([x, x]))))
    made = model.apply(variables, images()[1])
    assert made.shape == (1, 13, 22, 3)
    assert relative_error(made[0], GOLDEN["padded"]) < 1e-5


def test_without_gated_mlps_and_gating_it_is_the_published_code_without_them():
    model = small("plain")
    made = jax.jit(lambda v, x: model.apply(v, x, method="outputs"))(filled(model, CHECKPOINT["npz"], "npz"), images()[0])
    for number, picture in enumerate(made):
        assert relative_error(picture, GOLDEN[f"plain_0_{number}"]) < 1e-5


def test_leaves_are_named_as_in_the_released_files(both):
    assert sorted(named_leaves(both[1]["params"])) == GOLDEN["names"].tolist()


# A checksum over the published code's leaves, "name size" each, with three sizes of pictures as the released files have them.
LEAVES = {"s1": 2860623357, "s2": 3099420176, "s3": 3749732532, "m1": 1540768378, "m2": 713907480, "m3": 2520218433}


def test_every_variant_has_the_leaves_of_the_published_code():
    memory, ours = {}, {}
    for variant in LEAVES:
        sizes = parameter_sizes(create_model(f"maxim_{variant}", num_classes=0, image_size=64), (1, 64, 64, 3), memory)
        ours[variant] = zlib.crc32("\n".join(f"{name} {size}" for name, size in sorted(sizes.items())).encode())
    assert ours == LEAVES


def test_the_small_network_of_three_levels_has_404802_parameters():
    fields = {**SMALL, "depth": 3, "num_scales": 3, "high_levels": 2}
    model = create_model("maxim_s2", num_classes=0, **fields)
    assert sum(parameter_sizes(model, (1, 16, 16, 3), {}).values()) == 404_802


def test_a_pixel_sees_its_block_and_its_places_in_the_grid_and_nothing_else():
    block = MultiAxisBlock((4, 2))
    x = np.random.RandomState(0).standard_normal((1, 12, 8, 4)).astype(np.float32)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, jax.jit(block.init)(jax.random.key(0), x))
    at = (5, 3)
    slope = np.abs(jax.jit(jax.grad(lambda x: block.apply(variables, x)[0, *at].sum()))(x))[0].max(-1)
    rows, columns = np.mgrid[:12, :8]
    same_block = (rows // 4 == at[0] // 4) & (columns // 2 == at[1] // 2)
    # A grid of 4 x 2 points: the map is cut into parts of 3 x 4 pixels.
    same_place = (rows % 3 == at[0] % 3) & (columns % 4 == at[1] % 4)
    np.testing.assert_array_equal(slope > 1e-9, same_block | same_place)


def test_blocks_computed_again_in_the_backward_pass_have_the_same_leaves(both):
    shapes = parameter_sizes(small(remat=True), (1, 16, 24, 3), {})
    assert shapes == {name: leaf.size for name, leaf in named_leaves(both[1]["params"]).items()}


def test_sizes_that_do_not_fit_are_one_line():
    with pytest.raises(ModelError, match=r"12 x 16 pixels do not divide .* multiples of 8"):
        jax.eval_shape(lambda: small().init(jax.random.key(0), jnp.zeros((1, 12, 16, 3)), method="outputs"))
    with pytest.raises(ModelError, match="a map of 6x8 does not divide into 4x4"):
        jax.eval_shape(lambda: TokenMix((4, 4), True).init(jax.random.key(0), jnp.zeros((1, 6, 8, 2))))
    assert create_model("maxim_s3", num_classes=0).multiples() == (64, 64)

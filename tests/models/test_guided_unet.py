import math
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import interop
from jaxvision.errors import CheckpointError, ModelError
from jaxvision.models import guided_unet, rules
from jaxvision.models.guided_unet import CHECKPOINT, parameter_order, timestep_embedding
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.trees import named_leaves
from tests.reference_weights import fill, filled, relative_error

GOLDEN = np.load(pathlib.Path(__file__).resolve().parent.parent / "golden" / "guided_unet.npz")
SMALL = {
    "shallow": {"mults": (1, 2), "attention_at": (2,), "depth": 1},
    "deep": {"mults": (1, 1, 2), "attention_at": (4,), "depth": 2},
}


def small(kind, **fields):
    return create_model("oftsr_unet_128", num_classes=0, image_size=(8, 12), dim=32, **{**SMALL[kind], **fields})


def inputs():
    rng = np.random.RandomState(0)
    image, condition = (rng.standard_normal((2, 8, 12, 3)).astype(np.float32) for _ in range(2))
    return image, {"time": np.asarray([0.25, 0.9], np.float32), "condition": condition}


@pytest.mark.parametrize("kind", SMALL)
def test_outputs_are_those_of_guided_diffusion(kind):
    model = small(kind)
    variables = filled(model, CHECKPOINT["torch"])
    image, keys = inputs()
    ours = jax.jit(lambda v, x: model.apply(v, x, **keys))(variables, image)
    assert relative_error(ours, GOLDEN[kind]) < 1e-5


@pytest.mark.parametrize("kind", SMALL)
def test_the_order_of_parameters_is_that_of_guided_diffusion(kind):
    assert parameter_order(small(kind)) == GOLDEN[f"{kind}_names"].tolist()


def test_the_time_embedding_is_that_of_guided_diffusion():
    np.testing.assert_allclose(timestep_embedding(jnp.asarray([0.0, 0.3, 999.0]), 32), GOLDEN["embedding"], atol=2e-4)


def test_a_list_of_averaged_weights_without_names_loads_by_its_order():
    model = small("shallow")
    names = parameter_order(model)
    named = filled(model, CHECKPOINT["torch"])
    shapes = {name: array.shape for name, array in zip(names, _foreign(model, names))}
    listed = {f"shadow_params.{i}": fill(name, shapes[name]) for i, name in enumerate(names)}
    arrays = guided_unet.adapt_checkpoint(listed, "torch", model)
    assert list(arrays) == names
    np.testing.assert_array_equal(arrays["out.2.bias"], named["params"]["out_2"]["bias"])
    with pytest.raises(CheckpointError, match="lists 143 arrays without names, the network has 144"):
        guided_unet.adapt_checkpoint({name: array for name, array in listed.items() if not name.endswith(".143")}, "torch", model)


@pytest.mark.parametrize("name, number, parameters, checksum", [("oftsr_unet_128", 362, 93_567_366, 2_793_041_055)])
def test_the_published_network_lists_its_parameters_in_the_order_and_shapes_of_the_released_code(name, number, parameters, checksum):
    model = create_model(name, num_classes=0)
    names = parameter_order(model)
    shapes = [array.shape for array in _foreign(model, names)]
    assert (len(names), sum(map(math.prod, shapes))) == (number, parameters)
    assert zlib.crc32("\n".join(f"{name} {shape}" for name, shape in zip(names, shapes)).encode()) == checksum


def test_weights_of_a_diffusion_network_load_but_for_the_first_convolution_which_begins_anew(tmp_path):
    of_images, of_both = small("shallow", conditional=False), small("shallow")
    variables = filled(of_images, CHECKPOINT["torch"])
    interop.save_pretrained(of_images, variables, tmp_path / "diffusion.safetensors")
    loaded = interop.load_pretrained(of_both, tmp_path / "diffusion.safetensors")["params"]
    first = loaded.pop("input_blocks_0_0")
    theirs = {name: leaves for name, leaves in variables["params"].items() if name != "input_blocks_0_0"}
    jax.tree.map(np.testing.assert_array_equal, loaded, theirs)
    assert first["kernel"].shape == (3, 3, 6, 32)
    # torch's initial values: uniform in +-1 / sqrt(fan in).
    assert 0.95 < np.abs(first["kernel"]).max() * np.sqrt(9 * 6) <= 1


def _foreign(model, names):
    leaves = named_leaves(shapes_of(model)["params"])
    entries = rules.entries({path: leaf.shape for path, leaf in leaves.items()}, CHECKPOINT["torch"], "torch")
    blank = lambda shape: np.broadcast_to(np.float32(0), shape)
    arrays = {entry.names[0]: entry.save(blank(leaves[path].shape))[0] for path, entry in entries.items()}
    return [arrays[name] for name in names]


def test_weights_written_and_read_again_are_the_same(tmp_path):
    model = small("shallow")
    variables = filled(model, CHECKPOINT["torch"])
    interop.save_pretrained(model, variables, tmp_path / "unet.safetensors")
    again = interop.load_pretrained(model, tmp_path / "unet.safetensors")
    jax.tree.map(np.testing.assert_array_equal, variables, again)


def test_a_fresh_network_returns_zeros_and_rematerialized_blocks_the_same_gradients():
    image, keys = inputs()
    one_level = {"mults": (1,), "attention_at": (), "head_width": 32}
    plain, again = small("shallow", **one_level), small("shallow", **one_level, remat=True)
    variables = filled(plain, CHECKPOINT["torch"])

    @jax.jit
    def both(variables, fresh):
        loss = lambda v, model: jnp.square(model.apply(v, image, **keys)).mean()
        return plain.apply(fresh, image, **keys), jax.grad(loss)(variables, plain), jax.grad(loss)(variables, again)

    zeros, one, other = both(variables, jax.jit(plain.init)(jax.random.key(0), image))
    assert not np.any(zeros)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(one))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), one, other)


def test_what_the_architecture_does_not_allow_is_one_line():
    shapes = lambda model, image, **keys: jax.eval_shape(lambda: model.init(jax.random.key(0), image, **keys))
    with pytest.raises(ModelError, match="multiples of 4"):
        shapes(small("deep"), jnp.zeros((1, 6, 8, 3)))
    with pytest.raises(ModelError, match=r"model\.head_width"):
        shapes(small("shallow", head_width=48), jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(ModelError, match="takes no condition"):
        shapes(small("shallow", conditional=False), jnp.zeros((1, 8, 8, 3)), condition=jnp.zeros((1, 8, 8, 3)))

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import scipy.ndimage

from jaxvision.errors import CheckpointError
from jaxvision.interop import load_pretrained, read_arrays, resize_variables, save_pretrained
from jaxvision.models import vit
from jaxvision.models.registry import create_model
from jaxvision.models.scanned import stack_blocks
from jaxvision.nn.position import resize_matrix, resize_position
from jaxvision.trees import named_leaves
from tests.reference_weights import fill, filled, relative_error

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "vit.npz"
SMALL = {"num_classes": 3, "image_size": (32, 48), "patch": 16, "dim": 16, "depth": 2, "heads": 2}


def small(**fields):
    return create_model("vit_tiny_patch16_224", **{**SMALL, **fields})


def saved(path, **fields):
    """A file of weights of `small(**fields)`, and the variables in it."""
    model = small(**fields)
    variables = filled(model, vit.CHECKPOINT["torch"])
    save_pretrained(model, variables, path)
    return variables


def assert_same(ours, theirs):
    ours, theirs = named_leaves(ours), named_leaves(theirs)
    assert set(ours) == set(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_saved_weights_have_the_names_and_layout_of_timm_and_load_back_identical(tmp_path):
    variables = saved(tmp_path / "w.safetensors")
    arrays = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    assert arrays["patch_embed.proj.weight"].shape == (16, 3, 16, 16)
    assert arrays["blocks.1.attn.qkv.weight"].shape == (48, 16)
    np.testing.assert_allclose(arrays["blocks.1.mlp.fc1.weight"], fill("blocks.1.mlp.fc1.weight", (64, 16)))
    assert_same(load_pretrained(small(), tmp_path / "w.safetensors"), variables)


def test_a_scanned_model_reads_and_writes_the_same_file(tmp_path):
    variables = saved(tmp_path / "w.safetensors")
    stacked = load_pretrained(small(scan=True), tmp_path / "w.safetensors")
    assert_same(stacked["params"], stack_blocks(variables["params"]))
    save_pretrained(small(scan=True), stacked, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()


def test_bfloat16_parameters_survive_the_file(tmp_path):
    model = small(param_dtype="bfloat16")
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), filled(small(), vit.CHECKPOINT["torch"]))
    save_pretrained(model, variables, tmp_path / "w.safetensors")
    assert {array.dtype.name for array in read_arrays(tmp_path / "w.safetensors")[0].values()} == {"bfloat16"}
    assert_same(load_pretrained(model, tmp_path / "w.safetensors"), variables)
    assert jax.tree.leaves(load_pretrained(small(), tmp_path / "w.safetensors"))[0].dtype == np.float32


def test_a_wrong_file_names_missing_left_over_and_misshapen_keys_in_one_line(tmp_path):
    saved(tmp_path / "w.safetensors")
    arrays = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    arrays["stranger.weight"] = arrays.pop("blocks.0.norm1.weight")
    arrays["blocks.1.mlp.fc1.bias"] = np.zeros(7, np.float32)
    safetensors.numpy.save_file(arrays, tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_pretrained(small(), tmp_path / "wrong.safetensors")
    message = str(error.value)
    assert "missing 1 (blocks.0.norm1.weight); left over 1 (stranger.weight); of another shape 1 (blocks.1.mlp.fc1.bias (7,)" in message
    assert "\n" not in message


def test_other_classes_ask_for_a_new_head_and_get_it_on_request(tmp_path):
    variables = saved(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="num_classes=7: build it with the file's classes, or set reinit_head=True"):
        load_pretrained(small(num_classes=7), tmp_path / "w.safetensors")
    loaded = load_pretrained(small(num_classes=7), tmp_path / "w.safetensors", reinit_head=True)
    assert_same(loaded["params"], {name: leaf for name, leaf in variables["params"].items() if name != "head"})
    features = load_pretrained(small(num_classes=0), tmp_path / "w.safetensors", ignore=r"head\..*")
    assert_same(features, loaded)
    with pytest.raises(CheckpointError, match=r"missing 2 \(fc_norm.bias, fc_norm.weight\); left over 2 \(norm"):
        load_pretrained(small(norm_after_pool=True), tmp_path / "w.safetensors")
    partial = load_pretrained(small(norm_after_pool=True), tmp_path / "w.safetensors", allow_missing="fc_norm/.*", ignore=r"norm\..*")
    assert "fc_norm" not in partial["params"] and "head" in partial["params"]


def test_a_failed_load_or_save_leaves_nothing_behind(tmp_path):
    with pytest.raises(CheckpointError, match=re.escape("should end in .safetensors")):
        save_pretrained(small(), {}, tmp_path / "w.npz")
    assert list(tmp_path.iterdir()) == []


def test_positions_of_another_size_are_resized_as_timm_resizes_them(tmp_path):
    golden = np.load(GOLDEN)
    table = np.random.RandomState(1).standard_normal((1, 20, 3)).astype(np.float32)
    for size in ((7, 3), (3, 8)):
        ours = resize_position(table, (4, 5), size).reshape(*size, 3)
        assert relative_error(ours, golden[f"position/resize/{size[0]}x{size[1]}"]) < 1e-6
    variables = saved(tmp_path / "w.safetensors", image_size=(64, 64))
    loaded = load_pretrained(small(), tmp_path / "w.safetensors")  # the file's size is found among the usual squares
    wanted = resize_position(variables["params"]["pos_embed"], (4, 4), (2, 3), prefix=1)
    np.testing.assert_array_equal(loaded["params"]["pos_embed"], wanted)
    saved(tmp_path / "odd.safetensors", image_size=(80, 32))
    with pytest.raises(CheckpointError, match="of another shape"):
        load_pretrained(small(), tmp_path / "odd.safetensors")
    assert load_pretrained(small(), tmp_path / "odd.safetensors", image_size=(80, 32))["params"]["pos_embed"].shape == (1, 7, 16)


def test_resizing_variables_reaches_optimizer_moments_and_leaves_the_rest_alone():
    old, new = small(image_size=(64, 64)), small()
    params = filled(old, vit.CHECKPOINT["torch"])["params"]
    tree = {"params": params, "opt": ({"mu": params, "count": np.int32(3)},)}
    resized = resize_variables(tree, old, new)
    assert resized["params"]["pos_embed"].shape == resized["opt"][0]["mu"]["pos_embed"].shape == (1, 7, 16)
    assert resized["params"]["head"]["kernel"] is params["head"]["kernel"] and resized["opt"][0]["count"] == 3


def vit_npz():
    """An npz of the first JAX releases for vit_tiny with two blocks on 48x80 pixels, filled as the generator of the golden file fills it."""
    dim, heads, tokens, classes = 192, 3, 16, 10
    shapes = {
        "cls": (1, 1, dim), "embedding/kernel": (16, 16, 3, dim), "embedding/bias": (dim,),
        "head/kernel": (dim, classes), "head/bias": (classes,), "Transformer/posembed_input/pos_embedding": (1, tokens, dim),
        "Transformer/encoder_norm/scale": (dim,), "Transformer/encoder_norm/bias": (dim,),
    }  # fmt: skip
    for i in range(2):
        block = f"Transformer/encoderblock_{i}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        shapes |= {f"{block}/LayerNorm_{k}/{leaf}": (dim,) for k in (0, 2) for leaf in ("scale", "bias")}
        shapes |= {f"{attention}/{name}/kernel": (dim, heads, dim // heads) for name in ("query", "key", "value")}
        shapes |= {f"{attention}/{name}/bias": (heads, dim // heads) for name in ("query", "key", "value")}
        shapes |= {f"{attention}/out/kernel": (heads, dim // heads, dim), f"{attention}/out/bias": (dim,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_0/kernel": (dim, 4 * dim), f"{block}/MlpBlock_3/Dense_0/bias": (4 * dim,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_1/kernel": (4 * dim, dim), f"{block}/MlpBlock_3/Dense_1/bias": (dim,)}
    return {name: fill(name, shape, last_axis_is_output=True) for name, shape in shapes.items()}


NUMBERING = (("LayerNorm_2", "LayerNorm_1"), ("MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0"), ("MlpBlock_3", "MlpBlock_0"))


def as_linen(arrays):
    """The same weights under linen's names, as later releases have them."""
    renamed = {}
    for name, array in arrays.items():
        for old, new in NUMBERING:
            name = name.replace(old, new)
        renamed[name] = array
    return renamed


def as_big_vision(arrays):
    """The same function in big_vision's form: positions at the top and without the class token's row, which is folded into the token."""
    arrays = as_linen(arrays)
    table = arrays.pop("Transformer/posembed_input/pos_embedding")
    return {"params/" + name: array for name, array in {**arrays, "cls": arrays["cls"] + table[:, :1], "pos_embedding": table[:, 1:]}.items()}


def as_scanned(arrays):
    """big_vision's form with one `encoderblock` whose arrays have a leading layer axis."""
    arrays = as_big_vision(arrays)
    blocks = {name: array for name, array in arrays.items() if "encoderblock_" in name}
    stacked = {
        name.replace("encoderblock_0", "encoderblock"): np.stack([array, blocks[name.replace("encoderblock_0", "encoderblock_1")]])
        for name, array in blocks.items()
        if "encoderblock_0" in name
    }
    return {**{name: array for name, array in arrays.items() if name not in blocks}, **stacked}


def test_npz_of_the_jax_releases_gives_the_outputs_that_timm_gets_from_it_in_every_spelling(tmp_path):
    model = create_model("vit_tiny_patch16_224", num_classes=10, image_size=(48, 80), depth=2)
    image = np.random.RandomState(0).standard_normal((2, 48, 80, 3)).astype(np.float32)
    run, wanted = jax.jit(model.apply), np.load(GOLDEN)["npz/logits"]
    for spelling in (dict, as_linen, as_big_vision, as_scanned):
        np.savez(tmp_path / "w.npz", **spelling(vit_npz()))
        assert relative_error(run(load_pretrained(model, tmp_path / "w.npz"), image), wanted) < 1e-5, spelling.__name__


def test_npz_positions_are_resized_as_the_jax_loaders_do(tmp_path):
    """Between aligned corners, class row apart; big_vision's table without that row included."""
    arrays = vit_npz()
    table = arrays["Transformer/posembed_input/pos_embedding"] = fill("square", (1, 17, 192)) * 50
    zoomed = scipy.ndimage.zoom(table[0, 1:].reshape(4, 4, 192), (3 / 4, 5 / 4, 1), order=1).reshape(15, 192)
    model = create_model("vit_tiny_patch16_224", num_classes=10, image_size=(48, 80), depth=2)
    for spelling, first in ((dict, table[0, 0]), (as_big_vision, np.zeros(192))):
        np.savez(tmp_path / "w.npz", **spelling(arrays))
        loaded = load_pretrained(model, tmp_path / "w.npz")["params"]["pos_embed"][0]
        np.testing.assert_allclose(loaded[1:], zoomed, atol=1e-5)
        np.testing.assert_allclose(loaded[0], first, atol=1e-6)
    assert np.abs(zoomed - resize_position(table, (4, 4), (3, 5), 1)[0, 1:]).max() > 1e-2
    np.testing.assert_allclose(resize_matrix(2, 3, "corners"), [[1, 0], [0.5, 0.5], [0, 1]])


def test_a_class_row_is_folded_into_the_token_of_a_model_without_one(tmp_path):
    variables = saved(tmp_path / "w.safetensors")["params"]
    loaded = load_pretrained(small(class_position=False), tmp_path / "w.safetensors")["params"]
    np.testing.assert_allclose(loaded["cls_token"], variables["cls_token"] + variables["pos_embed"][:, :1])
    x = np.random.RandomState(0).standard_normal((1, 32, 48, 3)).astype(np.float32)
    same = [jax.jit(small(**fields).apply)({"params": params}, x) for fields, params in (({}, variables), ({"class_position": False}, loaded))]
    np.testing.assert_allclose(*same, rtol=1e-4, atol=1e-6)


def test_both_spellings_of_the_mixer_releases_are_the_torch_weights_transposed(tmp_path):
    model = create_model("mixer_s16_224", num_classes=3, image_size=(32, 48), dim=16, depth=2)
    save_pretrained(model, filled(model, ()), tmp_path / "w.safetensors")
    wanted = load_pretrained(model, tmp_path / "w.safetensors")
    leaves = named_leaves(wanted["params"])
    linen, old = {}, {}
    for name, leaf in leaves.items():
        new_name = name.replace("stem/proj", "stem")
        new_name = re.sub(r"^norm/", "pre_head_layer_norm/", re.sub(r"blocks_(\d+)", r"MixerBlock_\1", new_name))
        for ours, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_1"), ("fc1", "Dense_0"), ("fc2", "Dense_1")):
            new_name = new_name.replace(ours, theirs)
        new_name = new_name.replace("mlp_tokens", "token_mixing").replace("mlp_channels", "channel_mixing")
        linen[new_name] = leaf
        older = re.sub(r"MixerBlock_(\d+)", r"Mixer/encoderblock_\1", new_name).replace("stem/", "embedding/")
        older = older.replace("pre_head_layer_norm", "Mixer/encoder_norm")
        older = re.sub(r"_mixing/Dense_0/(\w+)", r"_mixing_phase_0/\g<1>1", older)
        old[re.sub(r"_mixing/Dense_1/(\w+)", r"_mixing_phase_0/\g<1>2", older)] = leaf[None] if "mixing" in older else leaf
    for spelling in (linen, old):
        np.savez(tmp_path / "w.npz", **spelling)
        assert_same(load_pretrained(model, tmp_path / "w.npz"), wanted)

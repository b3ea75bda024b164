import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxvision.errors import CheckpointError, ModelError
from jaxvision.interop.weights import load_pretrained, save_pretrained
from jaxvision.models.lipreader import CHECKPOINT, VARIANTS, LipReader
from tests.models.counting import parameter_sizes
from tests.reference_weights import filled, relative_error

GOLDEN = np.load(pathlib.Path(__file__).parent.parent / "golden" / "lipreader.npz")
CLIP = np.random.RandomState(0).standard_normal((2, 5, 24, 36, 3)).astype(np.float32)
TINY = LipReader(
    num_classes=8, image_size=(6, 16, 24), text_length=4, hidden=6, layers=2, embed=4, front=(3, 3, 3), depths=(1,), widths=(8,), frame_dropout=0.0
)


@pytest.fixture(scope="module")
def tiny():
    return jax.jit(lambda: TINY.init(jax.random.key(0), jnp.zeros((1, 6, 16, 24, 3))))()


def test_taught_and_greedy_log_probabilities_agree_with_the_published_baseline():
    model = LipReader(image_size=(5, 24, 36), hidden=16, embed=8, text_length=5)
    variables, text = filled(model, CHECKPOINT["torch"]), GOLDEN["text"][:, 1:]
    both = jax.jit(lambda v, clip: (model.apply(v, clip, text=text), model.apply(v, clip)))
    taught, greedy = both(variables, CLIP)
    assert relative_error(taught, GOLDEN["taught"]) < 1e-5
    assert relative_error(greedy, GOLDEN["greedy"]) < 1e-5
    assert np.array_equal(np.argmax(greedy, -1), GOLDEN["greedy"].argmax(-1))


def test_the_parts_have_the_published_numbers_of_parameters():
    for name, encoder, decoder in (("lipreader_lrw_512", 12_601_344, 5_684_767), ("lipreader_lrw", 47_222_784, 21_847_583)):
        model = LipReader(num_classes=30, **VARIANTS[name].settings)
        sizes = parameter_sizes(model, (1, 29, 50, 100, 3), {})
        parts = {part: sum(size for path, size in sizes.items() if path.startswith(part)) for part in ("frontend", "resnet18", "encoder", "decoder")}
        assert parts == {"frontend": 47_168, "resnet18": 11_166_976, "encoder": encoder, "decoder": decoder}


def test_frames_behind_the_end_of_a_clip_change_nothing(tiny):
    clip = np.random.RandomState(1).standard_normal((2, 6, 16, 24, 3)).astype(np.float32)
    length = jnp.array([4, 6])
    other = clip.copy()
    other[0, 5:] = 9.0  # the first convolution looks one frame ahead, so frame 4 counts by what the host put there
    write = jax.jit(lambda clip: TINY.apply(tiny, clip, length))
    np.testing.assert_allclose(write(clip)[0], write(other)[0], atol=1e-6)
    assert np.abs(np.asarray(jax.jit(lambda clip: TINY.apply(tiny, clip))(clip))[0] - write(clip)[0]).max() > 1e-4


def test_a_file_of_the_baseline_is_read_with_its_copies_and_unused_layers_left_out(tiny, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_pretrained(TINY, tiny, path)
    arrays = safetensors.numpy.load_file(path)
    assert {"resnet18.layer1.0.conv1.weight", "encoder.gru.weight_ih_l1_reverse", "decoder.attention.attn2.bias"} <= arrays.keys()
    assert arrays["encoder.gru.bias_hh_l0"].shape == (18,) and arrays["frontend3D.0.weight"].shape == (8, 3, 3, 3, 3)
    doubled = {f"seq2seq.{name}": array for name, array in arrays.items() if name.startswith(("encoder", "decoder"))}
    safetensors.numpy.save_file({**arrays, **doubled, "backend_conv1.0.weight": np.zeros((4, 4))}, path)
    loaded = load_pretrained(TINY, path)
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], jax.device_get(tiny["params"]))
    del arrays["decoder.out.weight"]
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(CheckpointError, match=r"missing 1 .decoder\.out\.weight"):
        load_pretrained(TINY, path)


def test_pictures_are_refused():
    with pytest.raises(ModelError, match=r"reads clips .*\(2, 16, 24, 3\)"):
        TINY.init(jax.random.key(0), jnp.zeros((2, 16, 24, 3)))

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.errors import ModelError
from jaxvision.models.codenet import CHECKPOINT, AblationDetector, CoDeNet
from jaxvision.models.registry import create_model, shapes_of
from jaxvision.models.rules import entries
from jaxvision.nn.deform import KINDS
from jaxvision.trees import map_named, named_leaves
from tests.reference_weights import filled, relative_error

GOLDEN = np.load(pathlib.Path(__file__).resolve().parent.parent / "golden" / "codenet.npz")
SIZE = (64, 96)
SMALL = {"num_classes": 3, "image_size": SIZE, "channels": (24, 32, 48, 64, 96)}
IMAGE = [np.random.RandomState(seed).standard_normal((1, *SIZE, 3)).astype(np.float32) for seed in (0, 1)]


def moved(variables):
    """The golden weights; layers that say where taps go are 20 times as large, so that they go somewhere."""
    return map_named(lambda name, leaf: 20 * leaf if "conv_offset" in name or "conv_scale" in name else leaf, variables)


def worst(maps, case, suffix=""):
    return max(relative_error(maps[key][:, ::2, ::2], GOLDEN[f"{case}/{key}{suffix}"]) for key in ("heat", "size", "offset"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_ablation_s_maps_agree_with_the_public_code(kind):
    """DequanWang/CoDeNet: shufflenet.py with 2, 1 and 2 units, shufflenet_decoder.py, deform_conv_hw.py with torchvision's deform_conv2d."""
    model = AblationDetector(kind=kind, depths=(2, 1, 2), decoder=(48, 32, 16), **SMALL)
    variables = moved(filled(model, CHECKPOINT["torch"]))
    assert worst(jax.jit(model.apply)(variables, IMAGE[0]), kind) < 1e-5


@pytest.mark.parametrize("pool", [False, True])
def test_the_detector_s_maps_agree_with_the_public_code(pool):
    """Zhen-Dong/CoDeNet: shufflenetv2_dcn.py with 2, 3 and 2 units and inner channels of 16 in the heads."""
    model = CoDeNet(pool=pool, depths=(2, 3, 2), head=16, **SMALL)
    variables = moved(filled(model, CHECKPOINT["torch"]))
    assert worst(jax.jit(model.apply)(variables, IMAGE[0]), "codenet_pool" if pool else "codenet") < 1e-5


def trained_twice(bits, percentile):
    """Maps of two batches in training, and the variables after them, from ranges that begin at 0."""
    quant = {"weight_bits": bits, "activation_bits": 8 if bits == 4 else 16, "first_bits": 8, "percentile": percentile}
    model = CoDeNet(depths=(2, 3, 2), head=16, **quant, **SMALL)
    variables = map_named(lambda name, leaf: 0 * leaf if "_range" in name else leaf, moved(filled(model, CHECKPOINT["quantized"])))
    step, made = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])), []
    for image in IMAGE:
        maps, new = step(variables, image)
        variables = {**variables, **new}
        made.append(maps)
    return made, variables


@pytest.mark.parametrize("bits, percentile, most", [(16, True, 1e-4), (4, False, 1e-6)])
def test_quantized_training_agrees_with_the_public_code(bits, percentile, most):
    """portable_quantizer/ on the same network: a rounding that falls the other way changes a code by one, so that means are compared."""
    made, variables = trained_twice(bits, percentile)
    for number, maps in enumerate(made):
        for key in ("heat", "size", "offset"):
            theirs = GOLDEN[f"quant{bits}{'_pct' * percentile}/{key}{number}"]
            error = np.abs(maps[key][:, ::2, ::2] - theirs).mean() / np.abs(theirs).max()
            print(f"{bits} bits, batch {number}, {key}: {error:.2e}")
            assert error < most
    if bits == 4:
        stats = named_leaves(variables["batch_stats"])
        resolved = entries({name: leaf.shape for name, leaf in stats.items()}, CHECKPOINT["quantized"], "torch")
        ours = {key: float(stats[name][0]) for name, entry in resolved.items() if "_range" in name for key in entry.names}
        theirs = dict(zip(GOLDEN["range_names"].tolist(), GOLDEN["ranges"].tolist()))
        worst_range = max(abs(ours[name] - value) for name, value in theirs.items()) / max(map(abs, theirs.values()))
        print(f"ranges: {worst_range:.2e}")
        assert worst_range < 1e-5


def names_of(model, table):
    names = set()
    for tree in shapes_of(model).values():
        shapes = {name: leaf.shape for name, leaf in named_leaves(tree).items()}
        names |= {key for entry in entries(shapes, table, "torch").values() for key in entry.names}
    return names


def test_names_of_quantized_checkpoints_are_those_of_the_public_code():
    model = create_model("codenet_a", num_classes=20, weight_bits=4)
    names = names_of(model, CHECKPOINT["quantized"])
    theirs = {str(name) for name in GOLDEN["quantized_names"]}  # of a network of fewer units
    assert theirs <= names and all(name.startswith(("layer2.", "layer1.", "layer3.")) for name in names - theirs)


def test_classifiers_of_imagenet_fill_the_encoders():
    torchvision = names_of(create_model("shufflenet_v2_x1_0"), ())
    assert names_of(create_model("codenet_c"), CHECKPOINT["torchvision"]) == {name for name in torchvision if not name.startswith("fc.")}
    whole = names_of(create_model("codenet_deform"), CHECKPOINT["torch"])
    assert names_of(create_model("codenet_deform"), CHECKPOINT["imagenet"]) == {name[8:] for name in whole if name.startswith("encoder.")}


def test_a_quantized_network_has_the_parameters_of_the_float_one():
    whole, quantized = (named_leaves(shapes_of(create_model("codenet_a", weight_bits=bits))["params"]) for bits in (0, 4))
    assert {name: leaf.shape for name, leaf in whole.items()} == {name: leaf.shape for name, leaf in quantized.items()}


def test_maps_have_a_quarter_of_the_image_s_sides_and_wrong_sizes_are_one_line():
    for name in ("codenet_c", "codenet_e", "codenet_square_depthwise"):
        model = create_model(name, num_classes=20)
        made = jax.eval_shape(lambda model=model: model.init_with_output(jax.random.key(0), jnp.zeros((1, 512, 512, 3)))[0])
        assert {key: value.shape for key, value in made.items()} == {
            "heat": (1, 128, 128, 20),
            "size": (1, 128, 128, 2),
            "offset": (1, 128, 128, 2),
        }
    with pytest.raises(ModelError, match="multiples of 32, got 64x70"):
        jax.eval_shape(lambda: create_model("codenet_a").init(jax.random.key(0), jnp.zeros((1, 64, 70, 3))))
    with pytest.raises(ModelError, match=r"model.kind 'square' is no convolution"):
        jax.eval_shape(lambda: create_model("codenet_deform", kind="square").init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))

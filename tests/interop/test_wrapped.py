"""Released checkpoints of MoCo, SwAV, DINO and vissl fill a method's network, or a classifier's backbone."""

import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxvision import interop
from jaxvision.errors import CheckpointError
from jaxvision.interop import wrapped
from jaxvision.interop.files import _state_dict
from jaxvision.models import create_model, rules
from jaxvision.nn.projector import Projected, Projector, Prototypes
from jaxvision.trees import named_leaves

RESNET = ("resnet20_cifar", {"depths": (1,), "widths": (4,), "image_size": (8, 8)})
VIT = ("vit_tiny_patch16_224", {"patch": 4, "dim": 8, "depth": 1, "heads": 2, "image_size": (8, 8)})
# Network, projector's layers, prototypes, prefix of the backbone, and {our part: the file's}.
LAYOUTS = {
    "moco": (
        RESNET, ((None, "relu", True), (6, "", True)), None, "module.encoder_q.",
        {"fc1": "module.encoder_q.fc.0", "fc2": "module.encoder_q.fc.2"},
    ),
    "swav": (
        RESNET, ((5, "bn_relu", True), (6, "", True)), Prototypes(7), "module.",
        {
            "fc1": "module.projection_head.0", "bn1": "module.projection_head.1", "fc2": "module.projection_head.3",
            "kernel": "module.prototypes.weight",
        },
    ),
    "dino": (
        VIT, ((5, "gelu", True), (5, "gelu", True), (6, "", True)), Prototypes(7, "fixed"), "backbone.",
        {"fc1": "head.mlp.0", "fc2": "head.mlp.2", "fc3": "head.mlp.4", "kernel": "head.last_layer.weight_v", "ones": "head.last_layer.weight_g"},
    ),
    "vissl_mlp": (
        RESNET, ((5, "bn_relu", True), (6, "", True), (9, "", True)), None, "trunk._feature_blocks.",
        {"fc1": "heads.0.clf.0", "bn1": "heads.0.clf.1", "fc2": "heads.1.clf.0", "fc3": "heads.2.clf.0"},
    ),
    "vissl_prototypes": (
        RESNET, ((5, "bn_relu", True), (6, "", True)), Prototypes(7, "gain"), "trunk._feature_blocks.",
        {
            "fc1": "heads.0.projection_head.0", "bn1": "heads.0.projection_head.1", "fc2": "heads.0.projection_head.3",
            "kernel": "heads.0.prototypes0.weight_v", "gain": "heads.0.prototypes0.weight_g",
        },
    ),
}  # fmt: skip


def made(layout):
    """(network, random variables of it, the same under the file's names)."""
    (name, fields), layers, prototypes, prefix, parts = LAYOUTS[layout]
    net = Projected(create_model(name, num_classes=0, **fields), Projector(layers), prototypes)
    shapes = jax.eval_shape(net.init, jax.random.key(0), (jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32),))
    random = np.random.RandomState(0)
    variables = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
    theirs = {}
    for tree in variables.values():
        for path, leaf in named_leaves(tree).items():
            part, _, rest = path.partition("/")
            table = sys.modules[type(net.backbone).__module__].CHECKPOINT["torch"] if part == "backbone" else ()
            entry = rules.resolve(rest if part == "backbone" else path, table, "torch")
            (array,) = entry.save(leaf)
            if part == "backbone":
                theirs[prefix + entry.names[0]] = array
            elif part == "projector":
                module, _ = rest.split("/")
                theirs[f"{parts[module]}.{entry.names[0].rsplit('.', 1)[-1]}"] = array
            else:
                theirs[parts[rest]] = array.reshape(-1, 1) if rest == "gain" else array
    if "ones" in parts:
        theirs[parts["ones"]] = np.ones((7, 1), np.float32)
    if layout == "moco":
        theirs |= {"module.encoder_k.conv1.weight": np.zeros(3), "module.queue": np.zeros((6, 8)), "module.queue_ptr": np.zeros(1)}
    theirs[f"{prefix}bn1.num_batches_tracked"] = np.zeros((), np.int64)
    return net, variables, {name: np.ascontiguousarray(array) for name, array in theirs.items()}


@pytest.fixture(params=LAYOUTS)
def checkpoint(request, tmp_path):
    net, variables, theirs = made(request.param)
    path = tmp_path / "weights.safetensors"
    save_file(theirs, path)
    return request.param, net, variables, path


def test_a_released_file_fills_backbone_head_and_prototypes(checkpoint):
    _, net, variables, path = checkpoint
    loaded = interop.load_projected(net, path)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_the_backbone_alone_comes_with_reinit_head_and_into_a_plain_network(checkpoint):
    layout, net, variables, path = checkpoint
    loaded = interop.load_projected(net, path, reinit_head=True)
    assert set(loaded["params"]) == {"backbone"}
    plain = interop.load_pretrained(net.backbone, path)
    for collection, tree in plain.items():
        jax.tree.map(np.testing.assert_array_equal, tree, variables[collection]["backbone"])
    (name, fields), *_ = LAYOUTS[layout]
    classifier = interop.load_pretrained(create_model(name, num_classes=3, **fields), path, reinit_head=True)
    assert set(named_leaves(classifier["params"])) == set(named_leaves(plain["params"]))


def test_another_head_is_one_line_that_says_what_would_be_right(checkpoint):
    _, net, _, path = checkpoint
    other = net.clone(projector=Projector(((3, "relu", True), (6, "", True))))
    with pytest.raises(CheckpointError, match=r"the projection head in .* is not the task's: .*set task.head to the file's, or reinit_head=True"):
        interop.load_projected(other, path)


def test_a_classifier_s_file_fills_the_backbone_without_its_head(tmp_path):
    (name, fields), layers, *_ = LAYOUTS["moco"]
    classifier = create_model(name, num_classes=3, **fields)
    variables = jax.tree.map(np.asarray, jax.jit(classifier.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32)))
    interop.save_pretrained(classifier, variables, tmp_path / "resnet.safetensors")
    loaded = interop.load_projected(Projected(classifier.clone(num_classes=0), Projector(layers)), tmp_path / "resnet.safetensors")
    kept = {path: leaf for path, leaf in named_leaves(variables["params"]).items() if not path.startswith("fc/")}
    assert set(named_leaves(loaded["params"])) == {f"backbone/{path}" for path in kept}
    np.testing.assert_array_equal(loaded["params"]["backbone"]["conv1"]["kernel"], kept["conv1/kernel"])


def test_state_dicts_are_found_where_vissl_and_dino_keep_them(tmp_path):
    array = np.ones(2)
    vissl = {"classy_state_dict": {"base_model": {"model": {"trunk": {"_feature_blocks.conv1.weight": array}, "heads": {"0.clf.0.bias": array}}}}}
    assert set(_state_dict(vissl, tmp_path, None)) == {"trunk._feature_blocks.conv1.weight", "heads.0.clf.0.bias"}
    dino = {"student": {"module.backbone.norm.weight": array}, "teacher": {"backbone.norm.weight": 2 * array}, "epoch": 3}
    assert _state_dict(dino, tmp_path, None)["backbone.norm.weight"][0] == 2
    assert _state_dict(dino, tmp_path, "student")["backbone.norm.weight"][0] == 1
    moco = {"arch": "resnet50", "state_dict": {"module.encoder_q.fc.weight": array, "module.queue": array}}
    assert set(_state_dict(moco, tmp_path, None)) == {"encoder_q.fc.weight", "queue"}


def test_other_files_are_no_method_s():
    assert wrapped.split({"conv1.weight": np.ones(1), "fc.weight": np.ones(1), "backbone_scale": np.ones(1)}) is None

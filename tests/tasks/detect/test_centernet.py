import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from jaxvision import fit
from jaxvision.data.shapes import CLASSES, paint
from jaxvision.errors import ConfigError, DataError
from jaxvision.nn.quantize import RANGES
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.tasks.detect.centernet import in_picture
from jaxvision.train.given import without_fresh
from jaxvision.train.modes import predict
from tests.runs import tiny

MODEL = {"name": "codenet_conv3x3", "channels": (8, 12, 16, 20, 12), "depths": (1, 1, 1), "decoder": (10, 9, 8)}
DATA = {"source": "shapes", "size": (64, 64), "count": 16, "max_boxes": 3, "crop": "letterbox", "interpolation": "bilinear"}
TASK = {"name": "detect/centernet", "count": 10, "threshold": 0.0, "metrics": ("voc", "coco")}


def config(**changes):
    keys = dict(model=MODEL, data=DATA, task=TASK, image_size=(64, 64), batch_size=4, eval_batch_size=4, steps=2, augment={"flip": 0.5})
    keys |= {"checkpoint": {"metric": "test/voc_ap50"}, "optim": {"name": "adam", "lr": 1e-3}}
    return tiny(**{**keys, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detect")
    return folder, fit(config(), folder, report=lambda line: None)


def test_a_run_is_judged_and_draws_what_it_finds(run):
    folder, metrics = run
    assert {"test/voc_ap50", "test/voc07_ap", "test/ap", "test/ap50", "test/ap75"} <= metrics.keys()
    assert all(0 <= value <= 1 for name, value in metrics.items() if "ap" in name)
    (picture,) = (folder / "pictures").glob("*.png")
    assert np.asarray(Image.open(picture)).std() > 0


def test_a_photo_of_another_size_becomes_boxes_in_its_own_pixels_and_a_picture(run, tmp_path):
    made = paint(0, 3, (90, 150), 3)
    (tmp_path / "in").mkdir()
    Image.fromarray(made["image"]).save(tmp_path / "in" / "photo.jpg")
    written = predict(None, run[0], tmp_path / "in" / "photo.jpg", output=tmp_path / "out", report=lambda line: None)
    assert [path.name for path in written] == ["boxes.json", "photo.png"] and written[1].parent == tmp_path / "out" / "boxes"
    found = json.loads(written[0].read_text())
    assert found["images"][0]["height"] == 90 and found["images"][0]["width"] == 150
    assert [row["name"] for row in found["categories"]] == list(CLASSES) and len(found["annotations"]) == 10
    for row in found["annotations"]:
        x, y, width, height = row["bbox"]
        assert 0 <= x <= x + width <= 150.001 and 0 <= y <= y + height <= 90.001
    assert np.asarray(Image.open(written[1])).shape == (90, 150, 3)


class Maps(nn.Module):
    """A network that is quickly compiled."""

    num_classes: int = 6
    stride = 4

    @nn.compact
    def __call__(self, image, *, train=False):
        y = nn.Conv(self.num_classes + 4, (4, 4), (4, 4))(image)
        return {"heat": y[..., :-4], "size": y[..., -4:-2], "offset": y[..., -2:]}


@pytest.fixture(scope="module")
def task():
    made = make_task(config(), Problem(CLASSES, 3, 16, 10, 4.0))
    made.model = Maps()
    return made


def batch(**changes):
    records = [paint(0, number, (64, 64), 3) for number in range(4)]
    arrays = {name: np.stack([record[name] for record in records]) for name in ("image", "boxes", "box_label", "box_valid")}
    return {**arrays, "index": np.arange(4), "valid": np.ones(4, bool), **changes}


def loss_of(task, batch, parts=1):
    params = task.model.init(jax.random.key(1), jnp.zeros((1, 64, 64, 3)))["params"]
    prepared = task.prepare(batch, jax.random.key(0), train=True)
    cut = lambda i: jax.tree.map(lambda leaf: leaf[i::parts], prepared)
    return float(np.mean([task.loss(params, {}, {}, cut(i), jax.random.key(0), static=None, train=True)[0] for i in range(parts)]))


def test_the_batch_s_loss_is_the_mean_over_its_parts_however_many_objects_they_have(task):
    assert loss_of(task, batch(), 4) == pytest.approx(loss_of(task, batch()), rel=1e-5)


def test_padding_crowds_and_unreadable_examples_have_no_part_in_the_loss(task):
    whole = batch()
    junk = {**whole, "boxes": np.where(whole["box_valid"][..., None], whole["boxes"], 40.0).astype(np.float32)}
    assert loss_of(task, junk) == loss_of(task, whole)
    ignored = ~np.cumsum(whole["box_valid"], 1).astype(bool) | (np.arange(3) > 0)
    assert loss_of(task, {**whole, "box_ignore": ignored}) == loss_of(task, {**whole, "box_valid": whole["box_valid"] & ~ignored})
    unread = np.array([True, True, False, True])
    other = {**whole, "image": np.where(unread[:, None, None, None], whole["image"], 0), "valid": unread}
    assert loss_of(task, {**whole, "valid": unread}) == pytest.approx(loss_of(task, other), rel=1e-6)
    assert loss_of(task, {**whole, "valid": unread}) != pytest.approx(loss_of(task, whole), rel=1e-3)


def test_boxes_are_given_in_the_pixels_of_their_pictures():
    placed = {"place": np.array([[-20.0, 0.0, 2.0, 2.0]], np.float32), "size": np.array([[88, 128]])}
    boxes = in_picture(jnp.array([[[20.0, 5.0, 30.0, 60.0], [0.0, 0.0, 64.0, 64.0]]]), placed)
    np.testing.assert_array_equal(boxes[0], [[20, 10, 40, 120], [0, 0, 88, 128]])


def test_a_quantized_network_takes_a_float_one_s_weights_and_begins_its_ranges():
    wanted = {"params": {"a": {"kernel": 1}}, "batch_stats": {"bn": {"mean": 2}, "a_range": {"x_min": 3, "x_max": 4}}}
    source = {"params": {"a": {"kernel": 5}}, "batch_stats": {"bn": {"mean": 6}}}
    assert without_fresh(wanted, source, RANGES) == {"params": wanted["params"], "batch_stats": {"bn": {"mean": 2}}}
    assert without_fresh(wanted, wanted, RANGES) == wanted


def test_what_does_not_fit_is_one_line(task):
    problem = Problem(CLASSES, 3, 16, 10, 4.0)
    with pytest.raises(ConfigError, match=r"task.treshold is not a key.*'threshold'"):
        make_task(config(task={**TASK, "treshold": 0.1}), problem)
    with pytest.raises(ConfigError, match=r"task.metrics 'map' is unknown"):
        make_task(config(task={**TASK, "metrics": ("map",)}), problem)
    with pytest.raises(DataError, match=r"the data have none; take data\.source 'coco', 'voc' or 'shapes'"):
        task.prepare({name: value for name, value in batch().items() if name != "boxes"}, jax.random.key(0), train=True)

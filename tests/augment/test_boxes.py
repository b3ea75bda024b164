import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.boxes import cut, flip_boxes, lighting, make_box_augment, move, move_boxes
from jaxvision.errors import ConfigError

BOX = np.array([[[8, 12, 20, 28]]], np.float32)


def painted():
    image = np.zeros((1, 32, 48, 3), np.uint8)
    image[0, 8:20, 12:28] = 255
    return image


def extent(image):
    rows, columns = np.nonzero(np.asarray(image)[0, ..., 0] > 127)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


@pytest.mark.parametrize("corner, unit", [((4.0, -6.0), 1.0), ((-10.0, 3.0), 1.5), ((6.0, 10.0), 0.5)])
def test_boxes_stay_on_what_they_frame(corner, unit):
    corner, unit = jnp.array([corner]), jnp.array([unit])
    boxes, valid = cut(move_boxes(BOX, corner, unit), np.ones((1, 1), bool), (32, 48))
    assert valid[0, 0]
    np.testing.assert_allclose(boxes[0, 0], extent(move(painted(), corner, unit)), atol=1.0)


def test_a_move_by_nothing_changes_nothing_and_what_leaves_is_dropped():
    image = np.random.RandomState(0).randint(0, 256, (2, 8, 9, 3)).astype(np.uint8)
    np.testing.assert_allclose(move(image, jnp.zeros((2, 2)), jnp.ones(2)), image, atol=1e-3)
    _, valid = cut(move_boxes(BOX, jnp.array([[19.5, 0.0]]), jnp.ones(1)), np.ones((1, 1), bool), (32, 48))
    assert not valid[0, 0]


def test_flips_mirror_boxes_with_their_pictures():
    flipped = flip_boxes(jnp.concatenate([BOX, BOX]), jnp.array([True, False]), 48)
    np.testing.assert_array_equal(flipped[:, 0], [[8, 20, 20, 36], [8, 12, 20, 28]])
    assert extent(painted()[:, :, ::-1]) == (8, 20, 20, 36)


def test_the_whole_augmentation_is_one_of_the_global_row():
    augment = make_box_augment({"flip": True, "affine": (0.8, 1.2, 0.1), "lighting": 0.1}, (0.5,) * 3, (0.5,) * 3)
    image, boxes = np.repeat(painted(), 4, 0), np.repeat(BOX, 4, 0)
    run = jax.jit(lambda image, boxes, row: augment(jax.random.key(0), image, boxes, jnp.ones(boxes.shape[:2], bool), row))
    made = run(image, boxes, jnp.arange(4))
    part = run(image[2:], boxes[2:], jnp.arange(2, 4))
    for a, b in zip(made, part):
        np.testing.assert_allclose(a[2:], b, atol=1e-5)
    assert len({tuple(np.asarray(box).round(3)) for box in made[1][:, 0]}) == 4
    for i in range(4):
        np.testing.assert_allclose(made[1][i, 0], extent(255 * (0.5 + made[0][i : i + 1] / 2)), atol=1.2)


def test_lighting_moves_colours_along_their_principal_components():
    image = jnp.full((600, 1, 1, 3), 100.0)
    made = np.asarray(lighting(jax.random.key(0), image, jnp.arange(600), 0.1))[:, 0, 0] - 100
    assert made.std(0) == pytest.approx(255 * 0.1 * 0.2141788 * np.array([0.561, 0.584, 0.588]), rel=0.12)
    assert np.corrcoef(made.T)[0, 1] > 0.98


def test_keys_that_are_none_or_off_the_scale_are_one_line():
    wrong = (({"flips": 1}, "augment.flips is unknown.*'flip'"), ({"affine": (2, 1, 0)}, "augment.affine is"), ({"flip": 2}, "flip is 2"))
    for config, line in wrong:
        with pytest.raises(ConfigError, match=line):
            make_box_augment(config, (0.5,), (0.5,))

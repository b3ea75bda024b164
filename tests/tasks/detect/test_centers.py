import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.tasks.detect.centers import center_distance, focal_loss, peaks, radius, targets

SIZES = np.array([(3.0, 4.0), (10.4, 2.1), (31.0, 27.0), (0.3, 0.3)], np.float32)


def by_loops(boxes, labels, valid, size, classes):
    """The heat map as CenterNet's code draws it: a cut-out Gaussian an object, the larger value wins."""
    heat = np.zeros((*size, classes), np.float32)
    for (top, left, bottom, right), label, counts in zip(boxes / 4, labels, valid):
        if not counts:
            continue
        h, w, m = bottom - top, right - left, 0.7
        first = ((h + w) - np.sqrt((h + w) ** 2 - 4 * w * h * (1 - m) / (1 + m))) / 2
        second = (2 * (h + w) - np.sqrt(4 * (h + w) ** 2 - 16 * (1 - m) * w * h)) / 8
        third = (-2 * m * (h + w) + np.sqrt(4 * m**2 * (h + w) ** 2 + 16 * m * (1 - m) * w * h)) / (8 * m)
        r = max(0, int(min(first, second, third)))
        y, x = int((top + bottom) / 2), int((left + right) / 2)
        for i in range(max(0, y - r), min(size[0], y + r + 1)):
            for j in range(max(0, x - r), min(size[1], x + r + 1)):
                heat[i, j, label] = max(heat[i, j, label], np.exp(-((i - y) ** 2 + (j - x) ** 2) / (2 * ((2 * r + 1) / 6) ** 2)))
    return heat


def test_heat_maps_are_those_of_the_published_rules():
    random = np.random.RandomState(0)
    corner, side = random.uniform(0, 60, (2, 6, 2)), random.uniform(2, 60, (2, 6, 2))
    boxes = np.concatenate([corner, np.minimum(corner + side, (64, 96))], -1).astype(np.float32)
    label, valid = random.randint(0, 3, (2, 6)), random.uniform(size=(2, 6)) < 0.8
    made = jax.jit(lambda *arrays: targets(*arrays, (16, 24), 3))(boxes, label, valid)
    for i in range(2):
        np.testing.assert_allclose(made.heat[i], by_loops(boxes[i], label[i], valid[i], (16, 24), 3), atol=1e-6)
    y, x = made.cell // 24 + made.offset[..., 1], made.cell % 24 + made.offset[..., 0]
    np.testing.assert_allclose(4 * jnp.stack([y - made.size[..., 1] / 2, x - made.size[..., 0] / 2], -1), boxes[..., :2], atol=1e-4)


def test_radii_are_the_corrected_ones_or_those_of_the_released_code():
    """Computed with get_gaussian_radius of the ablation's centernet.py, and gaussian_radius of CenterNet's utils/image.py on sides rounded up."""
    corrected, released = (radius(*jnp.asarray(SIZES).T, form) for form in ("corrected", "released"))
    np.testing.assert_array_equal(corrected, [0, 0, 2, 0])
    np.testing.assert_array_equal(released, [0, 1, 7, 0])


def test_boxes_come_back_from_their_own_maps():
    boxes = np.array([[[8, 8, 24, 40], [30, 60, 62, 90], [40, 4, 50, 13]]], np.float32)
    label = np.array([[0, 2, 1]])
    aims = targets(boxes, label, np.ones((1, 3), bool), (16, 24), 3)
    maps = {name: np.zeros((1, 16, 24, 2), np.float32) for name in ("size", "offset")}
    for n, cell in enumerate(np.asarray(aims.cell[0])):
        for name in maps:
            maps[name][0, cell // 24, cell % 24] = getattr(aims, name)[0, n]
    found = jax.jit(lambda heat, size, offset: peaks(heat, size, offset, 5))(aims.heat, maps["size"], maps["offset"])
    assert found.boxes.shape == (1, 5, 4) and set(np.asarray(found.label[0, :3]).tolist()) == {0, 1, 2}
    for n in range(3):
        place = int(np.flatnonzero(found.label[0, :3] == label[0, n])[0])
        np.testing.assert_allclose(found.boxes[0, place], boxes[0, n], atol=1e-4)
        assert found.score[0, place] == 1 and found.score[0, 3] == 0


def test_losses_follow_their_formulas_and_their_gradients_stay_finite_far_out():
    random = np.random.RandomState(1)
    logits, heat = random.normal(0, 2, (2, 4, 5, 3)).astype(np.float32), random.uniform(size=(2, 4, 5, 3)).astype(np.float32)
    heat[0, 1, 2, 0] = heat[1, 0, 0, 2] = 1
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = np.where(heat == 1, -((1 - p) ** 2) * np.log(p), -((1 - heat) ** 4) * p**2 * np.log(1 - p)).sum((1, 2, 3))
    np.testing.assert_allclose(focal_loss(logits, heat), expected, rtol=1e-5)
    assert np.isfinite(jax.grad(lambda x: focal_loss(x, heat).sum())(jnp.full_like(logits, 80.0))).all()
    boxes = np.array([[[0, 0, 8, 12], [4, 4, 12, 12]]], np.float32)
    aims = targets(boxes, np.zeros((1, 2), int), np.array([[True, False]]), (4, 5), 1)
    assert float(center_distance(jnp.zeros((1, 4, 5, 2)), aims.size, aims)[0]) == pytest.approx(2 + 3)

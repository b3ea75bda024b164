import jax
import numpy as np
import pytest
from PIL import Image

from jaxvision.augment.randaugment import reach_of
from jaxvision.augment.warp import Motion, affine_matrix, gather_warp, shear_warp, warp
from tests.augment.pictures import HEIGHT, WIDTH, by_pillow, pictures

IMAGES = pictures()[:2]
FILL = (124, 116, 104)
REACH = reach_of(10.0, HEIGHT, WIDTH)
MOTIONS = {
    "rotation": (13.0, 0, 0, 0, 0),
    "rotation back": (-27.0, 0, 0, 0, 0),
    "shear x": (0, 0.21, 0, 0, 0),
    "shear x back": (0, -0.3, 0, 0, 0),
    "shear y": (0, 0, 0.27, 0, 0),
    "shear y back": (0, 0, -0.27, 0, 0),
    "move x": (0, 0, 0, 7.3, 0),
    "move y": (0, 0, 0, 0, -6.6),
    "nothing": (0, 0, 0, 0, 0),
}


def motion_of(name):
    return Motion(*[np.full(len(IMAGES), value, np.float32) for value in MOTIONS[name]])


def reference(name):
    angle, shear_x, shear_y, move_x, move_y = MOTIONS[name]
    if angle:
        return by_pillow(IMAGES, lambda image: image.rotate(angle, resample=Image.BILINEAR, fillcolor=FILL))
    matrix = (1, shear_x, move_x, shear_y, 1, move_y)
    return by_pillow(IMAGES, lambda image: image.transform(image.size, Image.AFFINE, matrix, resample=Image.BILINEAR, fillcolor=FILL))


by_gather = jax.jit(lambda x, motion: gather_warp(x, affine_matrix(motion, HEIGHT, WIDTH), FILL))
by_shears = jax.jit(lambda x, motion: shear_warp(x, motion, FILL, REACH))


def off(ours, name):
    return np.abs(np.asarray(ours).astype(int) - reference(name).astype(int))


@pytest.mark.parametrize("name", MOTIONS)
def test_gather_form_agrees_with_pillow_to_one_grey_level_everywhere(name):
    assert off(by_gather(IMAGES, motion_of(name)), name).max() <= 1


@pytest.mark.parametrize("name", [name for name in MOTIONS if not name.startswith("rotation")])
def test_shear_form_of_shears_and_translations_agrees_with_pillow_to_one_grey_level_everywhere(name):
    assert off(by_shears(IMAGES, motion_of(name)), name).max() <= 1


@pytest.mark.parametrize("name", ["rotation", "rotation back"])
def test_shear_form_of_a_rotation_has_the_same_fill_and_a_close_photograph(name):
    """A ramp is linear, so any order of interpolation gives the same values; a photograph differs by smoothness only."""
    ours, theirs = np.asarray(by_shears(IMAGES, motion_of(name))), reference(name)
    assert np.array_equal((ours == FILL).all(-1), (theirs == FILL).all(-1))
    assert off(ours, name)[0].mean() < 3.0
    row, column = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    ramp = np.broadcast_to((4 * row + 5 * column)[None, :, :, None], IMAGES.shape).astype(np.uint8)
    exact = np.asarray(by_gather(ramp, motion_of(name))).astype(int)
    interior = slice(4, -4), slice(7, -7)
    assert np.abs(np.asarray(by_shears(ramp, motion_of(name))).astype(int) - exact)[:, *interior].max() <= 2


def test_each_example_moves_by_its_own_motion():
    mixed = Motion(*[np.array([a, b], np.float32) for a, b in zip(MOTIONS["rotation"], MOTIONS["move x"])])
    for form in (by_gather, by_shears):
        ours = np.asarray(form(IMAGES, mixed))
        assert np.array_equal(ours[0], np.asarray(form(IMAGES, motion_of("rotation")))[0])
        assert np.array_equal(ours[1], np.asarray(form(IMAGES, motion_of("move x")))[1])


def test_programs_for_tpu_have_no_gather_and_programs_for_cpu_do():
    lowered = jax.jit(lambda x, motion: warp(x, motion, FILL, REACH)).trace(IMAGES, motion_of("nothing"))
    assert "stablehlo.gather" not in lowered.lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.gather" in lowered.lower(lowering_platforms=("cpu",)).as_text()


def test_five_channels_move_like_three():
    images = np.concatenate([IMAGES, IMAGES], axis=-1)[..., :5]
    fill = (*FILL, 7, 8)
    both = jax.jit(lambda x, m: (gather_warp(x, affine_matrix(m, HEIGHT, WIDTH), fill), shear_warp(x, m, fill, reach_of(1.0, HEIGHT, WIDTH))))
    motion = Motion(*[0.1 * field for field in motion_of("shear x")])
    gathered, sheared = (np.asarray(form).astype(int) for form in both(images, motion))
    assert np.array_equal(gathered[..., :3], by_gather(IMAGES, motion))
    assert np.abs(gathered - sheared).max() <= 1

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxvision.augment import make_augment
from jaxvision.augment.geometry import pad_crop, random_flip
from jaxvision.errors import ConfigError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = np.random.RandomState(0).randint(0, 256, (16, 12, 12, 3)).astype(np.uint8)
GREY = {"mean": (0.3,), "std": (0.4,)}


def augment_of(**settings):
    return make_augment(ml_collections.ConfigDict(settings), mean=MEAN, std=STD)


def test_settings_are_read_and_hashable():
    ours = augment_of(
        flip=True, pad_crop=4, color_jitter=0.4, randaugment="rand-m9-mstd0.5-inc1", erasing=0.25,
        mixup=0.8, cutmix=1.0, mix_prob=0.9, switch_prob=0.4,
    )
    assert (ours.flip, ours.pad_crop, ours.color_jitter, ours.erasing) == (0.5, (4, "zero"), (0.4, 0.4, 0.4, 0.0), (0.25, "pixel"))
    assert (ours.mixup, ours.cutmix, ours.mix_prob, ours.switch_prob, ours.fill) == (0.8, 1.0, 0.9, 0.4, (124, 116, 104))
    assert ours.randaugment.magnitude == 9 and hash(ours) == hash(ours)
    assert augment_of(flip=None, pad_crop=0, color_jitter=None, randaugment=None, erasing=0.0, mixup=None, cutmix=0, mix_prob=None) == augment_of()
    assert augment_of(pad_crop=(2, "reflect"), erasing=(0.1, "const"), color_jitter=(0.1, 0.2, 0.3, 0.4)).pad_crop == (2, "reflect")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flipp": True}, "augment.flipp is unknown; did you mean 'flip'"),
        ({"flip": 1.5}, "augment.flip is 1.5"),
        ({"pad_crop": 2.5}, "augment.pad_crop is 2.5"),
        ({"pad_crop": (2, "reflct")}, "did you mean 'reflect'"),
        ({"erasing": (0.2, "pixels")}, "did you mean 'pixel'"),
        ({"color_jitter": (0.1, 0.2)}, "augment.color_jitter"),
        ({"color_jitter": (0.1, 0.2, 0.1, 0.7)}, "0..0.5"),
        ({"mixup": "0.8"}, "augment.mixup"),
        ({"mixup": -1.0}, "augment.mixup"),
        ({"mix_prob": 2.0}, "augment.mix_prob"),
        ({"randaugment": "rand-x9"}, "augment.randaugment"),
    ],
)
def test_unknown_keys_and_values_end_in_one_line(settings, message):
    with pytest.raises(ConfigError) as error:
        augment_of(**settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_is_off_leaves_no_trace_in_the_program():
    jaxpr = jax.make_jaxpr(augment_of().image)(jax.random.key(0), IMAGES, jnp.arange(16))
    assert {equation.primitive.name for equation in jaxpr.eqns} <= {"convert_element_type", "mul", "sub", "div", "broadcast_in_dim"}
    image, label = augment_of().mix(jax.random.key(0), IMAGES, MEAN)
    assert image is IMAGES and label is MEAN


def test_without_augmentation_training_sees_what_evaluation_sees():
    ours = augment_of().image(jax.random.key(0), IMAGES, jnp.arange(16))
    np.testing.assert_allclose(ours, (IMAGES / 255 - MEAN) / STD, atol=1e-5)
    assert np.array_equal(ours, augment_of().normalize(IMAGES))


def test_grey_images_pass_flip_crop_and_normalize_in_this_order():
    grey, row = IMAGES[..., :1], jnp.arange(16)
    ours = make_augment({"flip": True, "pad_crop": 2}, **GREY)
    image = jax.jit(ours.image)(jax.random.key(3), grey, row)
    key = jax.random.key(3)
    moved = pad_crop(jax.random.fold_in(key, 1), random_flip(jax.random.fold_in(key, 0), grey, row, 0.5), row, 2)
    np.testing.assert_allclose(image, (np.asarray(moved) / 255 - 0.3) / 0.4, atol=1e-5)


def test_everything_together_is_finite_depends_on_the_row_alone_and_needs_no_communication():
    """One program over eight devices: no collective in it, and a permuted batch gives the permuted result, so no device count can matter."""
    ours = augment_of(flip=True, pad_crop=1, color_jitter=0.2, randaugment="rand-m9-n1-mstd0.5-inc1", erasing=0.5)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    program = jax.jit(
        lambda k, x, row, m: ours.image(k, x, row, magnitude=m), in_shardings=(whole, rows, rows, whole), out_shardings=rows
    ).lower(jax.random.key(0), IMAGES, jnp.arange(16), jnp.float32(9)).compile()
    assert not any(name in program.as_text() for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    order = np.random.RandomState(0).permutation(16).astype(np.int32)

    def run(images, row, magnitude=9.0):
        placed = (jax.device_put(x, s) for x, s in ((jax.random.key(0), whole), (images, rows), (row, rows), (jnp.float32(magnitude), whole)))
        return np.asarray(program(*placed))

    first = run(IMAGES, np.arange(16, dtype=np.int32))
    assert np.all(np.isfinite(first))
    assert np.array_equal(first[order], run(IMAGES[order], order))
    assert not np.array_equal(first, run(IMAGES, np.arange(16, dtype=np.int32), 2.0))


def test_other_types_than_uint8_are_refused_where_colour_is_defined_on_grey_levels():
    with pytest.raises(ConfigError, match="uint8"):
        augment_of(randaugment="rand-m9").image(jax.random.key(0), IMAGES.astype(np.float32), jnp.arange(16))

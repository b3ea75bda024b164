import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxvision.augment import randaugment
from jaxvision.augment.randaugment import OPERATIONS, Draw, RandAugment, apply_layer, parse, reach_of
from jaxvision.errors import ConfigError
from tests.augment.pictures import HEIGHT, WIDTH, by_pillow, pictures

FILL = (124, 116, 104)
PICTURE = pictures()[0]


def test_strings_are_read_as_timm_reads_them():
    assert parse("rand-m9-mstd0.5-inc1") == RandAugment(magnitude=9, magnitude_std=0.5, increasing=True)
    assert parse("rand-m7-n3-p0.3-mmax12-mstd101-w0") == RandAugment(7, 3, 0.3, np.inf, 12, False, "w0")
    assert parse("rand-mstd1-tweights") == RandAugment(magnitude_std=1, weights="tweights")
    assert parse("rand") == RandAugment(magnitude=10, layers=2, probability=0.5, magnitude_std=0, magnitude_max=10, increasing=False)


@pytest.mark.parametrize("text", ["augmix-m3", "rand-m", "rand-nstd4", "rand-q5", "rand-m9.9.9", "rand-n2.5", "rand-p1.5", "rand-m9--n2"])
def test_a_bad_string_is_one_line_that_names_the_section(text):
    with pytest.raises(ConfigError, match=r"augment\.randaugment"):
        parse(text)


def test_levels_become_the_arguments_of_timm():
    level, plus, minus = jnp.asarray([9.0, 0.0, 10.0, 4.9]), jnp.ones(4), -jnp.ones(4)
    assert randaugment.bits_of(level, True).tolist() == [1, 4, 0, 3]
    assert randaugment.bits_of(level, False).tolist() == [3, 0, 4, 1]
    assert randaugment.threshold_of(level, True).tolist() == [26, 256, 0, 131]
    assert randaugment.threshold_of(level, False).tolist() == [230, 0, 256, 125]
    assert randaugment.addition_of(level).tolist() == [99, 0, 110, 53]
    np.testing.assert_allclose(randaugment.factor_of(level, plus, True), [1.81, 1, 1.9, 1.441], rtol=1e-6)
    np.testing.assert_allclose(randaugment.factor_of(level, minus, True), [0.19, 1, 0.1, 0.559], rtol=1e-5)
    np.testing.assert_allclose(randaugment.factor_of(level, minus, False), [1.72, 0.1, 1.9, 0.982], rtol=1e-6)


def by_timm(name, image, level, sign):
    """The operation of the increasing table, written with Pillow."""
    signed, share = sign * level / 10, level / 10
    affine = {
        "ShearX": (1, 0.3 * signed, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, 0.3 * signed, 1, 0),
        "TranslateXRel": (1, 0, 0.45 * signed * WIDTH, 0, 1, 0),
        "TranslateYRel": (1, 0, 0, 0, 1, 0.45 * signed * HEIGHT),
    }
    if name in affine:
        return image.transform(image.size, Image.AFFINE, affine[name], resample=Image.BILINEAR, fillcolor=FILL)
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return getattr(ImageEnhance, name)(image).enhance(max(0.1, 1 + 0.9 * signed))
    return {
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
        "Rotate": lambda: image.rotate(30 * signed, resample=Image.BILINEAR, fillcolor=FILL),
        "Posterize": lambda: ImageOps.posterize(image, 4 - int(share * 4)),
        "Solarize": lambda: ImageOps.solarize(image, 256 - int(share * 256)),
        "SolarizeAdd": lambda: image.point([min(255, i + int(share * 110)) if i < 128 else i for i in range(256)] * 3),
    }[name]()


layer = jax.jit(lambda x, draw: apply_layer(x, draw, increasing=True, fill=FILL, reach=reach_of(10.0, HEIGHT, WIDTH)))


@pytest.mark.parametrize(("level", "sign"), [(7.3, 1), (7.3, -1), (2.6, 1)])
def test_a_layer_does_to_each_example_what_its_operation_does_in_pillow(level, sign):
    count = len(OPERATIONS) + 1
    operation = jnp.arange(-1, len(OPERATIONS))
    images = np.repeat(PICTURE[None], count, axis=0)
    ours = np.asarray(layer(images, Draw(operation, jnp.full(count, level), jnp.full(count, float(sign))))).astype(int)
    assert np.array_equal(ours[0], PICTURE)
    for name, one in zip(OPERATIONS, ours[1:]):
        reference = by_pillow(PICTURE[None], lambda image: by_timm(name, image, level, sign))[0]
        assert np.abs(one - reference).max() <= 1, name
        assert np.array_equal(reference, PICTURE) or not np.array_equal(one, PICTURE), name


def test_draws_follow_their_distributions():
    ours = parse("rand-m9-mstd0.5-inc1")
    draws = jax.jit(lambda k, row: ours.draw(k, row, 9.0))(jax.random.key(0), jnp.arange(6000))
    assert len(draws) == 2
    for draw in draws:
        operation, level, sign = (np.asarray(field) for field in draw)
        assert abs((operation < 0).mean() - 0.5) < 0.03
        shares = np.bincount(operation[operation >= 0], minlength=15) / (operation >= 0).sum()
        assert np.abs(shares - 1 / 15).max() < 0.02
        assert level.max() == 10 and abs((level == 10).mean() - 0.0228) < 0.01
        assert abs(np.median(level) - 9) < 0.05 and abs(np.percentile(level, 15.87) - 8.5) < 0.05
        assert abs(sign.mean()) < 0.05
    both = np.corrcoef(draws[0].operation, draws[1].operation)[0, 1]
    assert abs(both) < 0.05


def test_weighted_choice_is_without_replacement_and_leaves_out_what_weighs_nothing():
    ours = parse("rand-m9-n2-p1-w0")
    first, second = (np.asarray(d.operation) for d in jax.jit(lambda k, row: ours.draw(k, row, 9.0))(jax.random.key(0), jnp.arange(3000)))
    assert not np.any(first == second)
    drawn = {OPERATIONS[i] for i in np.concatenate([first, second])}
    assert "Posterize" not in drawn and "Invert" not in drawn
    assert abs((first == OPERATIONS.index("Rotate")).mean() - 0.3 / 1.03) < 0.03


def test_infinite_deviation_draws_levels_uniformly_up_to_the_magnitude():
    ours = parse("rand-m8-n1-mstd101")
    level = np.asarray(jax.jit(lambda k, row: ours.draw(k, row, 8.0)[0].level)(jax.random.key(0), jnp.arange(4000)))
    assert level.min() < 0.1 and 7.9 < level.max() < 8 and abs(level.mean() - 4) < 0.15


def test_magnitude_may_be_traced_and_changes_levels_alone():
    ours = parse("rand-m9-n1-p1-inc1")
    draw = jax.jit(lambda k, row, magnitude: ours.draw(k, row, magnitude)[0])
    weak, strong = (draw(jax.random.key(0), jnp.arange(24), magnitude) for magnitude in (1.0, 7.0))
    assert draw._cache_size() == 1
    assert np.all(weak.level == 1) and np.all(strong.level == 7)
    assert np.array_equal(weak.operation, strong.operation) and np.array_equal(weak.sign, strong.sign)

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.augment.erasing import Box
from jaxvision.augment.mix import cutmix, cutmix_box, mix_batch, mixup

IMAGES = np.random.RandomState(0).randn(4, 10, 12, 2).astype(np.float32)
LABELS = np.eye(5, dtype=np.float32)[:4]


def test_mixup_is_a_weighted_sum_with_the_mirrored_batch():
    image, label = mixup(IMAGES, LABELS, 0.3)
    np.testing.assert_allclose(image, 0.3 * IMAGES + 0.7 * IMAGES[::-1], atol=1e-6)
    np.testing.assert_allclose(label, 0.3 * LABELS + 0.7 * LABELS[::-1], atol=1e-6)


def test_cutmix_exchanges_the_box_and_weighs_labels_by_its_area():
    image, label = cutmix(IMAGES, LABELS, Box(2, 7, 0, 4))
    expected = IMAGES.copy()
    expected[:, 2:7, 0:4] = IMAGES[::-1, 2:7, 0:4]
    assert np.array_equal(image, expected)
    share = 1 - 20 / 120
    np.testing.assert_allclose(label, share * LABELS + (1 - share) * LABELS[::-1], atol=1e-6)


def test_cutmix_boxes_have_the_sides_of_the_share_and_are_clipped_at_the_border():
    share = 0.71
    box = jax.jit(jax.vmap(lambda k: cutmix_box(k, share, 30, 40)))(jax.random.split(jax.random.key(0), 2000))
    top, bottom, left, right = (np.asarray(side) for side in box)
    half_y, half_x = int(30 * (1 - share) ** 0.5) // 2, int(40 * (1 - share) ** 0.5) // 2
    assert (bottom - top).max() == 2 * half_y and (right - left).max() == 2 * half_x
    centre = np.where(top > 0, top + half_y, bottom - half_y)
    assert centre.min() == 0 and centre.max() == 29 and abs(centre.mean() - 14.5) < 1
    assert top.min() == 0 and bottom.max() == 30 and right.max() == 40


def test_a_batch_is_mixed_by_one_method_with_shares_from_beta():
    zeros_and_ones = np.concatenate([np.zeros((1, 16, 16, 1)), np.ones((1, 16, 16, 1))]).astype(np.float32)
    labels = np.eye(2, dtype=np.float32)

    def one(key):
        image, label = mix_batch(key, zeros_and_ones, labels, mixup_alpha=0.8, cutmix_alpha=1.0, probability=0.9, switch_probability=0.3)
        return image[0], label

    image, label = (np.asarray(x) for x in jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 3000)))
    np.testing.assert_allclose(image.mean(axis=(1, 2, 3)), label[:, 0, 1], atol=1e-5)
    np.testing.assert_allclose(label.sum(-1), 1, atol=1e-6)
    blended = np.any((image > 0.001) & (image < 0.999), axis=(1, 2, 3))
    assert abs(blended.mean() - 0.9 * 0.7) < 0.03
    share = label[blended, 0, 0]
    assert abs(share.mean() - 0.5) < 0.03 and abs(share.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.01
    untouched = np.all(image == 0, axis=(1, 2, 3)) & (label[:, 0, 0] == 1)
    assert 0.1 - 0.02 < untouched.mean() < 0.16


def test_mixing_that_is_off_returns_its_input():
    image, label = mix_batch(jax.random.key(0), IMAGES, LABELS, mixup_alpha=0.0, cutmix_alpha=0.0)
    assert image is IMAGES and label is LABELS
    assert jnp.array_equal(mix_batch(jax.random.key(0), IMAGES, LABELS, mixup_alpha=1.0, cutmix_alpha=0.0, probability=0.0)[0], IMAGES)

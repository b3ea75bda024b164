import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.clip import make_clip_augment, repeat_frames
from jaxvision.errors import ConfigError

ROW = jnp.arange(64)


def test_all_frames_of_a_clip_are_mirrored_and_shifted_alike():
    frame = np.random.RandomState(0).randint(0, 255, (64, 1, 6, 8, 1), np.uint8)
    clip = np.repeat(frame, 5, axis=1)
    augment = make_clip_augment({"flip": True, "pad_crop": 2, "erasing": 1.0}, mean=(0.0,), std=(1.0,))
    made = np.asarray(jax.jit(augment)(jax.random.key(0), clip, ROW))
    assert (made == made[:, :1]).all()
    assert np.unique(made[:, 0].reshape(64, -1), axis=0).shape[0] == 64
    plain = make_clip_augment({"flip": True}, mean=(0.0,), std=(1.0,))(jax.random.key(0), clip, ROW)
    mirrored = (np.abs(np.asarray(plain) - clip[:, :, :, ::-1] / 255) < 1e-6).all((1, 2, 3, 4))
    assert 16 < mirrored.sum() < 48


def test_repeated_frames_show_what_is_before_them():
    clip = np.broadcast_to(np.arange(40)[None, :, None, None, None], (64, 40, 1, 1, 1))
    made = np.asarray(repeat_frames(jax.random.key(0), clip, ROW, 0.25))[..., 0, 0, 0]
    again = made[:, 1:] != np.arange(1, 40)
    assert (made[:, 0] == 0).all() and again.mean() == pytest.approx(0.25, abs=0.03)
    assert (made[:, 1:] == np.where(again, made[:, :-1], np.arange(1, 40))).all()


def test_keys_that_do_not_act_on_clips_are_one_line():
    with pytest.raises(ConfigError, match=r"augment.mixup mixes pictures"):
        make_clip_augment({"mixup": 0.2}, mean=(0.0,), std=(1.0,))
    with pytest.raises(ConfigError, match=r"augment.repeat is 2"):
        make_clip_augment({"repeat": 2}, mean=(0.0,), std=(1.0,))

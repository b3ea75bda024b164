import sys

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.data.frames import frames
from jaxvision.errors import DataError
from jaxvision.models.registry import create_model
from jaxvision.train.tiled import restore_picture, spans


@pytest.mark.parametrize("length, tile, overlap", [(16, 16, 4), (17, 16, 4), (100, 16, 6), (64, 16, 0)])
def test_tiles_keep_every_pixel_once_and_stay_inside(length, tile, overlap):
    kept = []
    for span in spans(length, tile, overlap):
        assert 0 <= span.start <= length - tile and 0 <= span.first < span.last <= tile
        assert span.first >= overlap // 2 or span.start == 0
        assert span.last <= tile - overlap // 2 or span.start == length - tile
        kept += range(span.start + span.first, span.start + span.last)
    assert kept == list(range(length))


@pytest.mark.parametrize("shape", [(29, 41), (9, 30)])
def test_a_picture_in_tiles_is_the_picture_as_a_whole(shape):
    model = create_model("espcn_rgb_x2", num_classes=0, widths=(6, 6))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    image = np.random.RandomState(0).randint(0, 256, (*shape, 3)).astype(np.uint8)
    restore = jax.jit(lambda x: 0.1 * model.apply(variables, x / 255) + 0.3)
    calls = []

    def run(tiles, corners):
        calls.append(tiles.shape)
        for tile, (y, x) in zip(tiles, corners):
            part = image[y : y + 16, x : x + 16]
            np.testing.assert_array_equal(tile[: part.shape[0], : part.shape[1]], part)
        return np.asarray(restore(tiles.astype(np.float32)))

    # Kernels of 5, 3 and 3 pixels reach 4 pixels far.
    made = restore_picture(run, image, tile=16, overlap=8, scale=2, batch=3)
    padded = np.pad(image, [(0, max(0, 16 - shape[0])), (0, max(0, 16 - shape[1])), (0, 0)], mode="edge")
    whole = np.asarray(restore(padded[None].astype(np.float32)))[0, : 2 * shape[0], : 2 * shape[1]]
    assert made.shape == (2 * shape[0], 2 * shape[1], 3) and set(calls) == {(3, 16, 16, 3)}
    np.testing.assert_array_equal(made, np.round(np.clip(whole, 0, 1) * 255).astype(np.uint8))
    if shape == (29, 41):
        seams = restore_picture(run, image, tile=16, overlap=0, scale=2, batch=3)
        assert not np.array_equal(seams, made)


def test_a_file_of_several_frames_is_read_frame_by_frame(tmp_path):
    from PIL import Image

    pictures = [np.full((4, 5, 3), 60 * n, np.uint8) for n in range(3)]
    first, *rest = map(Image.fromarray, pictures)
    first.save(tmp_path / "clip.tiff", save_all=True, append_images=rest)
    for ours, theirs in zip(frames(tmp_path / "clip.tiff", 3), pictures, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert next(frames(tmp_path / "clip.tiff", 1)).shape == (4, 5, 1)


def test_a_video_is_read_frame_by_frame_and_a_damaged_one_says_so(tmp_path):
    clip = np.random.RandomState(0).randint(0, 256, (4, 32, 48, 3), np.uint8)
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as video:
        # A codec without loss, so that the very pixels come back.
        stream = video.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "bgr0"
        for frame in clip:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")))
        video.mux(stream.encode())
    np.testing.assert_array_equal(list(frames(path, 3)), clip)
    grey = np.stack(list(frames(path, 1))).astype(float)
    assert grey.shape == (4, 32, 48, 1) and np.abs(grey[..., 0] - clip @ (0.299, 0.587, 0.114)).max() < 2
    path.write_bytes(b"not a video")
    with pytest.raises(OSError, match=r"^Invalid data found"):
        next(frames(path, 3))


def test_a_video_without_its_reader_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"clip\.mp4 is a video, which PyAV reads: pip install 'jaxvision\[video\]'"):
        next(frames(tmp_path / "clip.mp4", 3))

import sys
import types

import numpy as np
import pytest
from PIL import Image

from jaxvision.data import Clip, EvalStream, open_source
from jaxvision.data.clips import ClipSource, aligned_text, clips_source, fit_clip
from jaxvision.data.frames import read_clip
from jaxvision.data.source import Unreadable
from jaxvision.errors import ConfigError, DataError
from jaxvision.tasks.text.vocabulary import decode

CLIP = np.random.RandomState(0).randint(0, 255, (5, 10, 12, 3), np.uint8)


def array(path, frames=5):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, CLIP[:frames])


def pictures(folder, frames=5):
    folder.mkdir(parents=True)
    for number in range(frames):
        Image.fromarray(CLIP[number]).save(folder / f"{number + 8}.png")  # 8, 9, 10, …: by number, not by name


def opened(path, name, split, **keys):
    data = {"source": "clips", "path": str(path), "name": name, "text_length": 40, "vocabulary": "letters", "test_share": 0.5, **keys}
    return open_source(data, split, seed=0)


def texts(source):
    return [decode(source.record(i)["text"], source.classes) for i in range(len(source))]


def test_a_clip_is_an_array_a_folder_of_numbered_frames_or_a_video(tmp_path, monkeypatch):
    array(tmp_path / "a.npy")
    pictures(tmp_path / "b")
    np.save(tmp_path / "grey.npy", CLIP[..., 0])
    np.testing.assert_array_equal(read_clip(tmp_path / "a.npy"), CLIP)
    np.testing.assert_array_equal(read_clip(tmp_path / "b"), CLIP)
    assert read_clip(tmp_path / "grey.npy").shape == (5, 10, 12, 1)

    class Video:
        """What PyAV gives, as far as it is used."""

        __enter__, __exit__ = lambda self: self, lambda self, *error: None

        def decode(self, video):
            return [types.SimpleNamespace(to_ndarray=lambda format, frame=frame: frame) for frame in CLIP]

    monkeypatch.setitem(sys.modules, "av", types.SimpleNamespace(open=lambda path: Video(), FFmpegError=OSError))
    (tmp_path / "c.mpg").touch()
    np.testing.assert_array_equal(read_clip(tmp_path / "c.mpg"), CLIP)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.npy", b"nothing", "a.npy cannot be read as a clip"),
        ("a.npy", np.zeros((2, 3), np.uint8), r"an array uint8 \(2, 3\)"),
        ("a.npy", np.zeros((2, 3, 4, 3)), "an array float64"),
        ("a.gif", b"GIF89a", "a.gif cannot be read as a clip"),
    ],
)
def test_what_is_no_clip_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(Unreadable, match=message):
        read_clip(path)


def test_frames_are_resized_and_black_ones_follow():
    record = fit_clip({"clip": CLIP, "text": 7}, Clip((8, 10, 12), "none"), "c")
    assert record["clip"].shape == (8, 10, 12, 3) and record["length"] == 5 and record["text"] == 7
    np.testing.assert_array_equal(record["clip"][:5], CLIP)
    assert not record["clip"][5:].any()
    grey = fit_clip({"clip": CLIP}, Clip((5, 5, 6), channels=1), "c")["clip"]
    assert grey.shape == (5, 5, 6, 1) and abs(grey.mean() - CLIP.mean()) < 4
    with pytest.raises(Unreadable, match=r"c has 5 frames, image_size takes 4"):
        fit_clip({"clip": CLIP}, Clip((4, 10, 12)), "c")
    with pytest.raises(DataError, match=r"c is 10x12, but image_size is 9x9; data.crop='resize'"):
        fit_clip({"clip": CLIP}, Clip((8, 9, 9), "none"), "c")
    with pytest.raises(ConfigError, match=r"'window' does not act on clips"):
        Clip((8, 9, 9), "window")
    with pytest.raises(ConfigError, match=r"clips need \(frames, height, width\)"):
        Clip((9, 9))


def test_lrw_is_a_folder_a_word(tmp_path):
    for word in ("ABOUT", "YEARS"):
        for split, count in (("train", 2), ("val", 1), ("test", 1)):
            for number in range(count):
                array(tmp_path / word / split / f"{word}_{number:05d}.npy")
    assert texts(opened(tmp_path, "lrw", "train")) == ["ABOUT", "ABOUT", "YEARS", "YEARS"]
    assert texts(opened(tmp_path, "lrw", "test")) == texts(opened(tmp_path, "lrw", "val")) == ["ABOUT", "YEARS"]
    with pytest.raises(DataError, match=r"no <WORD>/tset/ folders"):
        opened(tmp_path, "lrw", "tset")


ALIGNED = "0 1000 sil\n1000 2000 bin\n2000 3000 blue\n3000 3200 sp\n3200 4000 at\n4000 5000 sil\n"


def test_grid_reads_the_alignment_of_the_speaker(tmp_path):
    for split, speaker in (("train", "s1"), ("train", "s2"), ("test", "s3")):
        pictures(tmp_path / split / speaker / "video" / "bbaf2n")
        aligned = tmp_path / "align" / speaker / "align" / "bbaf2n.align"
        aligned.parent.mkdir(parents=True)
        aligned.write_text(ALIGNED.replace("blue", {"s1": "blue", "s2": "red", "s3": "green"}[speaker]))
    assert texts(opened(tmp_path, "grid", "train")) == ["BIN BLUE AT", "BIN RED AT"]
    assert texts(opened(tmp_path, "grid", "test")) == ["BIN GREEN AT"]
    (tmp_path / "align" / "s3" / "align" / "bbaf2n.align").unlink()
    with pytest.raises(DataError, match=r"has no bbaf2n.align of speaker s3"):
        opened(tmp_path, "grid", "test")
    (tmp_path / "broken.align").write_text("0 bin\n")
    with pytest.raises(DataError, match=r"each line should be 'start end word'"):
        aligned_text(tmp_path / "broken.align")


def test_lrs_reads_the_text_beside_the_clip_and_is_split_by_seed_where_it_has_no_split(tmp_path):
    for number in range(4):
        array(tmp_path / "speaker" / f"{number}.npy")
        (tmp_path / "speaker" / f"{number}.txt").write_text(f"Text:  WORD {'ABCD'[number]}\nConf:  5\n")
    found = texts(opened(tmp_path, "lrs", "train")) + texts(opened(tmp_path, "lrs", "test"))
    assert sorted(found) == [f"WORD {letter}" for letter in "ABCD"] and len(opened(tmp_path, "lrs", "test")) == 2
    with pytest.raises(ConfigError, match=r"test_share=0.9 leaves 4 of 4"):
        opened(tmp_path, "lrs", "test", test_share=0.9)
    (tmp_path / "speaker" / "0.txt").write_text("hello")
    with pytest.raises(DataError, match=r"0.txt should begin with 'Text:"):
        opened(tmp_path, "lrs", "all")


def test_lists_name_clips_and_texts(tmp_path):
    array(tmp_path / "clips" / "1.npy")
    (tmp_path / "train.csv").write_text("clips/1.npy,zhong guo\n")
    assert texts(opened(tmp_path, "list", "train")) == ["ZHONG GUO"]
    (tmp_path / "test.csv").write_text("clips/2.npy,zhong\n")
    with pytest.raises(DataError, match=r"test.csv, line 1: expected 'path,text'"):
        opened(tmp_path, "list", "test")


def test_what_is_wrong_with_a_folder_of_clips_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"'gird' is no layout of clips; did you mean 'grid'"):
        opened(tmp_path, "gird", "train")
    with pytest.raises(ConfigError, match=r"needs data.path"):
        opened("", "grid", "train")
    with pytest.raises(DataError, match=r"holds no .align files"):
        opened(tmp_path, "grid", "train")
    array(tmp_path / "CAFÉ" / "train" / "1.npy")
    with pytest.raises(DataError, match=r"'É' is not in the vocabulary"):
        opened(tmp_path, "lrw", "train")


def test_batches_hold_clips_their_lengths_and_texts_and_unreadable_ones_are_skipped(tmp_path):
    for number, frames in enumerate((3, 5)):
        array(tmp_path / "A" / "train" / f"{number}.npy", frames)
    (tmp_path / "A" / "train" / "2.npy").write_bytes(b"no")
    stream = EvalStream(opened(tmp_path, "lrw", "train"), batch_size=3, image=Clip((6, 10, 12)), workers=0, corrupt="skip")
    batch = next(iter(stream))
    assert batch["clip"].shape == (3, 6, 10, 12, 3) and batch["length"].tolist()[:2] == [3, 5] and batch["text"].shape == (3, 40)
    assert batch["valid"].tolist() == [True, True, False] and list(stream.skipped) == [str(tmp_path / "A" / "train" / "2.npy")]


def test_clips_to_predict_are_found_below_a_folder(tmp_path):
    array(tmp_path / "x" / "a.npy")
    pictures(tmp_path / "y")
    assert clips_source(tmp_path, ()).paths == (tmp_path / "x" / "a.npy", tmp_path / "y")
    assert isinstance(clips_source(tmp_path / "y", ()), ClipSource) and len(clips_source(tmp_path / "y", ())) == 1
    (tmp_path / "z").mkdir()
    with pytest.raises(DataError, match=r"z holds no clips"):
        clips_source(tmp_path / "z", ())

"""Videos as sequences of features: a folder train/ and test/ of .npz files, one a video, with `features` (T, D) and `label` (T,).

Shorter videos are padded with zeros to the longest of their split's folder and of the other's; `shown` says where a video is, and labels behind its
end are -1, as are those of frames that nobody labelled. All of it is in memory, 4 bytes x D a frame.
"""

import pathlib
import zipfile

import numpy as np

from jaxvision.data.source import ArraySource
from jaxvision.errors import ConfigError, DataError, nearest

SPLITS = ("train", "test")


def read_video(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(features (T, D) float32, labels (T,) int32) of one file. Raises DataError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            features, label = file["features"].astype(np.float32), file["label"].astype(np.int32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a video's features: {error}; it needs the arrays 'features' (T, D) and 'label' (T,)") from error
    if features.ndim != 2 or label.shape != features.shape[:1] or not len(label):
        raise DataError(f"{path} holds features {features.shape} and label {label.shape}; they should be (T, D) and (T,)")
    return features, label


def open_sequences(path: str | None, split: str) -> ArraySource:
    """The videos of a split: features (N, T, D) float32, label (N, T) int32, shown (N, T) bool; classes are named by number.

    Raises ConfigError for an unknown split, DataError where files are absent, damaged, or of different widths.
    """
    folder = pathlib.Path(path or "")
    if split not in SPLITS:
        raise ConfigError(f"a folder of features has no split {split!r}; {nearest(split, SPLITS)}")
    files = {name: sorted((folder / name).glob("*.npz")) for name in SPLITS}
    if not path or not all(files.values()):
        raise DataError(f"data.path {str(path)!r} should hold train/ and test/ with a .npz a video; found {sum(map(len, files.values()))} files")
    videos = {name: [read_video(file) for file in found] for name, found in files.items()}
    every = [video for found in videos.values() for video in found]
    widths = sorted({features.shape[1] for features, _ in every})
    if len(widths) > 1:
        raise DataError(f"the videos in {folder} have features of different widths: {', '.join(map(str, widths))}")
    longest, classes = max(len(label) for _, label in every), 1 + max(int(label.max()) for _, label in every)
    mine = videos[split]
    columns = {
        "features": np.stack([np.pad(features, ((0, longest - len(features)), (0, 0))) for features, _ in mine]),
        "label": np.stack([np.pad(label, (0, longest - len(label)), constant_values=-1) for _, label in mine]),
        "shown": np.stack([np.arange(longest) < len(label) for _, label in mine]),
    }
    return ArraySource(f"{folder.name}/{split}", columns, tuple(str(k) for k in range(classes)))

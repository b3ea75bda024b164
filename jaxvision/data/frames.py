"""Files of several frames: animated pictures (GIF, WebP, APNG, TIFF) by Pillow, videos by PyAV, arrays, and folders of numbered pictures."""

import pathlib
import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from jaxvision.data.decode import why
from jaxvision.data.folder import EXTENSIONS
from jaxvision.data.source import Unreadable
from jaxvision.errors import DataError

DAMAGE = (OSError, ValueError, SyntaxError, EOFError)
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg")
ANIMATED = (".gif", ".webp", ".apng")


def frames(path: pathlib.Path, channels: int) -> Iterator[UInt8[np.ndarray, "h w c"]]:
    """The frames of a file, one for a plain picture, with 1 or 3 channels.

    Raises one of DAMAGE for a damaged file, DataError for a video where PyAV is not installed.
    """
    from PIL import Image, ImageSequence

    if path.suffix.lower() in VIDEOS:
        yield from _video_frames(path, channels)
        return
    with Image.open(path) as picture:
        for frame in ImageSequence.Iterator(picture):
            pixels = np.asarray(frame.convert("L" if channels == 1 else "RGB"))
            yield pixels[..., None] if channels == 1 else pixels


def _video_frames(path: pathlib.Path, channels: int) -> Iterator[UInt8[np.ndarray, "h w c"]]:
    try:
        import av
    except ImportError:
        raise DataError(f"{path} is a video, which PyAV reads: pip install 'jaxvision[video]', or give its frames as pictures") from None
    try:
        with av.open(str(path)) as video:
            for frame in video.decode(video=0):
                pixels = frame.to_ndarray(format="gray" if channels == 1 else "rgb24")
                yield pixels[..., None] if channels == 1 else pixels
    except av.FFmpegError as error:
        raise OSError(error.strerror or str(error)) from error


def is_clip(path: pathlib.Path) -> bool:
    """A video, an animated picture or an array by its name, or a folder of pictures."""
    if path.is_dir():
        return any(entry.suffix.lower() in EXTENSIONS for entry in path.iterdir())
    return path.is_file() and path.suffix.lower() in (*VIDEOS, *ANIMATED, ".npy")


def read_clip(path: pathlib.Path) -> UInt8[np.ndarray, "t h w c"]:
    """All frames of a clip, see `is_clip`, those of a folder in the order of the numbers in their names. Grey only where a .npy is (T, H, W).

    Raises Unreadable: damaged, empty, frames of different sizes, an array that is not uint8; DataError: a video where PyAV is not installed.
    """
    try:
        if path.is_dir():
            files = sorted((entry for entry in path.iterdir() if entry.suffix.lower() in EXTENSIONS), key=_number)
            found = [frame for file in files for frame in frames(file, 3)]
        elif path.suffix.lower() == ".npy":
            array = np.load(path, allow_pickle=False)
            if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] not in (1, 3)):
                raise ValueError(f"an array {array.dtype} {array.shape}; a clip is uint8 (frames, height, width) or (…, 1 or 3)")
            found = list(array[..., None] if array.ndim == 3 else array)
        else:
            found = list(frames(path, 3))
    except DAMAGE as error:
        raise Unreadable(f"{path} cannot be read as a clip: {why(error)}") from error
    sizes = sorted({frame.shape for frame in found})
    if len(sizes) != 1:
        raise Unreadable(f"{path} has " + (f"frames of different sizes, {sizes[0]} and {sizes[1]}" if sizes else "no frames"))
    return np.stack(found)


def _number(path: pathlib.Path) -> tuple[int, str]:
    """Frames are numbered with and without leading zeros."""
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)

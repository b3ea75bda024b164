"""Restoration of pictures of any size in constant device memory: a picture is cut into overlapping tiles of one shape, each is restored, and the
parts that are far enough from the tiles' edges are laid side by side. A file of several frames (GIF, WebP, APNG, TIFF, and videos, by PyAV) is
restored frame by frame. With task.whole a picture is given to the network as it is.

With an overlap of at least twice the network's reach the result is that of the whole picture: tiles at its border end where it ends.
"""

import functools
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Num, UInt8

from jaxvision.data.decode import why
from jaxvision.data.frames import DAMAGE, frames
from jaxvision.train.feed import pack, to_mesh
from jaxvision.train.mesh import batch_sharding, batch_shards
from jaxvision.train.predictions import picture_names, write_image
from jaxvision.train.setup import Executables


class Span(NamedTuple):
    """A tile along one axis: pixels start..start+tile are read, start+first..start+last are kept."""

    start: int
    first: int
    last: int


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Tiles that cover `length` >= `tile` pixels, each pixel kept once; at least `overlap` // 2 pixels lie between what is kept and an inner edge."""
    count = 1 + max(0, -(-(length - tile) // (tile - overlap)))
    starts = [round(i * (length - tile) / max(1, count - 1)) for i in range(count)]
    cuts = [0, *((a + tile + b) // 2 for a, b in itertools.pairwise(starts)), length]
    return [Span(start, low - start, high - start) for start, low, high in zip(starts, cuts, cuts[1:])]


Run = Callable[[Num[np.ndarray, "b t t c"], Int[np.ndarray, "b 2"]], np.ndarray]


def restore_picture(
    run: Run, image: Num[np.ndarray, "h w c"], *, tile: int, overlap: int, scale: int, batch: int
) -> UInt8[np.ndarray, "p q c"]:
    """The picture restored tile by tile.

    Args:
      image: uint8, or floats in 0..1.
      run: restores a batch of tiles of `tile` x `tile` pixels with the places of their corners, to floats in 0..1 that are `scale` times as large.
      batch: tiles a call.
    """
    height, width = image.shape[:2]
    padded = np.pad(image, [(0, max(0, tile - height)), (0, max(0, tile - width)), (0, 0)], mode="edge")
    places = [(y, x) for y in spans(padded.shape[0], tile, overlap) for x in spans(padded.shape[1], tile, overlap)]
    whole = None
    for begin in range(0, len(places), batch):
        chosen = places[begin : begin + batch]
        tiles = [padded[y.start : y.start + tile, x.start : x.start + tile] for y, x in chosen]
        corners = [(y.start, x.start) for y, x in chosen]
        missing = batch - len(tiles)
        made = run(np.stack(tiles + tiles[-1:] * missing), np.asarray(corners + corners[-1:] * missing, np.int32))
        if whole is None:
            whole = np.zeros((padded.shape[0] * scale, padded.shape[1] * scale, made.shape[-1]), np.uint8)
        for (y, x), pixels in zip(chosen, made):
            rows, columns = (slice(scale * span.first, scale * span.last) for span in (y, x))
            to = tuple(slice(scale * (span.start + span.first), scale * (span.start + span.last)) for span in (y, x))
            whole[to] = eight_bits(pixels[rows, columns])
    return whole[: height * scale, : width * scale]


def eight_bits(pixels: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """0..1 clipped and rounded to 0..255."""
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def picture_restorer(executables: Executables, carry: Any, frozen: Any) -> Callable[[Num[np.ndarray, "h w c"]], UInt8[np.ndarray, "p q c"]]:
    """A function that restores one picture of any size, uint8 or floats in 0..1: in tiles, or as a whole where the task says so."""
    task = executables.setup.task
    run, batch = tile_runner(executables, carry, frozen)
    if not task.whole:
        return functools.partial(restore_picture, run, tile=task.tile, overlap=task.overlap, scale=task.scale, batch=batch)
    # Every device is given the same picture.
    return lambda image: eight_bits(run(np.stack([image] * batch), np.zeros((batch, 2), np.int32))[0])


def tile_runner(executables: Executables, carry: Any, frozen: Any) -> tuple[Callable, int]:
    """(run, batch) for `restore_picture`: a function of host arrays, sharded over the mesh, and the number of tiles that it takes."""
    setup, count = executables.setup, batch_shards(executables.setup.mesh)
    sharding, rows = batch_sharding(setup.mesh), count // jax.process_count()
    first = jax.process_index() * rows

    def run(tiles, corners):
        own, index = slice(first, first + rows), np.arange(first, first + rows, dtype=np.int32)
        arrays, layout = pack({"image": tiles[own], "corner": corners[own], "index": index, "valid": np.ones(rows, bool)})
        return np.asarray(jax.device_get(executables.predict(carry, frozen, to_mesh(arrays, sharding), layout)["image"]))

    return run, count


def restore_files(
    executables: Executables, carry: Any, frozen: Any, names: Sequence[str], folder: pathlib.Path, report: Callable[[str], None]
) -> list[pathlib.Path]:
    """Writes every picture restored as folder/images/<name>.png, frames as <name>/00001.png, …; returns the files written.

    A file that cannot be read is reported and left out.
    """
    restore = picture_restorer(executables, carry, frozen)
    written = []
    for name, target in zip(names, picture_names([pathlib.PurePath(name).name if pathlib.PurePath(name).is_absolute() else name for name in names])):
        path = folder / "images" / target
        try:
            number, waiting = 0, None
            for number, frame in enumerate(frames(pathlib.Path(name), executables.setup.problem.channels), 1):
                made = restore(frame)
                if jax.process_index():
                    continue
                # The first frame waits for a second one: only then is the file known to be several pictures.
                if number == 1:
                    waiting = made
                    continue
                if waiting is not None:
                    written.append(_write(path.with_suffix("") / "00001.png", waiting))
                    waiting = None
                written.append(_write(path.with_suffix("") / f"{number:05d}.png", made))
            if waiting is not None:
                written.append(_write(path, waiting))
        except DAMAGE as error:
            report(f"{name} cannot be read{f' beyond frame {number}' if number else ''} and is left out: {why(error)}")
    return written


def _write(path: pathlib.Path, pixels: np.ndarray) -> pathlib.Path:
    write_image(path, pixels)
    return path

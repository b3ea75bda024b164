"""What `--mode=predict` writes: class probabilities and texts as CSV, pictures and masks as PNG, boxes as COCO-like JSON, anything else as npz.

Each file is written whole or not at all.
"""

import csv
import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer, Num, UInt8

from jaxvision.errors import DataError
from jaxvision.tasks.detect.pictures import annotate
from jaxvision.tasks.segment.pictures import voc_palette
from jaxvision.tasks.text.vocabulary import decode
from jaxvision.train.writers import replace_file


def _class_name(classes: Sequence[str] | None, index: int) -> str:
    return str(index) if classes is None else str(classes[index])


def write_csv(
    path: str | os.PathLike, files: Sequence[str], probabilities: Float[np.ndarray, "n k"], classes: Sequence[str] | None = None, top: int = 5
) -> None:
    """Columns file,top1,p1,…,top5,p5: the names of the `top` most probable classes (all of them when there are fewer) and their probabilities,
    most probable first, equal ones in the order of the classes."""
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or len(probabilities) != len(files) or (classes is not None and len(classes) != probabilities.shape[1]):
        names = "no" if classes is None else len(classes)
        raise DataError(f"probabilities {probabilities.shape} do not fit {len(files)} files and {names} class names")
    top = min(top, probabilities.shape[1])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", *(f"{column}{rank}" for rank in range(1, top + 1) for column in ("top", "p"))])
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    for file, row, best in zip(files, probabilities, order):
        table.writerow([file, *(cell for index in best for cell in (_class_name(classes, index), f"{row[index]:.6f}"))])
    replace_file(path, text.getvalue().encode())


def write_texts(path: str | os.PathLike, files: Sequence[str], texts: Sequence[str], scores: Float[np.ndarray, "n"]) -> None:
    """Columns file,text,score."""
    table = csv.writer(text := io.StringIO(), lineterminator="\n")
    table.writerow(["file", "text", "score"])
    table.writerows([file, words, f"{score:.6f}"] for file, words, score in zip(files, texts, scores, strict=True))
    replace_file(path, text.getvalue().encode())


def picture_names(files: Sequence[str]) -> list[str]:
    """A PNG name for each file, sub-folders kept: "a/b.jpg" becomes "a/b.png", and "a/b.jpg.png" where "a/b" has several endings."""
    stems = [str(pathlib.PurePath(file).with_suffix("")) for file in files]
    several = {stem for stem in stems if stems.count(stem) > 1} if len(set(stems)) < len(stems) else set()
    return [f"{file}.png" if stem in several else f"{stem}.png" for file, stem in zip(files, stems)]


def write_image(path: str | os.PathLike, image: UInt8[np.ndarray, "h w c"] | Float[np.ndarray, "h w c"]) -> None:
    """A PNG of an image of 1, 3 or 4 channels: uint8, or floats whose 0..1 are rounded to 0..255 and clipped."""
    from PIL import Image

    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
        raise DataError(f"{path}: an image is (height, width, 1, 3 or 4), this one is {image.shape}")
    if image.dtype != np.uint8:
        image = np.round(np.clip(image.astype(np.float64), 0, 1) * 255).astype(np.uint8)
    _save_png(path, Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image))


def write_mask(path: str | os.PathLike, mask: Integer[np.ndarray, "h w"]) -> None:
    """A PNG whose pixels ARE the class numbers: with a palette, so that viewers show them in colours, up to 256 classes; 16-bit grey beyond."""
    from PIL import Image

    mask = np.asarray(mask)
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer) or mask.min(initial=0) < 0 or mask.max(initial=0) > 65535:
        raise DataError(f"{path}: a mask is (height, width) of class numbers 0..65535, this one is {mask.dtype} {mask.shape}")
    if mask.max(initial=0) > 255:
        return _save_png(path, Image.fromarray(mask.astype(np.uint16)))
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(voc_palette().ravel().tolist())
    _save_png(path, picture)


def _save_png(path: str | os.PathLike, picture) -> None:
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    replace_file(path, buffer.getvalue())


def write_boxes(
    path: str | os.PathLike,
    files: Sequence[str],
    boxes: Sequence[Float[np.ndarray, "n 4"]],
    labels: Sequence[Integer[np.ndarray, "n"]],
    scores: Sequence[Float[np.ndarray, "n"]],
    classes: Sequence[str] | None = None,
    sizes: Integer[np.ndarray, "images 2"] | None = None,
) -> None:
    """JSON as COCO's: `images` (with height and width where `sizes` are given), `categories`, and `annotations` with bbox = [x, y, width, height]
    in pixels and `score`, best first in each image. Ids of images, categories and annotations count from 1: category_id is the class's place + 1.

    Args:
      boxes: yxyx in pixels, one array an image; `labels` and `scores` likewise.
    """
    images, annotations = [], []
    seen = 0
    for i, file in enumerate(files):
        images.append({"id": i + 1, "file_name": str(file)})
        if sizes is not None:
            images[-1] |= {"height": int(sizes[i][0]), "width": int(sizes[i][1])}
        for n in np.argsort(-np.asarray(scores[i], np.float64), kind="stable"):
            top, left, bottom, right = (round(float(edge), 3) for edge in boxes[i][n])
            seen = max(seen, int(labels[i][n]) + 1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": int(labels[i][n]) + 1,
                    "bbox": [left, top, round(right - left, 3), round(bottom - top, 3)],
                    "score": round(float(scores[i][n]), 6),
                }
            )
    number = seen if classes is None else len(classes)
    if seen > number:
        raise DataError(f"{path}: a box of class {seen - 1}, but there are {number} class names")
    categories = [{"id": index + 1, "name": _class_name(classes, index)} for index in range(number)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    replace_file(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, Num[np.ndarray, "..."]]) -> None:
    """A compressed .npz of named arrays."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    replace_file(path, buffer.getvalue())


def write_annotated(path: str | os.PathLike, file: str | os.PathLike, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, names) -> None:
    """A PNG of the picture in `file` with its boxes drawn, yxyx in its pixels."""
    from PIL import Image

    with Image.open(file) as picture:
        write_image(path, annotate(np.asarray(picture.convert("RGB")), boxes, labels, scores, names))


class Predictions:
    """Writes the outputs of a task's `predict` into a folder, batch by batch; tables appear at `close`.

    By output: `probabilities` (B,K) → predictions.csv; `image` (B,H,W,C) → images/*.png; `mask` (B,H,W) → masks/*.png; `boxes` (B,N,4) with
    `box_label`, `box_score` and, where rows are padded, `box_valid` → boxes.json (`size` (B,2) gives its heights and widths); `text` (B,L),
    numbers of symbols that the classes name, with `score` (B,) → texts.csv; the rest →
    outputs.npz, beside the names of the files. Also a context manager that closes when nothing was raised.

    Args:
      folder: made where absent.
      files: the names of all inputs, relative to the input folder, in any order.
      classes: names of the classes, or None for their numbers.
      drawn: `files` are paths of pictures, and boxes are drawn into copies of them, boxes/*.png.
    """

    def __init__(self, folder: str | os.PathLike, files: Sequence[str], classes: Sequence[str] | None = None, drawn: bool = False):
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._classes, self._drawn = classes, drawn
        # Below the folder that all have in common where they are whole paths, so that nothing is written beside the inputs.
        common = os.path.commonpath([os.path.dirname(file) for file in files]) if files and all(map(os.path.isabs, files)) else ""
        self._pictures = dict(zip(files, picture_names([os.path.relpath(file, common) if common else file for file in files])))
        self._files: list[str] = []
        self._kept: dict[str, list[np.ndarray]] = {}
        self.written: list[pathlib.Path] = []

    def add(self, files: Sequence[str], outputs: Mapping[str, Num[np.ndarray, "batch ..."]], valid: Bool[np.ndarray, "batch"] | None = None) -> None:
        """Outputs of a batch whose rows are `files`; rows that are not `valid` (padding, names included) are left out."""
        rows = np.arange(len(files)) if valid is None else np.flatnonzero(valid)
        for name, values in outputs.items():
            values = np.asarray(values)
            for kind, folder, write in (("image", "images", write_image), ("mask", "masks", write_mask)):
                if name == kind:
                    for row in rows:
                        path = self._folder / folder / self._pictures[files[row]]
                        write(path, values[row])
                        self.written.append(path)
            if name not in ("image", "mask"):
                self._kept.setdefault(name, []).append(values[rows])
        self._files += [files[row] for row in rows]

    def close(self) -> None:
        """Writes the tables."""
        kept = {name: np.concatenate(batches) for name, batches in self._kept.items()}
        if "probabilities" in kept:
            write_csv(self._path("predictions.csv"), self._files, kept.pop("probabilities"), self._classes)
        if "text" in kept:
            texts = [decode(row, self._classes or ()) for row in kept.pop("text")]
            write_texts(self._path("texts.csv"), self._files, texts, kept.pop("score"))
        if "boxes" in kept:
            boxes, labels, scores = kept.pop("boxes"), kept.pop("box_label"), kept.pop("box_score")
            keep = kept.pop("box_valid", np.ones(labels.shape)).astype(bool)
            ragged = [[row[mask] for row, mask in zip(values, keep)] for values in (boxes, labels, scores)]
            write_boxes(self._path("boxes.json"), self._files, *ragged, self._classes, kept.pop("size", None))
            for file, *found in zip(self._files if self._drawn else (), *ragged):
                names = self._classes or [str(index) for index in range(int(found[1].max(initial=0)) + 1)]
                write_annotated(self._path(f"boxes/{self._pictures[file]}"), file, *found, names)
        if kept:
            write_arrays(self._path("outputs.npz"), {"files": np.asarray(self._files), **kept})

    def _path(self, name: str) -> pathlib.Path:
        self.written.append(self._folder / name)
        return self.written[-1]

    def __enter__(self) -> "Predictions":
        return self

    def __exit__(self, kind, *exception) -> None:
        if kind is None:
            self.close()

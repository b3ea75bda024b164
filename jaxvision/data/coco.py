"""Pictures with boxes, as COCO keeps them: one JSON file of images, categories and annotations, beside a folder of pictures.

    data/annotations/instances_train2017.json  data/train2017/000000000009.jpg …      data.train="train2017", data.test="val2017"
    data/annotations/pascal_trainval0712.json  data/images/…                          data.name="pascal_{}.json", data.train="trainval0712"
    data/train.json  data/train/…                                                     data.train="train"

A record has the encoded picture, `boxes` (N, 4) y0 x0 y1 x1 in its pixels, `box_label` (N,), `box_ignore` (N,), true of crowds and of what is marked
"ignore", and `box_area` (N,), the annotation's own, by which COCO tells small from large. Labels are the categories in the order of their ids.
"""

import json
import math
import os
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxvision.data.source import Unreadable
from jaxvision.errors import ConfigError, DataError, nearest

# Where the annotations of a split are looked for, below data.path.
FILES = ("annotations/instances_{}.json", "annotations/{}.json", "{}.json", "{}/_annotations.coco.json")
FOLDERS = ("{}", "images/{}", "images", "JPEGImages", ".")


class BoxSource:
    """Pictures on disk with their boxes.

    Args:
      name: of the data, for the fingerprint.
      files: of the pictures.
      boxes: of each picture: {"boxes", "box_label", "box_ignore", "box_area"}.
      classes: names by label.
    """

    columns = None

    def __init__(self, name: str, files: Sequence[pathlib.Path], boxes: Sequence[Mapping[str, np.ndarray]], classes: Sequence[str]):
        self._files, self._boxes, self.classes = tuple(files), tuple(boxes), tuple(classes)
        sums = zlib.crc32(" ".join(file.name for file in files).encode())
        for row in boxes:
            sums = zlib.crc32(np.ascontiguousarray(row["boxes"]).tobytes() + row["box_label"].tobytes(), sums)
        self.fingerprint = f"{name}:{len(files)}:{sums:08x}"

    def __len__(self) -> int:
        return len(self._files)

    def name_of(self, i: int) -> str:
        return str(self._files[i])

    def record(self, i: int) -> dict[str, Any]:
        try:
            encoded = self._files[i].read_bytes()
        except OSError as error:
            raise Unreadable(f"{self._files[i]} cannot be read: {error.strerror}") from error
        return {"image": encoded, **self._boxes[i]}


def box_columns(boxes: Sequence, labels: Sequence[int], ignore: Sequence[bool], areas: Sequence[float]) -> dict[str, np.ndarray]:
    """The columns of one picture, of the right types also where it has no boxes."""
    return {
        "boxes": np.asarray(boxes, np.float32).reshape(-1, 4),
        "box_label": np.asarray(labels, np.int32),
        "box_ignore": np.asarray(ignore, bool),
        "box_area": np.asarray(areas, np.float32),
    }


def open_coco(path: str | None, split: str, name: str = "") -> BoxSource:
    """One split.

    Args:
      path: the folder that has it.
      split: its name, see FILES and FOLDERS.
      name: pattern of the file in annotations/, "pascal_{}.json", where it is none of FILES.

    Raises:
      ConfigError: no path. DataError, one line that says what is wrong where: no such file, broken JSON, an annotation of an unknown picture or
      category, a box that is none, a picture that is not there.
    """
    if not path:
        raise ConfigError("data.source 'coco' needs data.path, a folder with annotations/instances_<split>.json and the pictures in <split>/")
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"data.path {path!r} is not a folder")
    patterns = [f"annotations/{name}"] if name else FILES
    if "{}" not in patterns[0]:
        raise ConfigError(f"data.name={name!r} of data.source 'coco' is a file's name with {{}} where the split's goes: 'pascal_{{}}.json'")
    file = next((root / pattern.format(split) for pattern in patterns if (root / pattern.format(split)).is_file()), None)
    if file is None:
        there = sorted(entry.name for place in (root / "annotations", root) if place.is_dir() for entry in place.glob("*.json"))
        looked = ", ".join(pattern.format(split) for pattern in patterns)
        raise DataError(f"{root} has no annotations of {split!r} (looked for {looked}); {nearest(split, there)}")
    content = _read(file)
    classes, labels = _categories(content, file)
    images = _images(content, file)
    rows = _annotations(content, file, images, labels)
    folder = _folder(root, split, [image["file_name"] for image in images.values()], file)
    files = [folder / image["file_name"] for image in images.values()]
    return BoxSource(f"coco:{split}", files, [box_columns(*rows[key]) for key in images], classes)


def _read(file: pathlib.Path) -> dict[str, list]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file} is no JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{file} has no list {key!r}; COCO's files have images, annotations and categories")
        if bad := [i for i, row in enumerate(content[key]) if not isinstance(row, dict)]:
            raise DataError(f"{file}: {key}[{bad[0]}] is {content[key][bad[0]]!r}, and no object")
    if not content["images"]:
        raise DataError(f"{file} lists no images")
    return content


def _categories(content: Mapping[str, list], file: pathlib.Path) -> tuple[tuple[str, ...], dict[Any, int]]:
    """(names, {id: label}), in the order of ids."""
    for i, row in enumerate(content["categories"]):
        if "id" not in row or "name" not in row:
            raise DataError(f"{file}: categories[{i}] has no {'id' if 'id' not in row else 'name'}")
    rows = sorted(content["categories"], key=lambda row: row["id"])
    labels = {row["id"]: label for label, row in enumerate(rows)}
    if not rows:
        raise DataError(f"{file} has no categories")
    if len(labels) != len(rows):
        raise DataError(f"{file}: {len(rows)} categories have {len(labels)} different ids; each needs its own")
    return tuple(str(row["name"]) for row in rows), labels


def _images(content: Mapping[str, list], file: pathlib.Path) -> dict[Any, dict]:
    """{id: row}, in the order of ids."""
    for i, row in enumerate(content["images"]):
        if "id" not in row or not isinstance(row.get("file_name"), str):
            raise DataError(f"{file}: images[{i}] has no {'id' if 'id' not in row else 'file_name'}")
    images = {row["id"]: row for row in sorted(content["images"], key=lambda row: row["id"])}
    if len(images) != len(content["images"]):
        raise DataError(f"{file}: {len(content['images'])} images have {len(images)} different ids; each needs its own")
    return images


def _annotations(content: Mapping[str, list], file: pathlib.Path, images: Mapping[Any, dict], labels: Mapping[Any, int]) -> dict[Any, tuple]:
    """{image id: (boxes, labels, ignore, areas)}."""
    rows: dict[Any, tuple] = {key: ([], [], [], []) for key in images}
    for i, row in enumerate(content["annotations"]):
        where = f"{file}: annotations[{i}]" + (f" (id {row['id']})" if "id" in row else "")
        if row.get("image_id") not in images:
            raise DataError(f"{where} is of image_id {row.get('image_id')!r}, which images does not list")
        if row.get("category_id") not in labels:
            raise DataError(f"{where} is of category_id {row.get('category_id')!r}, which categories does not list")
        box = row.get("bbox")
        numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) and math.isfinite(v) for v in box)
        if not numbers or box[2] < 0 or box[3] < 0:
            raise DataError(f"{where} has the bbox {box!r}; four numbers x, y, width and height are wanted")
        boxes, classes, ignore, areas = rows[row["image_id"]]
        left, top, width, height = box
        boxes.append((top, left, top + height, left + width))
        classes.append(labels[row["category_id"]])
        ignore.append(bool(row.get("iscrowd", 0) or row.get("ignore", 0)))
        areas.append(row.get("area", width * height))
    return rows


def _folder(root: pathlib.Path, split: str, names: Sequence[str], file: pathlib.Path) -> pathlib.Path:
    """The folder of FOLDERS that has the first picture; all others have to be there too."""
    folders = [root / pattern.format(split) for pattern in FOLDERS]
    folder = next((place for place in folders if (place / names[0]).is_file()), None)
    if folder is None:
        looked = ", ".join(str(place) for place in folders)
        raise DataError(f"{file} lists {names[0]}, which is in none of {looked}")
    present = {place: set(os.listdir(folder / place)) for place in {os.path.dirname(name) for name in names} if (folder / place).is_dir()}
    absent = [name for name in names if os.path.basename(name) not in present.get(os.path.dirname(name), ())]
    if absent:
        raise DataError(f"{file} lists {absent[0]}, which is not in {folder}" + (f", nor are {len(absent) - 1} more" if absent[1:] else ""))
    return folder

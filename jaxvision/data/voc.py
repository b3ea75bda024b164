"""PASCAL VOC's boxes: one XML file a picture, lists of pictures, years that are joined by "+".

    VOCdevkit/VOC2007/{Annotations/000005.xml, ImageSets/Main/trainval.txt, JPEGImages/000005.jpg}  VOCdevkit/VOC2012/…
    data.path="VOCdevkit", data.train="2007/trainval+2012/trainval", data.test="2007/test"

Records are those of data/coco.py; objects marked difficult have `box_ignore`. VOC counts pixels from 1 and includes the last one, so that its xmin
and ymin become one less and xmax and ymax stay.
"""

import pathlib
import xml.etree.ElementTree as ElementTree

import numpy as np

from jaxvision.data.coco import BoxSource, box_columns
from jaxvision.errors import ConfigError, DataError, nearest

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike"),
    *("person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def open_voc(path: str | None, split: str) -> BoxSource:
    """One split, "2007/test" or several, "2007/trainval+2012/trainval", of the folder VOCdevkit.

    Raises ConfigError for a missing path or another form of the split, DataError, one line, for what is absent or broken.
    """
    if not path:
        raise ConfigError("data.source 'voc' needs data.path, the folder VOCdevkit that has VOC2007 and VOC2012")
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"data.path {path!r} is not a folder")
    files, rows = [], []
    for part in split.split("+"):
        year, slash, name = part.strip().partition("/")
        if not slash:
            raise ConfigError(f"data.source 'voc' has splits such as '2007/test' or '2007/trainval+2012/trainval', not {split!r}")
        place = root / f"VOC{year}"
        listed = place / "ImageSets" / "Main" / f"{name}.txt"
        if not listed.is_file():
            there = [f"{file.parents[2].name[3:]}/{file.stem}" for file in root.glob("VOC*/ImageSets/Main/*.txt")]
            raise DataError(f"{listed} is not there; {nearest(part.strip(), there)}")
        for line in listed.read_text().split("\n"):
            if words := line.split():
                files.append(place / "JPEGImages" / f"{words[0]}.jpg")
                rows.append(_annotation(place / "Annotations" / f"{words[0]}.xml"))
    if not files:
        raise DataError(f"the lists of {split!r} below {root} name no pictures")
    if absent := [file for file in files if not file.is_file()]:
        raise DataError(f"{absent[0]} is not there" + (f", nor are {len(absent) - 1} more pictures" if absent[1:] else ""))
    return BoxSource(f"voc:{split}", files, rows, CLASSES)


def _annotation(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        tree = ElementTree.fromstring(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except ElementTree.ParseError as error:
        raise DataError(f"{file} is no XML: {error}") from error
    boxes, labels, difficult, areas = [], [], [], []
    for number, row in enumerate(tree.iter("object")):
        name = (row.findtext("name") or "").strip()
        if name not in CLASSES:
            raise DataError(f"{file}: object {number} is a {name!r}, which is no class of VOC; {nearest(name, CLASSES)}")
        texts = [row.findtext(f"bndbox/{key}") for key in ("ymin", "xmin", "ymax", "xmax")]
        try:
            top, left, bottom, right = (float(text) for text in texts)
        except (TypeError, ValueError):
            raise DataError(f"{file}: object {number} has the box {texts}; numbers ymin, xmin, ymax and xmax are wanted") from None
        boxes.append((top - 1, left - 1, bottom, right))
        labels.append(CLASSES.index(name))
        difficult.append((row.findtext("difficult") or "0").strip() == "1")
        areas.append((bottom - top + 1) * (right - left + 1))
    return box_columns(boxes, labels, difficult, areas)

"""Colour photographs of the retina: standard preprocessing of real ones, folders of them graded and split by patient, and procedural ones.

A fundus camera shows a bright disc, the field of view, on black. Preprocessing finds it, cuts its bounding square and blackens what lies outside, so
that cameras with other borders give the same picture ("A ResNet is All You Need?", Castilla et al. 2022, arXiv 2210.03180, trains on such; it names
no details, so the threshold and the options here are ours). `subtract_local_average` is the common further step of Graham (Kaggle 2015).

The procedural pictures stand in for a data set where none may be downloaded: microaneurysms, haemorrhages and exudates make the grade, 0 (none) to 4
(proliferative), and each "camera" has its own tint, illumination and sharpness.
"""

import io
import pathlib
import re
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from jaxvision.data.decode import why
from jaxvision.data.folder import open_folder
from jaxvision.data.source import ArraySource, Source, Unreadable
from jaxvision.errors import ConfigError, DataError

GRADES = ("none", "mild", "moderate", "severe", "proliferative")
_STREAM = 5  # see order.py
# Share of the brightest channel's 99th percentile above which a pixel belongs to the field of view.
_THRESHOLD = 0.12


def field_of_view(image: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the bright disc's bounding box; all of the image where it has no dark border.

    A row or column belongs to it when at least 2 % of its pixels are bright in the red or green channel.
    """
    bright = image[..., :2].max(-1).astype(np.float32)
    inside = bright > _THRESHOLD * np.percentile(bright, 99)
    rows, columns = (np.flatnonzero(inside.mean(axis) > 0.02) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return 0, 0, *image.shape[:2]
    return int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def crop_field_of_view(image: UInt8[np.ndarray, "h w 3"], fill: int = 0) -> UInt8[np.ndarray, "s s 3"]:
    """The square around the field of view, padded where the photograph cuts the disc off; `fill` outside the disc."""
    top, left, height, width = field_of_view(image)
    side = max(height, width)
    square = np.full((side, side, 3), fill, np.uint8)
    y, x = (side - height) // 2, (side - width) // 2
    square[y : y + height, x : x + width] = image[top : top + height, left : left + width]
    rows = (np.arange(side) + 0.5 - side / 2)[:, None]
    columns = (np.arange(side) + 0.5 - side / 2)[None]
    square[rows**2 + columns**2 > (side / 2) ** 2] = fill
    return square


def subtract_local_average(image: UInt8[np.ndarray, "s s 3"]) -> UInt8[np.ndarray, "s s 3"]:
    """4 (image - blurred image) + 128 inside the field of view, 0 outside; the blur's deviation is a thirtieth of the radius (Graham 2015)."""
    side = image.shape[0]
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(side / 60)), np.float32)
    even = np.clip(np.round(4 * (image.astype(np.float32) - blurred) + 128), 0, 255).astype(np.uint8)
    even[~image.any(-1)] = 0
    return even


PREPARATIONS = {"field_of_view": crop_field_of_view, "local_average": lambda image: subtract_local_average(crop_field_of_view(image))}


def patient_of(name: str) -> str:
    """What comes before the eye in a file's name: "10_left.jpeg" and "10_right.jpeg" are one patient; any other name is a patient of its own."""
    stem = re.sub(r"\.\w+$", "", name.rsplit("/", 1)[-1])
    return re.sub(r"[_-](left|right|l|r|od|os)$", "", stem, flags=re.IGNORECASE)


class FundusFolder:
    """Photographs in folders by grade, prepared when they are read.

    Args:
      files: the folder's source.
      numbers: which of its files.
      prepare: a key of PREPARATIONS.

    Records have `image` (S, S, 3) uint8, `label`, and `patient`, a number that two eyes of one patient share.
    """

    columns = None

    def __init__(self, files: Source, numbers: np.ndarray, prepare: str):
        self.files, self.numbers, self.prepare, self.classes = files, np.asarray(numbers), prepare, files.classes
        names = [patient_of(files.name_of(int(i))) for i in self.numbers]
        self.patient = np.unique(names, return_inverse=True)[1].astype(np.int32)
        self.fingerprint = f"{files.fingerprint}[{len(names)}]:{prepare}"

    def __len__(self) -> int:
        return len(self.numbers)

    def record(self, i: int) -> dict[str, Any]:
        record = self.files.record(int(self.numbers[i]))
        try:
            image = np.asarray(Image.open(io.BytesIO(record["image"])).convert("RGB"))
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise Unreadable(f"{self.name_of(i)} cannot be decoded: {why(error)}") from error
        return {**record, "image": PREPARATIONS[self.prepare](image), "patient": self.patient[i]}

    def name_of(self, i: int) -> str:
        return self.files.name_of(int(self.numbers[i]))


def open_fundus_folder(path: str | None, split: str, test_share: float, seed: int, prepare: str = "field_of_view") -> FundusFolder:
    """A folder of graded photographs, in order of grade (sub-folders "0", "1", …, "4").

    With train/ and test/ folders these are the splits. Without, all photographs of a patient go to the same side: a patient whose two eyes, or two
    visits, lie on both sides would be recognized.

    Raises DataError for photographs without grades, ConfigError for an unknown preparation.
    """
    if prepare not in PREPARATIONS:
        raise ConfigError(f"data.name {prepare!r} is no preparation of fundus photographs; there are: {', '.join(PREPARATIONS)}")
    split_given = bool(path) and (pathlib.Path(path) / "train").is_dir()
    files = open_folder(path, split if split_given or split not in ("train", "test") else "all", test_share, seed)
    if not files.classes:
        raise DataError(f"{path} holds photographs without grades; expected a sub-folder a grade")
    whole = FundusFolder(files, np.arange(len(files)), prepare)
    if split_given or split == "all":
        return whole
    lots = np.random.PCG64(np.random.SeedSequence([seed, 2])).random_raw(int(whole.patient.max()) + 1)
    tested = np.zeros(len(lots), bool)
    tested[np.argsort(lots)[: round(test_share * len(lots))]] = True
    return FundusFolder(files, np.flatnonzero(tested[whole.patient] == (split == "test")), prepare)


# A camera: tint (red, green, blue), range of brightness, deviation of the blur in shares of the side. "c" lies outside the range of "a" and "b".
CAMERAS = {
    "a": ((0.95, 0.50, 0.25), (0.75, 0.95), 0.000),
    "b": ((0.80, 0.60, 0.40), (0.65, 0.90), 0.004),
    "c": ((1.00, 0.38, 0.12), (0.38, 0.58), 0.010),
}
# Least and most microaneurysms, haemorrhages, exudates and new vessels of each grade.
_LESIONS = (
    ((0, 0), (0, 0), (0, 0), (0, 0)),
    ((1, 3), (0, 0), (0, 0), (0, 0)),
    ((3, 7), (1, 3), (0, 3), (0, 0)),
    ((6, 12), (4, 8), (2, 6), (0, 0)),
    ((6, 12), (4, 10), (2, 8), (2, 4)),
)
_DENSE = 0.35, 0.12, 0.30, 0.15, 0.08  # share of each grade


def paint_fundus(seed: int, number: int, side: int, camera: str) -> dict[str, Any]:
    """One procedural photograph: image (side, side, 3) uint8, label int32 (the grade), patient int32 (two photographs each).

    A pure function of its arguments. Lesions are soft spots: dark red and small (microaneurysms), dark red and large (haemorrhages), yellow and
    bright (exudates); new vessels are short dark curls at the optic disc. The two eyes of a patient have one grade and one skin of the retina.
    """
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, _STREAM, sum(map(ord, camera)), number])))
    patient = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, _STREAM, sum(map(ord, camera)), number // 2, 1])))
    grade = int(patient.choice(len(GRADES), p=_DENSE))
    tint, brightness, blur = CAMERAS[camera]
    y, x = np.meshgrid(*(2 * (np.arange(side, dtype=np.float32) + 0.5) / side - 1,) * 2, indexing="ij")
    radius = np.hypot(y, x)
    slope, fall = random.uniform(-0.15, 0.15, 2), random.uniform(0.1, 0.35)
    light = random.uniform(*brightness) * (1 - fall * radius**2 + slope[0] * y + slope[1] * x)
    colour = np.asarray(tint) * patient.uniform(0.9, 1.1, 3)
    image = light[..., None] * colour

    def spot(cy, cx, size, towards, strength):
        # Only the window that the spot reaches is touched.
        window = tuple(slice(*np.clip(np.round((np.array([-1.5, 1.5]) * size + c + 1) * side / 2 + [-1, 1]), 0, side).astype(int)) for c in (cy, cx))
        weight = np.clip(1.5 - np.hypot(y[window] - cy, x[window] - cx) / size, 0, 1)[..., None] * strength
        image[window] = image[window] * (1 - weight) + light[window][..., None] * np.asarray(towards, np.float32) * weight

    eye = 1 if number % 2 else -1
    disc = (random.uniform(-0.05, 0.05), eye * random.uniform(0.4, 0.5))
    spot(*disc, 0.14, (1.1, 0.9, 0.55), 0.9)
    spot(random.uniform(-0.05, 0.05), -eye * 0.15, 0.2, colour * 0.6, 0.5)
    dark = colour * np.array([0.65, 0.35, 0.4])
    for branch in range(6):
        angle, bend = random.uniform(-0.6, 0.6) + np.pi * (branch % 2) + np.pi / 2, random.uniform(-1.2, 1.2)
        py, px = disc
        for step in range(14):
            heading = angle + bend * step / 14
            py, px = py + 0.07 * np.sin(heading), px + 0.07 * np.cos(heading)
            if np.hypot(py, px) < 0.95:
                spot(py, px, 0.025, dark, 0.6)
    sizes = ((0.03, 0.045), (0.07, 0.12), (0.05, 0.09), (0.04, 0.05))
    looks = (colour * np.array([0.6, 0.25, 0.3]), colour * np.array([0.45, 0.2, 0.25]), np.array([1.1, 1.0, 0.45]), dark)
    for (least, most), (small, large), look, at_disc in zip(_LESIONS[grade], sizes, looks, (False, False, False, True)):
        for _ in range(random.randint(least, most + 1)):
            angle, distance = random.uniform(0, 2 * np.pi), random.uniform(0.05, 0.2) if at_disc else 0.85 * np.sqrt(random.uniform(0, 1))
            cy, cx = (disc[0], disc[1]) if at_disc else (0.0, 0.0)
            spot(cy + distance * np.sin(angle), cx + distance * np.cos(angle), random.uniform(small, large), look, random.uniform(0.6, 0.95))
    image = np.clip(np.round(255 * image + random.normal(0, 3, image.shape)), 0, 255).astype(np.uint8)
    if blur:
        image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(blur * side)))
    image = np.where((radius <= 1)[..., None], image, 0).astype(np.uint8)
    return {"image": image, "label": np.int32(grade), "patient": np.int32(number // 2)}


def open_fundus(cameras: str, count: int, size: tuple[int, int], seed: int) -> ArraySource:
    """`count` procedural photographs of each of the cameras named ("a", "a+b"), or as many as a name says ("c:1000"), in memory, classes GRADES.

    Raises ConfigError for an unknown camera, a picture that is not square, or smaller than 32 pixels.
    """
    parts = [part.partition(":") for part in cameras.split("+")]
    if unknown := [name for name, colon, number in parts if name not in CAMERAS or (colon and not number.isdecimal())]:
        raise ConfigError(f"fundus has no camera {unknown[0]!r}; data.train and data.test take {', '.join(CAMERAS)}, as 'a+b' or 'a:100'")
    if count < 1 or len(size) != 2 or size[0] != size[1] or size[0] < 32:
        raise ConfigError(f"fundus cannot make {count} pictures of {'x'.join(map(str, size))}; they are square, of at least 32 pixels")
    paint = lambda camera, i: {**paint_fundus(seed, i, size[0], camera), "camera": camera}
    records = [paint(camera, i) for camera, _, number in parts for i in range(int(number or count))]
    columns = {key: np.stack([record[key] for record in records]) for key in ("image", "label")}
    patient = [f"{record['camera']}{record['patient']}" for record in records]
    columns["patient"] = np.unique(patient, return_inverse=True)[1].astype(np.int32)
    return ArraySource(f"fundus/{cameras}", columns, GRADES)

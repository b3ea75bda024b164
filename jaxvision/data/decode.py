"""From a record to arrays of one size: decode, crop and resize on the host, in uint8.

Training draws a random resized crop (Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842, section 6). A JPEG is decoded at 1/2, 1/4
or 1/8 of its size where the crop is then still at least as large as the target: an inverse DCT of fewer coefficients. Evaluation decodes in full,
resizes the shorter side to size / eval_crop and cuts the centre, exactly as timm and torchvision do, so that figures compare. Boxes, masks and the
clean picture of a pair (`target`) follow the same geometry. EXIF orientation is not applied, as it was not when the published weights were trained.
"""

import dataclasses
import io
import math
import struct
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxvision.data.source import ArraySource, Source, Unreadable
from jaxvision.errors import ConfigError, DataError, nearest

FILTERS = {name.lower(): getattr(Image.Resampling, name) for name in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS", "BOX", "HAMMING")}
# Of these a record also says where it shows the picture, so that boxes found in it can be given in the picture's own pixels.
PLACED = ("letterbox", "center_affine", "center_canvas")
CROPS = ("random_resized", "resize", "window", "none", *PLACED)
# CenterNet's (Zhou et al. 2019, arXiv 1904.07850): a training crop is so many times as large as what letterboxing shows, around a centre that lies
# at least so many pixels inside the picture (half of that, a quarter, … in small ones).
SCALES, BORDER = tuple(i / 10 for i in range(6, 14)), 128
_TRIES = 10
RANDOMS = 4 * _TRIES  # uniform numbers that one training crop may use
_fitted: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # source -> {Decode: columns}, so that each stream does not resize it anew
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)  # what Pillow raises for damaged files


@dataclasses.dataclass(frozen=True)
class Decode:
    """How a record becomes arrays.

    Attributes:
      image_size: (H, W) of the result in pixels.
      crop: "random_resized" (training; evaluation cuts the centre), "resize" (the whole picture, squeezed, in both),
        "window" (a random window in training, the central one in evaluation, at the picture's own resolution; smaller pictures are mirrored at their
        far edges), "none" (the size must fit), "letterbox" (the whole picture in its own proportions, black around it), "center_affine" (CenterNet's
        random scale and centre in training, black outside; evaluation letterboxes), "center_canvas" (the same, but evaluation at the picture's own
        resolution in the middle, shrunk only where it is larger).
      scale: smallest and largest share of the picture's area in a random crop.
      ratio: smallest and largest width / height of a random crop.
      interpolation: nearest, bilinear, bicubic, lanczos, box or hamming; all but nearest are antialiased.
      eval_crop: share of the shorter side that the centre crop keeps.
      channels: 1 or 3; grey, palette, CMYK, 16-bit and transparent pictures are converted. None: arrays in memory keep theirs, files become RGB.
      max_boxes: boxes are padded to this number (with `box_valid` false), where a source has a different number per picture.
    """

    image_size: tuple[int, int]
    crop: str = "random_resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    eval_crop: float = 0.875
    channels: int | None = 3
    max_boxes: int | None = None

    def __post_init__(self):
        for field in ("image_size", "scale", "ratio"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ConfigError(f"image_size is {self.image_size}; pictures need (height, width) of at least 1")
        if self.crop not in CROPS:
            raise ConfigError(f"data.crop {self.crop!r} is unknown; {nearest(self.crop, CROPS)}")
        if self.crop in PLACED and self.interpolation not in ("nearest", "bilinear", "bicubic"):
            raise ConfigError(f"data.crop={self.crop!r} takes data.interpolation 'bilinear', 'bicubic' or 'nearest', not {self.interpolation!r}")
        if self.interpolation not in FILTERS:
            raise ConfigError(f"data.interpolation {self.interpolation!r} is unknown; {nearest(self.interpolation, FILTERS)}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"data.scale is {self.scale}; it needs 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"data.ratio is {self.ratio}; it needs 0 < smallest <= largest")
        if not 0 < self.eval_crop <= 1:
            raise ConfigError(f"data.eval_crop is {self.eval_crop}; it must be above 0 and at most 1")
        if self.channels not in (None, 1, 3):
            raise ConfigError(f"pictures are decoded to 1 or 3 channels, or to None (their own), not {self.channels}")


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where the result lies in the picture: output pixel (i, j) shows the picture at (top + (i + 0.5) down, left + (j + 0.5) across)."""

    top: float
    left: float
    down: float
    across: float


def random_box(height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], randoms: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random resized crop; the centre, as much as `ratio` allows, when ten tries do not fit."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area, aspect, down, across in randoms.reshape(_TRIES, 4).tolist():
        target = height * width * (scale[0] + area * (scale[1] - scale[0]))
        aspect = math.exp(low + aspect * (high - low))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(down * (height - h + 1)), int(across * (width - w + 1)), h, w
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def placed(size: tuple[int, int], image: Decode, randoms: np.ndarray | None) -> Geometry:
    """Where the crops of PLACED lie in a picture of `size`, (height, width)."""
    (height, width), (H, W) = size, image.image_size
    unit, centre = max(height / H, width / W), (height / 2, width / 2)
    if randoms is not None and image.crop != "letterbox":
        unit *= SCALES[int(randoms[0] * len(SCALES))]
        # Half of the border as often as it leaves no room.
        borders = [next(BORDER >> i for i in range(9) if side > 2 * (BORDER >> i)) for side in size]
        centre = tuple(border + int(share * (side - 2 * border)) for side, border, share in zip(size, borders, randoms[1:3]))
    elif image.crop == "center_canvas":
        unit = max(unit, 1.0)
    return Geometry(centre[0] - unit * H / 2, centre[1] - unit * W / 2, unit, unit)


def _convert(picture: Image.Image, channels: int | None) -> Image.Image:
    mode = {1: "L", 3: "RGB", None: "RGB"}[channels]
    if picture.mode == mode:
        return picture
    if picture.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255 instead of scaling
        picture = Image.fromarray(np.clip(np.asarray(picture).astype(np.int32) >> 8, 0, 255).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("it holds floating-point pixels")
    elif picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert(mode)


def _open(image: Any) -> Image.Image:
    if isinstance(image, bytes | bytearray | memoryview):
        return Image.open(io.BytesIO(image))
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise DataError(f"a decoded picture of shape {array.shape} and type {array.dtype} cannot be resized; expected uint8 with 1, 3 or 4 channels")
    return Image.fromarray(array)


def why(error: Exception) -> str:
    """What is wrong with a picture's bytes; Pillow names the object that holds them, which tells nobody anything."""
    return "not a picture of a known format" if isinstance(error, UnidentifiedImageError) else str(error)


def picture_size(image: bytes, name: str) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone. Raises Unreadable."""
    try:
        picture = Image.open(io.BytesIO(image))
    except _DAMAGE as error:
        raise Unreadable(f"{name} cannot be decoded: {why(error)}") from error
    return picture.height, picture.width


def decode_coarsely(picture: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    """Has an opened, not yet decoded JPEG decoded at the coarsest of 1, 1/2, 1/4, 1/8 at which the crop `box` is not below `size`, (H, W).

    Other formats stay as they are.
    """
    _, _, h, w = box
    picture.draft(None, (math.ceil(picture.width * size[1] / w), math.ceil(picture.height * size[0] / h)))


def _training(picture: Image.Image, image: Decode, box: tuple[int, int, int, int], draft: bool) -> np.ndarray:
    """Crop `box` = (top, left, height, width) and resize it, decoding a JPEG no finer than that needs."""
    top, left, h, w = box
    height, width = picture.height, picture.width
    if draft:
        decode_coarsely(picture, box, image.image_size)
    y, x = picture.height / height, picture.width / width
    corners = (left * x, top * y, min((left + w) * x, picture.width), min((top + h) * y, picture.height))
    # Cut first: `resize` with a box alone would let the filter reach over the edges of the crop.
    around = (math.floor(corners[0]), math.floor(corners[1]), math.ceil(corners[2]), math.ceil(corners[3]))
    inner = (corners[0] - around[0], corners[1] - around[1], corners[2] - around[0], corners[3] - around[1])
    picture = _convert(picture.crop(around), image.channels)
    return np.asarray(picture.resize(image.image_size[::-1], FILTERS[image.interpolation], box=inner))


def decode(record: Mapping[str, Any], image: Decode, name: str, randoms: np.ndarray | None = None, *, draft: bool = True) -> dict[str, Any]:
    """The record with `image` (H, W, C) uint8 of `image.image_size`, and mask and boxes where it has them.

    Args:
      record: `image` encoded (bytes) or decoded (uint8, (H, W) or (H, W, C)); optional `target` likewise; optional
        `mask` (H, W) integers, or an encoded picture; optional `boxes` (N, 4) y0 x0 y1 x1 in pixels with `box_label` (N,), `box_valid` (N,) and
        other columns named `box_…`, which are padded alike; anything else passes. Crops of PLACED add `place` (4,), the picture's row and column at
        the result's upper left corner and the picture's pixels to one of the result, down and across; and `size` (2,), its height and width.
      name: for errors.
      randoms: `RANDOMS` uniform numbers in training; None in evaluation.
      draft: decode JPEGs at a fraction of their size in training where that is enough.

    Raises:
      Unreadable: the picture is damaged or of no known format, or its target has another size.
      DataError: its size is not image_size and the crop is "none", or mask and picture differ in size.
    """
    record = dict(record)
    record["image"], where, size = _cut(record["image"], image, name, randoms, draft)
    if image.crop in PLACED:
        record["place"], record["size"] = np.array(dataclasses.astuple(where), np.float32), np.array(size, np.int32)
    if "target" in record:
        record["target"], _, other = _cut(record["target"], image, f"the target of {name}", randoms, draft)
        if other != size:
            raise Unreadable(f"{name} is {size[0]}x{size[1]}, but its target {other[0]}x{other[1]}; a pair has one size")
    if "mask" in record:
        record["mask"] = _mask(record["mask"], size, image.image_size, where, name)
    if "boxes" in record:
        record.update(_boxes(record, image, where, name))
    return record


def _cut(encoded: Any, image: Decode, name: str, randoms: np.ndarray | None, draft: bool) -> tuple[np.ndarray, Geometry, tuple[int, int]]:
    """(pixels (H, W, C), where they lie in the picture, the picture's (height, width)). Arguments and errors as `decode`'s."""
    H, W = image.image_size
    try:
        picture = _open(encoded)
        height, width = picture.height, picture.width
        if image.crop == "none" and (height, width) != (H, W):
            raise DataError(f"{name} is {height}x{width}, but image_size is {H}x{W}; data.crop='resize' would resize it")
        if image.crop == "random_resized" and randoms is None:
            factor = max(math.floor(H / image.eval_crop) / height, math.floor(W / image.eval_crop) / width)
            rows, columns = (max(full, int(side * factor + 1e-6)) for side, full in ((height, H), (width, W)))
            top, left = round((rows - H) / 2), round((columns - W) / 2)
            where = Geometry(top * height / rows, left * width / columns, height / rows, width / columns)
            # All of it is resized and then cut: the other way round a pixel in a thousand is off by one from what timm sees.
            resized = _convert(picture, image.channels).resize((columns, rows), FILTERS[image.interpolation])
            pixels = np.asarray(resized.crop((left, top, left + W, top + H)))
        elif image.crop == "window":
            down, across = (0.5, 0.5) if randoms is None else randoms[:2]
            top, left = int(down * (max(0, height - H) + 1)), int(across * (max(0, width - W) + 1))
            pixels = np.asarray(_convert(picture, image.channels).crop((left, top, min(left + W, width), min(top + H, height))))
            missing = [(0, H - pixels.shape[0]), (0, W - pixels.shape[1])] + [(0, 0)] * (pixels.ndim - 2)
            pixels = np.pad(pixels, missing, mode="symmetric")
            where = Geometry(top, left, 1.0, 1.0)
        elif image.crop in PLACED:
            where = placed((height, width), image, randoms)
            # Of the four nearest pixels however much it shrinks, as the published code warps.
            matrix = (where.across, 0, where.left, 0, where.down, where.top)
            converted = _convert(picture, image.channels)
            pixels = np.asarray(converted.transform((W, H), Image.Transform.AFFINE, matrix, resample=FILTERS[image.interpolation]))
        else:
            box = random_box(height, width, image.scale, image.ratio, randoms) if image.crop == "random_resized" else (0, 0, height, width)
            pixels = _training(picture, image, box, draft and randoms is not None)
            where = Geometry(box[0], box[1], box[2] / H, box[3] / W)
    except _DAMAGE as error:
        raise Unreadable(f"{name} cannot be decoded: {why(error)}") from error
    return (pixels[..., None] if pixels.ndim == 2 else pixels), where, (height, width)


def _mask(mask: Any, size: tuple[int, int], target: tuple[int, int], where: Geometry, name: str) -> np.ndarray:
    if isinstance(mask, bytes):
        try:
            mask = np.asarray(Image.open(io.BytesIO(mask)))
        except _DAMAGE as error:
            raise Unreadable(f"the mask of {name} cannot be decoded: {why(error)}") from error
    mask = np.asarray(mask)
    if mask.ndim == 3 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    if mask.shape != size:
        raise DataError(f"the mask of {name} has shape {mask.shape}, but its picture {size}")
    rows = np.clip((where.top + (np.arange(target[0]) + 0.5) * where.down).astype(int), 0, size[0] - 1)
    columns = np.clip((where.left + (np.arange(target[1]) + 0.5) * where.across).astype(int), 0, size[1] - 1)
    return mask[rows[:, None], columns].astype(np.int32)


def _boxes(record: Mapping[str, Any], image: Decode, where: Geometry, name: str) -> dict[str, np.ndarray]:
    """Boxes in pixels of the result, cut at its edges; one of which less than a pixel is left either way (nothing, of PLACED) becomes invalid."""
    boxes = np.asarray(record["boxes"], np.float32).reshape(-1, 4)
    count = len(boxes)
    columns = {key: np.asarray(value) for key, value in record.items() if key.startswith("box_")}
    valid = np.asarray(columns.pop("box_valid", np.ones(count, bool)), bool)
    columns["box_label"] = np.asarray(columns.get("box_label", np.zeros(count)), np.int32)
    shift, unit = np.array([where.top, where.left] * 2), np.array([where.down, where.across] * 2)
    limit = np.array([*image.image_size] * 2)
    boxes = np.clip((boxes - shift) / unit, 0, limit).astype(np.float32)
    least = 1e-3 if image.crop in PLACED else 1
    columns |= {"boxes": boxes, "box_valid": valid & (boxes[:, 2] - boxes[:, 0] >= least) & (boxes[:, 3] - boxes[:, 1] >= least)}
    if (most := image.max_boxes) is not None and most != count:
        if count > most and columns["box_valid"][most:].any():
            order = np.argsort(~columns["box_valid"], kind="stable")
            columns = {key: value[order] for key, value in columns.items()}
            if columns["box_valid"][most:].any():
                raise DataError(f"{name} has {int(columns['box_valid'].sum())} boxes, more than data.max_boxes = {most}")
        missing = max(0, most - count)
        columns = {key: np.concatenate([value[:most], np.zeros((missing, *value.shape[1:]), value.dtype)]) for key, value in columns.items()}
    return columns


def fit_columns(source: Source, image: Decode) -> dict[str, np.ndarray]:
    """The columns of a source in memory at `image_size` and `channels`: untouched where they fit, resized once where `crop` is "resize".

    Crops are not drawn here: pictures in memory are small, and shifts, flips and crops of them happen in the step.

    Raises:
      DataError: pictures of another size, and crop is not "resize"; or channels that cannot be converted.
    """
    if "image" not in source.columns:
        return dict(source.columns)
    fitted = _fitted.setdefault(source, {})
    if image not in fitted:
        fitted[image] = _fit(source, image)
    return fitted[image]


def _fit(source: Source, image: Decode) -> dict[str, np.ndarray]:
    columns = dict(source.columns)
    size, channels = columns["image"].shape[1:-1], columns["image"].shape[-1]
    if size != image.image_size:
        if image.crop != "resize":
            raise DataError(
                f"the pictures of {source.name_of(0)} … are {'x'.join(map(str, size))}, but image_size is {'x'.join(map(str, image.image_size))}; "
                f"set image_size={size} or data.crop='resize'"
            )
    elif image.channels in (None, channels):
        return columns
    elif (channels, image.channels) == (1, 3):
        return columns | {"image": np.repeat(columns["image"], 3, axis=-1)}
    whole = dataclasses.replace(image, crop="resize", channels=image.channels or channels)
    records = [decode(source.record(i), whole, source.name_of(i)) for i in range(len(source))]
    return ArraySource("resized", {key: np.stack([record[key] for record in records]) for key in records[0]}, source.classes).columns

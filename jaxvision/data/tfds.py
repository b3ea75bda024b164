"""Datasets of tensorflow_datasets by `tfds.data_source`'s machinery: ArrayRecord files, random access, no TensorFlow to read them.

A dataset must have been prepared with `file_format="array_record"`; nothing is downloaded here. Pictures stay encoded, so that JPEGs can be decoded
at a fraction of their size. (tfds reads its metadata through `importlib_resources` and decodes with Pillow; both are requirements of this package.)
"""

import pathlib
import zlib
from typing import Any

import numpy as np

from jaxvision.data.source import Unreadable
from jaxvision.errors import ConfigError, DataError, nearest

_IMAGES, _LABELS, _MASKS = ("image", "hr"), ("label", "labels"), ("segmentation_mask", "mask")


def _how_to_prepare(name: str, path: str | None) -> str:
    folder = f", data_dir={str(path)!r}" if path else ""
    return (
        f"prepare it once: python -c \"import tensorflow_datasets as tfds; tfds.builder({name!r}{folder}, file_format='array_record')"
        '.download_and_prepare()" (some datasets need tensorflow installed for that; reading does not)'
    )


def _builder(name: str, path: str | None) -> Any:
    import tensorflow_datasets as tfds

    if path and (pathlib.Path(path) / "dataset_info.json").is_file():
        return tfds.builder_from_directory(path)
    if not name:
        raise ConfigError("data.source 'tfds' needs data.name, 'imagenet2012' for one, or data.path with a dataset_info.json in it")
    try:
        builder = tfds.builder(name, data_dir=path or None)
    except tfds.core.DatasetNotFoundError as error:
        raise DataError(f"data.name {name!r} is no dataset of tfds and is not prepared in {path or 'its default folder'}; "
                        f"{nearest(name, tfds.list_builders(with_community_datasets=False))}") from error
    except (ValueError, AssertionError, ImportError, OSError) as error:
        raise DataError(f"data.name {name!r} cannot be opened by tfds: {str(error).splitlines()[0]}") from error
    if not builder.is_prepared():
        raise DataError(f"dataset {name!r} is not prepared in {builder.data_dir}; {_how_to_prepare(name, path)}")
    return builder


class TfdsSource:
    """Examples of one split of a prepared dataset."""

    columns = None

    def __init__(self, name: str, path: str | None, split: str):
        import tensorflow_datasets as tfds

        builder = _builder(name, path)
        features = builder.info.features
        images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
        self._image = next((key for key in (*_IMAGES, *images) if key in images), None)
        if self._image is None:
            raise DataError(f"dataset {builder.info.full_name} has no image; its features are {', '.join(features)}")
        self._mask = next((key for key in _MASKS if key in images), None)
        labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
        self._label = next((key for key in (*_LABELS, *labels) if key in labels), None)
        self._boxes = "objects" in features and "bbox" in getattr(features["objects"], "feature", ())
        self.classes = tuple(features[self._label].names) if self._label else ()
        skip = {key: tfds.decode.SkipDecoding() for key in (self._image, self._mask) if key}
        try:
            self._records = builder.as_data_source(split, decoders=skip)
        except NotImplementedError as error:
            stored = f"prepared in {builder.data_dir} as {builder.info.file_format.value}, which has no random access"
            raise DataError(f"dataset {builder.info.full_name} is {stored}; {_how_to_prepare(name, 'a/new/folder')}") from error
        except (ValueError, KeyError) as error:
            raise ConfigError(f"dataset {builder.info.full_name} has no split {split!r}; {nearest(split, builder.info.splits)}") from error
        self._name = f"{builder.info.full_name}/{split}"
        shards = " ".join(str(builder.info.splits[key].shard_lengths) for key in builder.info.splits)
        self.fingerprint = f"tfds:{self._name}:{len(self._records)}:{zlib.crc32(shards.encode()):08x}"

    def __len__(self) -> int:
        return len(self._records)

    def name_of(self, i: int) -> str:
        return f"{self._name}[{i}]"

    def record(self, i: int) -> dict[str, Any]:
        try:
            example = self._records[int(i)]
        except (RuntimeError, ValueError, OSError) as error:
            raise Unreadable(f"{self.name_of(i)} cannot be read: {error}") from error
        record = {"image": example[self._image]}
        if self._label:
            record["label"] = np.int32(example[self._label])
        if self._mask:
            record["mask"] = example[self._mask]
        if self._boxes:
            record |= self._objects(i, record["image"], example["objects"])
        return record

    def _objects(self, i: int, image: bytes, objects: dict[str, Any]) -> dict[str, np.ndarray]:
        """tfds gives boxes as shares of the height and width; ours are pixels, so the size is read from the picture's header."""
        from jaxvision.data.decode import picture_size

        height, width = picture_size(image, self.name_of(i))
        boxes = np.asarray(objects["bbox"], np.float32).reshape(-1, 4) * np.array([height, width] * 2, np.float32)
        columns = {"boxes": boxes, "box_label": np.asarray(objects.get("label", np.zeros(len(boxes))), np.int32).reshape(-1)}
        if ignored := [objects[key] for key in ("is_crowd", "is_difficult") if key in objects]:  # COCO's and VOC's
            columns["box_ignore"] = np.asarray(ignored[0], bool).reshape(-1)
        if "area" in objects:
            columns["box_area"] = np.asarray(objects["area"], np.float32).reshape(-1)
        return columns


def open_tfds(name: str, path: str | None, split: str) -> TfdsSource:
    """One split ("train", "train[:90%]", …) of the dataset `name` ("imagenet2012", "cifar10:3.0.2") prepared in `path`, by default tfds's own folder.

    image encoded; label int32 and `classes` where the dataset has a ClassLabel; `mask` from segmentation_mask; boxes in pixels from `objects`.

    Raises:
      DataError: unknown, or not prepared as ArrayRecord: says how to prepare it. ConfigError: no such split.
    """
    return TfdsSource(name, path, split)

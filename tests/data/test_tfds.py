"""A tiny dataset is prepared by tfds itself in ArrayRecord format, and read back, all without TensorFlow."""

import io
import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

import jaxvision.data as data
from jaxvision.data import Decode, EvalStream
from jaxvision.errors import ConfigError, DataError


def encoded(array, form):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form)
    file.seek(0)
    return file


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    import tensorflow_datasets as tfds

    class TinyScenes(tfds.core.GeneratorBasedBuilder):
        """Grey pictures with a mask and up to two boxes."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            scene = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                "file_name": tfds.features.Text(),
                "segmentation_mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                "objects": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(num_classes=5)}),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(scene))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(6), "validation": self._generate_examples(3)}

        def _generate_examples(self, count):
            for i in range(count):
                box = {"bbox": tfds.features.BBox(0.25, 0.5, 0.75, 1.0), "label": 4}
                yield i, {
                    "image": encoded(np.full((20, 40, 3), 40 * i, np.uint8), "PNG"),
                    "label": i % 2,
                    "file_name": f"{i}.png",
                    "segmentation_mask": encoded(np.full((20, 40), i, np.uint8), "PNG"),
                    "objects": [box] * (i % 3),
                }

    folder = tmp_path_factory.mktemp("tfds")
    TinyScenes(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_a_prepared_dataset_is_read_with_labels_masks_and_boxes(prepared):
    config = {"source": "tfds", "name": "tiny_scenes", "path": str(prepared), "test": "validation"}
    source, test = (data.open_source(config, split, seed=0) for split in ("train", "test"))
    assert (len(source), len(test)) == (6, 3) and source.classes == ("cat", "dog")
    assert source.fingerprint != test.fingerprint and source.name_of(2) == "tiny_scenes/1.0.0/train[2]"
    stream = EvalStream(source, batch_size=6, image=Decode((10, 20), crop="resize", max_boxes=2), workers=0)
    (batch,) = list(stream)
    stream.close()
    number = batch["image"][:, 0, 0, 0] // 40  # tfds shuffles as it writes
    np.testing.assert_array_equal(np.sort(number), np.arange(6))
    np.testing.assert_array_equal(batch["label"], number % 2)
    np.testing.assert_array_equal(batch["mask"], np.broadcast_to(number[:, None, None], (6, 10, 20)))
    np.testing.assert_array_equal(batch["box_valid"].sum(axis=1), number % 3)
    np.testing.assert_allclose(batch["boxes"][batch["box_valid"]], [[2.5, 10, 7.5, 20]] * 6)
    assert (batch["box_label"][batch["box_valid"]] == 4).all()


def test_slices_of_splits_and_the_folder_of_the_dataset_itself_work(prepared):
    config = {"source": "tfds", "path": str(prepared / "tiny_scenes" / "1.0.0"), "train": "train[:50%]"}
    source = data.open_source(config, "train", seed=0)
    assert len(source) == 3
    assert pickle.loads(pickle.dumps(source)).record(1)["image"] == source.record(1)["image"]


def test_an_absent_dataset_is_answered_with_how_to_prepare_it(prepared, tmp_path):
    def says(pattern, kind=DataError, split="train", **config):
        with pytest.raises(kind, match=pattern) as caught:
            data.open_source({"source": "tfds", **config}, split, seed=0)
        assert "\n" not in str(caught.value)

    says(r"'imagenet2012' is not prepared in .*tfds.builder\('imagenet2012', data_dir=.*file_format='array_record'\).download_and_prepare\(\)",
         name="imagenet2012", path=str(tmp_path))
    says(r"'imagnet2012' is no dataset of tfds.*did you mean 'imagenet2012", name="imagnet2012", path=str(tmp_path))
    says("needs data.name", ConfigError)
    says("has no split 'valid'; did you mean 'validation'", ConfigError, split="valid", name="tiny_scenes", path=str(prepared))


def test_reading_needs_no_tensorflow(prepared):
    code = textwrap.dedent(
        f"""
        import importlib.machinery, sys
        find = importlib.machinery.PathFinder.find_spec
        absent = classmethod(lambda cls, name, *rest: None if name.split(".")[0] == "tensorflow" else find(name, *rest))
        importlib.machinery.PathFinder.find_spec = absent  # as if it were not installed
        import jaxvision.data as data
        source = data.open_source({{"source": "tfds", "name": "tiny_scenes", "path": {str(prepared)!r}}}, "train", seed=0)
        print(len(source), sorted(source.record(1)))
        """
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "TFDS_DATA_DIR": ""})
    assert run.stdout.strip() == "6 ['box_label', 'boxes', 'image', 'label', 'mask']", run.stderr[-2000:]

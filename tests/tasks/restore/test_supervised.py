import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from jaxvision import fit
from jaxvision.augment.degrade import quantize
from jaxvision.augment.ycbcr import luma, rgb_to_ycbcr
from jaxvision.data.photos import photographs
from jaxvision.errors import ConfigError
from jaxvision.nn.resize import bicubic
from jaxvision.tasks import make_task
from jaxvision.tasks.base import Problem
from jaxvision.tasks.restore import quality
from jaxvision.tasks.restore.supervised import LOSSES
from jaxvision.train.config import complete
from jaxvision.train.modes import measure, predict


def config(**task):
    return complete(
        {
            "steps": 2,
            "batch_size": 4,
            "image_size": (96, 96),
            "eval_every": 100,
            "eval_batch_size": 30,
            "writers": ("jsonl",),
            "compilation_cache": "",
            "mesh": {"data": 1},
            "model": {"name": "espcn_y_x2", "widths": (8, 4)},
            "data": {"source": "photos", "size": (96, 96), "channels": 3},
            "task": {"name": "restore/supervised", "color": "y", "loss": "l2", "patch": 24, "tile": 32, "overlap": 8, **task},
            "optim": {"name": "adam", "lr": 1e-3},
            "checkpoint": {"metric": "test/psnr_y"},
        }
    )


def problem(channels=3):
    return Problem(classes=(), channels=channels, train_size=100, total_steps=2, steps_per_epoch=25.0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "restore"
    return workdir, fit(config(), workdir, report=lambda line: None)


def test_the_damaged_pictures_are_measured_beside_the_restored_ones(finished):
    metrics = finished[1]
    assert {"test/psnr_y", "test/ssim_y", "test/psnr", "test/input_psnr_y", "test/input_ssim_y"} <= metrics.keys()
    figures = []
    for picture in photographs("test").values():
        whole = jnp.asarray(picture, jnp.float32) / 255
        for y in range(0, picture.shape[0] - 95, 96):
            for x in range(0, picture.shape[1] - 95, 96):
                clean = whole[None, y : y + 96, x : x + 96]
                enlarged = bicubic(quantize(bicubic(clean, (48, 48))), (96, 96))
                a, b = (np.asarray(luma(quantize(image)))[0, 2:-2, 2:-2] for image in (enlarged, clean))
                figures.append(-10 * np.log10(np.square(a - b).mean()))
    assert metrics["test/input_psnr_y"] == pytest.approx(np.mean(figures), abs=1e-3)


def test_sheets_of_before_and_after_are_written_while_it_trains(finished):
    with Image.open(finished[0] / "pictures" / "00000002.png") as sheet:
        assert sheet.width > 3 * 112 and sheet.height > 6 * 112


def test_prediction_writes_the_restored_photograph_at_its_own_size_and_frames_one_by_one(finished, tmp_path):
    rng = np.random.RandomState(0)
    pictures = [Image.fromarray(rng.randint(0, 256, (37, 50, 3)).astype(np.uint8)) for _ in range(2)]
    folder = tmp_path / "in"
    folder.mkdir()
    pictures[0].save(folder / "photo.png")
    pictures[0].save(folder / "clip.tiff", save_all=True, append_images=pictures[1:])
    (folder / "zbroken.png").write_bytes(b"no picture")
    lines = []
    written = predict(None, finished[0], folder, output=tmp_path / "out", report=lines.append)
    assert sorted(str(path.relative_to(tmp_path / "out" / "images")) for path in written) == ["clip/00001.png", "clip/00002.png", "photo.png"]
    for path in written:
        with Image.open(path) as picture:
            assert picture.size == (100, 74)
    np.testing.assert_array_equal(*(np.asarray(Image.open(tmp_path / "out" / "images" / name)) for name in ("photo.png", "clip/00001.png")))
    assert any("zbroken.png" in line for line in lines) and "3 inputs, 3 pictures ->" in lines[-1]


def test_whole_pictures_of_unequal_sizes_are_measured_each(finished, tmp_path):
    rng, lines = np.random.RandomState(0), []
    (tmp_path / "low").mkdir()
    clean = {}
    for name, size in {"a": (37, 50), "b": (61, 44)}.items():
        pixels = np.asarray(Image.fromarray(rng.randint(0, 256, (6, 7, 3)).astype(np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC))
        (tmp_path / "clean").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "clean" / f"{name}.png")
        clean[name] = jnp.float32(pixels[None, : size[0] // 2 * 2, : size[1] // 2 * 2]) / 255
        low = quantize(bicubic(clean[name], (size[0] // 2, size[1] // 2)))[0]
        Image.fromarray(np.uint8(np.round(255 * low))).save(tmp_path / "low" / f"{name}.png")
    (tmp_path / "clean" / "broken.png").write_bytes(b"no picture")
    means = measure(None, finished[0], tmp_path / "clean", output=tmp_path / "out", report=lines.append)
    header, *rows = (line.split(",") for line in (tmp_path / "out" / "pictures.csv").read_text().splitlines())
    assert header[:3] == ["file", "psnr_y", "ssim_y"] and [row[0][-5:] for row in rows] == ["a.png", "b.png"]
    assert means["psnr_y"] == pytest.approx(np.mean([float(row[1]) for row in rows]), abs=1e-3)
    assert any("broken.png cannot be read" in line for line in lines) and "2 pictures" in lines[-1]
    # The same pictures, damaged here and restored by prediction.
    predict(None, finished[0], tmp_path / "low", output=tmp_path / "made", report=lines.append)
    for row, (name, truth) in zip(rows, clean.items()):
        made = jnp.float32(np.asarray(Image.open(tmp_path / "made" / "images" / f"{name}.png")))[None] / 255
        figures = [quality.psnr(*(quality.comparable(x, border=2, luma_only=True) for x in (image, truth)))[0] for image in (made, truth)]
        assert float(row[1]) == pytest.approx(float(figures[0]), abs=1e-3) and figures[1] == quality.HIGHEST


def test_luma_is_restored_by_the_network_and_chroma_by_interpolation():
    task = make_task(config(), problem())
    low = jnp.asarray(np.random.RandomState(0).uniform(size=(1, 8, 10, 3)), jnp.float32)
    variables = task.init_variables(jax.random.key(0), {"image": jax.ShapeDtypeStruct((4, 96, 96, 3), jnp.uint8)})
    made = rgb_to_ycbcr(task.restore(variables, low))
    planes = rgb_to_ycbcr(low)
    np.testing.assert_allclose(made[..., 1:], bicubic(planes[..., 1:], (16, 20)), atol=1e-5)
    np.testing.assert_allclose(made[..., :1], task.model.apply(variables, planes[..., :1]), atol=1e-5)


def test_pairs_are_aligned_and_evaluation_draws_by_example():
    task = make_task(config(), problem())
    image = np.random.RandomState(0).randint(0, 256, (4, 96, 96, 3)).astype(np.uint8)
    batch = {"image": jnp.asarray(image), "index": jnp.arange(4), "valid": jnp.ones(4, bool)}
    made = task.prepare(batch, jax.random.key(1), train=True)
    assert made["clean"].shape == (4, 24, 24, 3) and made["image"].shape == (4, 12, 12, 3)
    np.testing.assert_allclose(made["image"], quantize(bicubic(made["clean"], (12, 12))), atol=1e-6)
    noisy = make_task(config(degrade=("bicubic", ("noise", 0.1))), problem())
    whole = noisy.prepare(batch, jax.random.key(1), train=False)["image"]
    half = noisy.prepare({name: value[2:] for name, value in batch.items()}, jax.random.key(1), train=False)["image"]
    np.testing.assert_allclose(whole[2:], half, atol=1e-6)


def of_pairs(**task):
    made = config(color="rgb", patch=8, **task).to_dict()
    return complete({**made, "image_size": (16, 16), "model": {"name": "espcn_rgb_x2", "scale": 1, "widths": (8, 4)}})


def test_given_pairs_are_cut_turned_and_mixed_together():
    rng = np.random.RandomState(0)
    damaged = rng.randint(0, 256, (6, 16, 16, 3)).astype(np.uint8)
    batch = {"image": jnp.asarray(damaged), "target": jnp.asarray(255 - damaged), "index": jnp.arange(6), "valid": jnp.ones(6, bool)}
    task = make_task(of_pairs(mixup=1.2, mixup_from=1), problem())
    assert task.mixup_from == 25
    plain = task.prepare(dict(batch), jax.random.key(1), train=True)
    np.testing.assert_allclose(plain["image"], 1 - plain["clean"], atol=1e-6)
    assert plain["image"].shape == (6, 8, 8, 3)
    mixed = task.prepare({**batch, "mixes": jnp.ones(6, bool)}, jax.random.key(1), train=True)
    np.testing.assert_allclose(mixed["image"], 1 - mixed["clean"], atol=1e-6)
    # Each example lies between itself and one other: a share that serves all its pixels.
    found = 0
    for i, image in enumerate(np.asarray(mixed["image"])):
        for other in np.asarray(plain["image"]):
            line, offset = np.asarray(plain["image"][i]) - other, image - other
            share = (line * offset).sum() / max((line * line).sum(), 1e-9)
            found += np.abs(offset - share * line).max() < 1e-5 and 1e-3 < share < 1
    assert found >= 4
    np.testing.assert_allclose(task.prepare(dict(batch), jax.random.key(1), train=False)["image"], np.float32(damaged) / 255, atol=1e-6)


def test_a_folder_of_pairs_is_learned_and_measured(tmp_path):
    rng = np.random.RandomState(0)
    clean = rng.randint(0, 256, (4, 16, 16, 3))
    for name, offset in (("input", 20), ("target", 0)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i, pixels in enumerate(clean):
            Image.fromarray(np.uint8(np.clip(pixels + offset, 0, 255))).save(tmp_path / "data" / name / f"{i}.png")
    run = of_pairs(mixup=1.2, mixup_from=0, metrics=("psnr",), whole=True).to_dict()
    run["data"] |= {"source": "paired", "path": str(tmp_path / "data"), "crop": "window", "test_share": 0.5, "workers": 0}
    lines = []
    metrics = fit(complete({**run, "steps": 1, "batch_size": 2, "eval_batch_size": 2, "log_every": 1}), tmp_path / "run", report=lines.append)
    assert 22 < metrics["test/input_psnr"] < 23 and metrics["test/psnr"] < 15
    means = measure(None, tmp_path / "run", tmp_path / "data", report=lines.append)
    assert 22 < means["input_psnr"] < 23 and means["psnr"] < 15 and (tmp_path / "run" / "pictures.csv").is_file()
    with pytest.raises(ConfigError, match="give a folder of pairs"):
        measure(None, tmp_path / "run", tmp_path / "data" / "target", report=lines.append)


@pytest.mark.parametrize("settings, named", [({"degrade": (("noise", 0.1),)}, "leave it out"), ({}, "scale 2 wants clean ones")])
def test_a_source_of_pairs_is_not_damaged_again_nor_enlarged(settings, named):
    task = make_task(of_pairs(**settings) if settings else config(color="rgb", patch=8), problem())
    image = jnp.zeros((2, 16, 16, 3), jnp.uint8)
    with pytest.raises(ConfigError, match=named):
        task.prepare({"image": image, "target": image, "index": jnp.arange(2), "valid": jnp.ones(2, bool)}, jax.random.key(0), train=True)


@pytest.mark.parametrize("name, at_two", [("charbonnier", 1.0), ("clipped_charbonnier", 0.0)])
def test_a_pixel_beyond_the_range_has_no_gradient_where_the_loss_clips(name, at_two):
    slope = jax.grad(lambda made: LOSSES[name](made, jnp.float32(0.5)))
    assert slope(jnp.float32(2.0)) == pytest.approx(at_two, abs=1e-5)
    assert slope(jnp.float32(0.501)) == pytest.approx(np.sqrt(0.5), abs=1e-3)


class TwoSizes(nn.Module):
    """A network that restores at half and at full size."""

    def setup(self):
        self.shift = self.param("shift", nn.initializers.zeros, ())

    def __call__(self, image, *, train=False):
        return image + self.shift

    def outputs(self, image, *, train=False):
        return image[:, ::2, ::2] + self.shift, image + self.shift


def test_pictures_of_all_sizes_are_compared_and_spectra_beside_pixels():
    settings = {"color": "rgb", "patch": None, "dihedral": False, "degrade": (("noise", 0.0),), "frequency": 0.1}
    task = make_task(complete({**of_pairs().to_dict(), "task": {**of_pairs().task.to_dict(), **settings}}), problem())
    task.model, task.method = TwoSizes(), "outputs"
    image = jnp.full((2, 8, 12, 3), 0.25)
    batch = {"image": image, "clean": image, "weight": jnp.ones(2)}
    value, aux = task.loss({"shift": jnp.float32(0.5)}, {}, {}, batch, jax.random.key(0), static=None, train=True)
    # A constant's spectrum is one number, the sum of its pixels: over as many frequencies as pixels that is the constant; half of it is real part.
    assert float(value) == pytest.approx(2 * (0.5**2 + 0.1 * 0.25), rel=1e-5)
    assert float(aux["metrics"]["psnr"]) == pytest.approx(-20 * np.log10(0.5), abs=1e-3)
    with pytest.raises(ConfigError, match="espcn_y_x2 restores one"):
        make_task(config(supervise="outputs"), problem())


def test_a_frechet_distance_is_taken_over_the_whole_split():
    section = {"features": {"model": "vit_tiny_patch16_224", "source": "weights.safetensors"}}
    task = make_task(complete({**config().to_dict(), "frozen": section, "task": {**config(metrics=("fid",)).task.to_dict()}}), problem())
    rng = np.random.RandomState(0)
    rows = {"features": rng.standard_normal((30, 4)), "clean_features": rng.standard_normal((30, 4)) + 1}
    assert task.summarize({"test": rows}, ()) == {"fid": quality.frechet_distance(rows["features"], rows["clean_features"])}


@pytest.mark.parametrize(
    "task, named",
    [
        ({"pach": 24}, "'patch'"),
        ({"color": "yuv"}, "'y'"),
        ({"loss": "l3"}, "'l2'"),
        ({"metrics": ("psnr_z",)}, "'psnr_y'"),
        ({"metrics": ("lpips",)}, r"frozen\.lpips\.model"),
        ({"patch": 25}, "multiple of the scale 2"),
        ({"patch": 128}, "at most image_size"),
        ({"tile": 16, "overlap": 8}, "more than twice"),
        ({"degrade": ()}, "exactly one step"),
    ],
)
def test_a_task_that_cannot_be_is_one_line(task, named):
    with pytest.raises(ConfigError, match=named):
        make_task(config(**task), problem())


def test_figures_of_whole_pictures_pool_the_errors_of_their_windows():
    rows = {"picture": np.asarray([0, 0, 1]), "error": np.asarray([1e-2, 3e-2, 1e-4]), "input_error": np.asarray([1e-2, 1e-2, 1e-2])}
    figures = make_task(config(), problem()).summarize({"test": rows}, ())
    assert figures["picture_psnr_y"] == pytest.approx((-10 * np.log10(2e-2) + 40) / 2)
    assert figures["input_picture_psnr_y"] == pytest.approx(20)

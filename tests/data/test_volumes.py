"""Scans come in one orientation, spacing and scale from every layout, and masks go back to where the scans lie."""

import json

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from jaxvision.data.cases import find_cases
from jaxvision.data.scans import as_file, prepare, read_mask, read_scan, resample, write_nifti
from jaxvision.data.source import Unreadable
from jaxvision.data.volumes import open_volumes, sample_volumes, volumes_source
from jaxvision.errors import ConfigError, DataError

RAS = np.diag([0.75, 1.0, 2.5, 1.0])


def ramp(shape=(6, 8, 5)):
    """A file's voxels (i, j, k) in RAS, each telling its place: 100 right + 10 front + head, in voxels."""
    i, j, k = np.indices(shape)
    return (100 * i + 10 * j + k).astype(np.int16)


def save(path, array, codes="RAS", affine=RAS):
    """As a file whose own axes run along `codes`."""
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape)), path)
    return path


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "PIL"])
def test_every_orientation_gives_one_volume_and_masks_go_back_voxel_by_voxel(tmp_path, codes):
    scan = read_scan(save(tmp_path / "x.nii.gz", ramp(), codes))
    assert scan.volume.shape == (5, 8, 6, 1) and scan.spacing == (2.5, 1.0, 0.75)
    np.testing.assert_array_equal(scan.volume[..., 0], ramp().transpose(2, 1, 0))
    mask = (np.arange(240).reshape(5, 8, 6) % 7).astype(np.uint8)
    write_nifti(tmp_path / "mask.nii.gz", as_file(mask, scan), scan.affine)
    ours, theirs = nibabel.load(tmp_path / "mask.nii.gz"), nibabel.load(tmp_path / "x.nii.gz")
    assert ours.shape == theirs.shape and np.allclose(ours.affine, theirs.affine)
    np.testing.assert_array_equal(nibabel.as_closest_canonical(ours).get_fdata(), mask.transpose(2, 1, 0))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", scan), mask)


def test_spacing_is_resampled_over_the_same_extent_and_back():
    i, j, k = np.indices((6, 8, 10)) + 0.5
    volume = (3 * i + 2 * j + k).astype(np.float32)[..., None]
    made = prepare(volume, (2.0, 1.0, 1.0), (1.0, 2.0, 0.5), "none")
    assert made.shape == (12, 4, 20, 1)
    d, h, w = np.indices((12, 4, 20)) + 0.5
    inner = (slice(4, 8), slice(1, 3), slice(8, 12))
    np.testing.assert_allclose(made[..., 0][inner], (3 * d / 2 + 2 * h * 2 + w / 2)[inner], atol=0.05)
    mask = np.zeros((12, 4, 20), np.uint8)
    mask[4:8, :2, 6:] = 3
    back = resample(mask, (6, 8, 10), 0)
    assert (back[2:4, :4, 3:] == 3).all() and np.count_nonzero(back) == 2 * 4 * 7


def test_intensities_are_cut_or_standardized():
    volume = np.random.RandomState(0).normal(40, 100, (4, 5, 6, 2)).astype(np.float32)
    volume[0] = -1000
    spacing = (1.0, 1.0, 1.0)
    cut = prepare(volume, spacing, None, ("clip", -175, 250))
    assert cut.min() == -1 and cut.max() <= 1 and np.allclose(cut[1, 1, 1], np.clip((volume[1, 1, 1] + 175) / 212.5 - 1, -1, 1), atol=1e-5)
    assert np.allclose(prepare(volume, spacing, None, "zscore").mean((0, 1, 2)), 0, atol=1e-5)
    front = prepare(volume, spacing, None, "foreground_zscore")[1:]
    assert np.allclose(front.mean((0, 1, 2)), 0, atol=1e-5) and np.allclose(front.std((0, 1, 2)), 1, atol=1e-5)
    with pytest.raises(ConfigError, match=r"data\.intensity 'zscores'"):
        prepare(volume, spacing, None, "zscores")


def test_a_dicom_series_is_a_scan_with_its_geometry():
    import pydicom

    path = sample_volumes()["ct"]

    slices = [pydicom.dcmread(file) for file in sorted(path.iterdir())]
    scan = read_scan(path)
    assert scan.shape == (slices[0].Columns, slices[0].Rows, len(slices))
    # The place of the first voxel of each slice, by the file's own numbers, left and back turned to right and front.
    places = {tuple(np.round(np.array(each.ImagePositionPatient, float) * (-1, -1, 1), 3)) for each in slices}
    assert {tuple(np.round((scan.affine @ (0, 0, k, 1))[:3], 3)) for k in range(len(slices))} == places
    values = sorted(float(np.sum(each.pixel_array * float(each.get("RescaleSlope", 1)) + float(each.get("RescaleIntercept", 0)))) for each in slices)
    back = scan.volume.sum(dtype=np.float64)
    assert back == pytest.approx(sum(values), rel=1e-6)
    assert as_file(np.ones(scan.volume.shape[:3], np.uint8), scan).shape == scan.shape


def layout(root, kind):
    for number in range(5):
        mask = (ramp() % 4 == number % 3 + 1).astype(np.uint8) * (number % 2 + 1)
        if kind == "nnunet":
            for channel in range(2):
                save(root / "imagesTr" / f"case_{number}_{channel:04d}.nii.gz", ramp() + channel)
            save(root / "labelsTr" / f"case_{number}.nii.gz", mask, "LPS" if number < 0 else "RAS")
            (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "tumour": 2}}))
        elif kind == "synapse":
            save(root / "img" / f"img000{number}.nii.gz", ramp())
            save(root / "label" / f"label000{number}.nii.gz", mask)
        else:
            for frame in ("01", "12"):
                save(root / f"patient{number:03d}" / f"patient{number:03d}_frame{frame}.nii.gz", ramp())
                save(root / f"patient{number:03d}" / f"patient{number:03d}_frame{frame}_gt.nii.gz", mask)


@pytest.mark.parametrize(
    "kind, cases, channels, classes", [("nnunet", 5, 2, ("liver", "tumour")), ("synapse", 5, 1, ("1", "2")), ("acdc", 10, 1, ("1", "2"))]
)
def test_public_layouts_are_read_and_patients_are_not_split(tmp_path, kind, cases, channels, classes):
    layout(tmp_path, kind)
    data = {"path": str(tmp_path), "cache": str(tmp_path / "cache"), "intensity": "zscore", "spacing": (2.5, 2.0, 1.5)}
    train, test = (open_volumes(data, split, 0.4, 0) for split in ("train", "test"))
    assert len(train) + len(test) == cases and train.classes == test.classes == classes
    assert not {case.patient for case in train.cases} & {case.patient for case in test.cases}
    record = train.record(0)
    assert record["volume"].shape == (5, 4, 3, channels) and record["mask"].shape == (5, 4, 3) and np.allclose(record["spacing"], (2.5, 2, 1.5))
    kept = train.record(0)
    assert isinstance(kept["volume"], np.memmap) and np.array_equal(kept["volume"], record["volume"])
    assert sorted(kept["places"]) == sorted(np.unique(kept["mask"]).tolist())[1:]
    uncached = open_volumes({**data, "cache": ""}, "train", 0.4, 0).record(0)
    assert np.array_equal(uncached["volume"], kept["volume"]) and np.array_equal(uncached["mask"], kept["mask"])


def test_folders_for_training_and_testing_are_the_splits(tmp_path):
    for split, count in (("training", 2), ("testing", 1)):
        for number in range(count):
            save(tmp_path / split / "images" / f"{split}{number}.nii", ramp())
            save(tmp_path / split / "labels" / f"{split}{number}.nii", (ramp() > 300).astype(np.uint8))
    data = {"path": str(tmp_path), "cache": ""}
    assert [len(open_volumes(data, split, 0.2, 0)) for split in ("train", "test")] == [2, 1]


def test_what_does_not_fit_together_is_one_line(tmp_path):
    with pytest.raises(DataError, match="holds no volumes"):
        find_cases(tmp_path)
    scan = save(tmp_path / "images" / "a.nii", ramp())
    save(tmp_path / "labels" / "a.nii", np.ones((6, 8, 4), np.uint8))
    source = volumes_source(tmp_path / "images", (), {})
    assert len(source) == 1 and source.cases[0].mask is None
    with pytest.raises(Unreadable, match=r"has .* voxels"):
        read_mask(tmp_path / "labels" / "a.nii", read_scan(scan))
    elsewhere = save(tmp_path / "b.nii", np.ones((6, 8, 5), np.uint8), affine=np.diag([0.75, 1.0, 3.0, 1.0]))
    with pytest.raises(Unreadable, match="elsewhere"):
        read_mask(elsewhere, read_scan(scan))
    (tmp_path / "broken.nii.gz").write_bytes(b"no volume")
    with pytest.raises(Unreadable, match="cannot be read"):
        read_scan(tmp_path / "broken.nii.gz")
    save(tmp_path / "labels" / "c.nii", np.ones((6, 8, 5), np.uint8))
    with pytest.raises(DataError, match="has no scan"):
        find_cases(tmp_path)

"""DICOM Segmentation objects lie where their frames say, belong to the series that they name, and say in one line what does not fit."""

import numpy as np
import pydicom
import pytest

from jaxvision.data.cases import find_cases
from jaxvision.data.scans import read_scan
from jaxvision.data.segmentations import read_labels
from jaxvision.data.source import Unreadable
from jaxvision.data.volumes import open_volumes, volumes_source
from jaxvision.errors import DataError

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
TILT = np.array([[1.0, 0, 0], [0, 0.8, -0.6]])  # directions of rows and of columns: slices that are tilted about the left-right axis


def dataset(uid, **values):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = pydicom.uid.ExplicitVRLittleEndian, uid, "1.2.3"
    made = pydicom.Dataset()
    made.file_meta, made.SOPClassUID, made.SOPInstanceUID = meta, uid, "1.2.3"
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    for name, value in values.items():
        setattr(made, name, value)
    return made


def write(made, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)


def group(**values):
    made = pydicom.Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return pydicom.Sequence([made])


def corner(k):
    return (np.array([-20.0, 5.0, 30.0]) + 2.5 * k * np.cross(*TILT)).tolist()


def series(folder, uid="1.9", patient="anna", slices=4):
    """Slices of 6 rows and 5 columns, 2.5 mm apart, in no order of their names; voxel (row, column, slice) is 100 slice + 10 row + column."""
    for k in range(slices):
        pixels = np.add.outer(10 * np.arange(6), np.arange(5)).astype(np.uint16) + 100 * k
        made = dataset(
            "1.2.840.10008.5.1.4.1.1.2", SeriesInstanceUID=uid, PatientID=patient, Rows=6, Columns=5, BitsAllocated=16, BitsStored=16, HighBit=15,
            PixelData=pixels.tobytes(), ImageOrientationPatient=TILT.ravel().tolist(), ImagePositionPatient=corner(k), PixelSpacing=[0.5, 0.75],
            SliceThickness=2.5,
        )  # fmt: skip
        write(made, folder / f"{(3 * k) % slices}_{k}.dcm")
    return folder


def segmentation(path, marks, labels=("liver", "tumour"), uid="1.9", patient="anna", kind="BINARY", shift=0.0, spacing=(0.5, 0.75)):
    """`marks`: (segment, slice, (6, 5) of bools), a frame each, mirrored in both axes as another program may have them."""
    frames = np.stack([np.asarray(mark)[::-1, ::-1] for *_, mark in marks])
    own = []
    for number, k, _ in marks:
        far = np.array(corner(k)) + TILT[0] * 4 * 0.75 + TILT[1] * 5 * 0.5 + shift
        place, segment = group(ImagePositionPatient=far.tolist()), group(ReferencedSegmentNumber=number)
        own.append(group(PlanePositionSequence=place, SegmentIdentificationSequence=segment)[0])
    measures, turned = group(PixelSpacing=list(spacing)), group(ImageOrientationPatient=(-TILT).ravel().tolist())
    bits = 1 if kind == "BINARY" else 8
    raw = np.packbits(frames.ravel(), bitorder="little").tobytes() if bits == 1 else (frames.astype(np.uint8) * 200).tobytes()
    made = dataset(
        SEG, SeriesInstanceUID=uid + ".1", PatientID=patient, Rows=6, Columns=5, NumberOfFrames=len(frames), BitsAllocated=bits, BitsStored=bits,
        HighBit=bits - 1, SegmentationType=kind, PixelData=raw + b"\0" * (len(raw) % 2), ReferencedSeriesSequence=group(SeriesInstanceUID=uid),
        SegmentSequence=pydicom.Sequence([group(SegmentNumber=i, SegmentLabel=label)[0] for i, label in enumerate(labels, 1)]),
        SharedFunctionalGroupsSequence=group(PixelMeasuresSequence=measures, PlaneOrientationSequence=turned),
        PerFrameFunctionalGroupsSequence=pydicom.Sequence(own), MaximumFractionalValue=255,
    )  # fmt: skip
    write(made, path)
    return path


def drawn(seed=0):
    """Marks of two segments that do not overlap, of slices 2 and 0 alone, and {(row, column, slice): class}."""
    random = np.random.RandomState(seed).rand(4, 6, 5)
    marks = [(number, k, (random[k] > low) & (random[k] <= high)) for k in (2, 0) for number, low, high in ((2, 0.6, 0.8), (1, 0.8, 1.0))]
    return marks, {(int(r), int(c), k): number for number, k, mark in marks for r, c in np.argwhere(mark)}


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_segments_lie_on_the_voxels_of_their_series_whatever_the_order_and_direction_of_frames(tmp_path, kind):
    scan = read_scan(series(tmp_path / "ct"))
    marks, expected = drawn()
    mask = read_labels(segmentation(tmp_path / "seg.dcm", marks, kind=kind), scan, ("tumour", "vessel", "Liver"))
    assert mask.shape == scan.volume.shape[:3] and mask.dtype == np.uint8
    # The scan's own values say which voxel of the file is which: segment 1, the liver, is the third class, segment 2, the tumour, the first.
    at = {int(scan.volume[place][0]): int(mask[place]) for place in np.ndindex(mask.shape)}
    assert at == {100 * k + 10 * r + c: {0: 0, 1: 3, 2: 1}[expected.get((r, c, k), 0)] for k in range(4) for r in range(6) for c in range(5)}
    assert len(set(at.values())) == 3


def test_an_archive_s_folders_are_matched_by_the_series_that_segmentations_name(tmp_path):
    for number, patient in enumerate(("anna", "bert", "carl")):
        series(tmp_path / patient / "study" / "1-CT", f"1.{number}", patient)
        series(tmp_path / patient / "study" / "0-scout", f"7.{number}", patient, slices=2)
        segmentation(tmp_path / patient / "study" / "2-SEG" / "1.dcm", drawn(number)[0], uid=f"1.{number}", patient=patient)
    data = {"path": str(tmp_path), "cache": ""}
    train, test = (open_volumes(data, split, 0.34, 0) for split in ("train", "test"))
    assert (len(train), len(test), train.classes) == (2, 1, ("liver", "tumour"))
    assert all(case.images[0].name == "1-CT" and case.mask.name == "2-SEG" for case in (*train.cases, *test.cases))
    assert not {case.patient for case in train.cases} & {case.patient for case in test.cases}
    record = train.record(0)
    assert record["volume"].shape == (*record["mask"].shape, 1) and set(np.unique(record["mask"])) == {0, 1, 2} and sorted(record["places"]) == [1, 2]
    assert {path.name for case in volumes_source(tmp_path, (), {}).cases for path in case.images} == {"1-CT", "0-scout"}
    # The same as pairs of one name.
    series(tmp_path / "pairs" / "images" / "case1"), segmentation(tmp_path / "pairs" / "labels" / "case1.dcm", drawn()[0])
    (pair,) = find_cases(tmp_path / "pairs")
    assert (pair.name, pair.mask.name) == ("case1", "case1.dcm")


def test_a_segmentation_that_does_not_fit_is_one_line(tmp_path):
    scan, (marks, _) = read_scan(series(tmp_path / "ct")), drawn()
    wrong = {
        "a segment 'tumour', which is none of the 1 classes": ({}, ("liver",)),
        "another grid": ({"shift": 0.2}, ("liver", "tumour")),
        "lies another|lies elsewhere|another grid": ({"spacing": (0.5, 1.5)}, ("liver", "tumour")),
        "outside of its 5 x 6 x 4": ({"shift": 25 * TILT[0] * 0.75}, ("liver", "tumour")),
        "overlap": ({"marks": [*marks, (1, 2, np.ones((6, 5), bool))]}, ("liver", "tumour")),
        "segment 3, which it does not describe": ({"marks": [(3, 0, np.ones((6, 5), bool))]}, ("liver", "tumour")),
    }
    for number, (line, (changes, classes)) in enumerate(wrong.items()):
        path = segmentation(tmp_path / f"{number}.dcm", **{"marks": marks, **changes})
        with pytest.raises(Unreadable, match=line):
            read_labels(path, scan, classes)
    segmentation(tmp_path / "set" / "seg" / "1.dcm", marks, uid="1.5")
    series(tmp_path / "set" / "ct")
    with pytest.raises(DataError, match=r"is a segmentation of series 1\.5, which is not among those"):
        find_cases(tmp_path / "set")

"""The manifest notices whatever happens to a file after it was written."""

import json

import numpy as np
import pytest

from jaxvision.errors import CheckpointError
from jaxvision.train import manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "arrays" / "d").mkdir(parents=True)
    (tmp_path / "arrays" / "d" / "1f").write_bytes(np.random.RandomState(0).bytes(3000))
    (tmp_path / "meta.json").write_text("{}")
    manifest.write(tmp_path, {"step": 7, "metrics": {"test/accuracy": 0.5}})
    return tmp_path


def test_an_untouched_folder_has_no_damage(folder):
    assert manifest.damage(folder) is None
    about = manifest.read(folder)
    assert about["step"] == 7 and about["metrics"] == {"test/accuracy": 0.5}
    assert set(about["files"]) == {"arrays/d/1f", "meta.json"}


@pytest.mark.parametrize("byte", [0, 1500, 2999])
def test_one_flipped_bit_is_noticed(folder, byte):
    path = folder / "arrays" / "d" / "1f"
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << (byte % 8)
    path.write_bytes(content)
    assert manifest.damage(folder).startswith("arrays/d/1f has checksum")


def test_every_single_flipped_bit_of_the_manifest_itself_is_noticed(folder):
    path = folder / manifest.NAME
    content = path.read_bytes()
    whole = json.loads(content)
    for place in range(len(content) * 8):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << (place % 8)
        try:
            harmless = json.loads(bytes(changed)) == whole  # white space became other white space
        except ValueError:
            harmless = False
        if not harmless:
            path.write_bytes(changed)
            assert "manifest.json" in manifest.damage(folder), place


def test_a_truncated_file_is_noticed(folder):
    path = folder / "arrays" / "d" / "1f"
    path.write_bytes(path.read_bytes()[:2000])
    assert manifest.damage(folder) == "arrays/d/1f has 2000 bytes, should have 3000"


@pytest.mark.parametrize("name", ["arrays/d/1f", "meta.json", "manifest.json"])
def test_a_removed_file_is_noticed(folder, name):
    (folder / name).unlink()
    assert manifest.damage(folder) == f"{name} is missing"


def test_files_that_nobody_listed_do_no_harm(folder):
    (folder / ".nfs0001").write_text("left by a file system")
    assert manifest.damage(folder) is None


def test_a_manifest_of_another_format_is_refused_by_name(folder, monkeypatch):
    monkeypatch.setattr(manifest, "FORMAT", 2)
    with pytest.raises(CheckpointError, match="format 1, this version reads format 2"):
        manifest.read(folder)


def test_mismatches_name_missing_left_over_and_differing_leaves_with_shapes():
    wanted = {"a": ((2, 3), "float32"), "b": ((4,), "float32"), "c": ((), "int32")}
    given = {"a": ((3, 2), "float32"), "c": ((), "float32"), "d": ((5,), "float32")}
    assert manifest.mismatches(wanted, given) == (
        "2 differing: a is (3, 2), wanted (2, 3), c is () float32, wanted () int32; 1 missing: b (4); 1 left over: d (5)"
    )
    assert manifest.mismatches(wanted, dict(wanted)) is None


def test_mismatches_show_ten_and_count_the_rest():
    line = manifest.mismatches({f"leaf_{i}": ((1,), "float32") for i in range(13)}, {})
    assert line.startswith("13 missing: leaf_0 (1), ") and line.endswith("leaf_9 (1), and 3 more")

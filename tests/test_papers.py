"""The index holds every paper once, and a paper's status follows from the files that exist."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from jaxvision import papers

ROOT = pathlib.Path(papers.__file__).resolve().parent.parent


def by_slug(root):
    return {row["slug"]: row for row in papers.rows(root)}


def make(root, *files):
    for file in files:
        path = root / file
        (path if file.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not file.endswith("/"):
            path.touch()


def test_there_are_95_papers_each_once():
    assert [paper.number for paper in papers.PAPERS] == list(range(1, 96))
    for field in ("slug", "title", "arxiv"):
        assert len({getattr(paper, field) for paper in papers.PAPERS}) == 95


def test_every_field_is_well_formed():
    for paper in papers.PAPERS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", paper.slug)
        assert re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv)
        assert paper.title == paper.title.strip() and "arXiv" not in paper.title and len(paper.title) > 14
        assert paper.modules
        for module in paper.modules:
            assert re.fullmatch(r"(augment|compress|data|kernels|models|nn|optim|search|tasks|train)/[a-z0-9_/]+(\.py|/)", module)


def test_status_follows_the_files(tmp_path):
    assert {row["status"] for row in papers.rows(tmp_path)} == {"planned"}
    make(tmp_path, "configs/convit.py")
    assert by_slug(tmp_path)["convit"]["status"] == "partial"
    make(tmp_path, "jaxvision/models/convit.py")
    assert by_slug(tmp_path)["convit"]["missing"] == ["tests/claims/test_convit.py"]
    make(tmp_path, "tests/claims/test_convit.py")
    row = by_slug(tmp_path)["convit"]
    assert (row["status"], row["missing"]) == ("complete", [])
    assert (row["modules"], row["configs"], row["claims"]) == (
        ["jaxvision/models/convit.py"],
        ["configs/convit.py"],
        ["tests/claims/test_convit.py"],
    )
    assert [row["slug"] for row in papers.rows(tmp_path) if row["status"] != "planned"] == ["convit"]
    make(tmp_path, "tests/claims/pending/test_convit_widths.py")
    row = by_slug(tmp_path)["convit"]
    assert (row["status"], row["pending"]) == ("partial", ["tests/claims/pending/test_convit_widths.py"])


def test_a_file_shared_with_others_does_not_start_a_paper(tmp_path):
    make(tmp_path, "jaxvision/models/vit.py", "jaxvision/optim/rules.py", "jaxvision/tasks/ssl/dino.py", "jaxvision/models/resnet.py")
    assert {row["status"] for row in papers.rows(tmp_path)} == {"planned"}
    make(tmp_path, "jaxvision/optim/sharpness.py")
    assert [row["slug"] for row in papers.rows(tmp_path) if row["status"] == "partial"] == ["sam_vit"]


def test_a_kernel_is_a_folder(tmp_path):
    make(tmp_path, "jaxvision/kernels/im2win_conv.py")
    assert by_slug(tmp_path)["im2win"]["status"] == "planned"
    make(tmp_path, "jaxvision/kernels/im2win_conv/")
    assert by_slug(tmp_path)["im2win"]["status"] == "partial"


def test_json_is_printed_alone_and_markdown_is_written(tmp_path, capsys):
    make(tmp_path, "pyproject.toml", "configs/cvt.py")
    assert papers.main(["--json"], tmp_path) == 0
    table = json.loads(capsys.readouterr().out)
    assert len(table) == 95 and table[9]["slug"] == "convit" and table[55]["configs"] == ["configs/cvt.py"]
    written = (tmp_path / "docs" / "papers.md").read_text()
    assert "95 papers: 0 complete, 1 partial, 94 planned." in written
    assert len(re.findall(r"^\| \d\d \|", written, re.MULTILINE)) == 95
    assert "[cvt.py](../configs/cvt.py)" in written


def test_without_a_checkout_nothing_is_written_and_that_is_said(tmp_path, capsys):
    make(tmp_path, "jaxvision/models/convit.py")
    assert papers.main([], tmp_path) == 0
    said = capsys.readouterr()
    assert "10  convit" in said.out and "0 complete, 1 partial" in said.out
    assert "docs/papers.md was not written" in said.err
    assert not (tmp_path / "docs").exists()


def test_the_committed_table_is_up_to_date():
    there, now = (ROOT / "docs" / "papers.md").read_text().splitlines(), papers.markdown(papers.rows(ROOT)).splitlines()
    stale = [line for line in there if line not in now] + [line for line in now if line not in there]
    assert stale == [], "run python -m jaxvision.papers and commit docs/papers.md"


def test_the_index_loads_neither_jax_nor_the_models():
    code = "import sys, jaxvision.papers; assert not {'jax', 'flax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("flag", ["--help"])
def test_help_exits_with_zero(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        papers.main([flag])
    assert ended.value.code == 0 and "--json" in capsys.readouterr().out

"""What changed is tested first, nothing is started that could outlast the hour, and the script around it says what failed."""

import importlib.util
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import threading

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("ledger", ROOT / ".ci" / "ledger.py")
ledger = importlib.util.module_from_spec(spec)
sys.modules["ledger"] = ledger
spec.loader.exec_module(ledger)
LongTest = ledger.LongTest


@pytest.fixture
def tree(tmp_path):
    """A small repository: a claim that names a config, which names a model, which imports a layer."""
    files = {
        "jaxvision/__init__.py": "_HOMES = {'fit': 'jaxvision.train', 'create_model': 'jaxvision.models'}\n",
        "jaxvision/errors.py": "",
        "jaxvision/train/__init__.py": "_HOMES = {'fit': 'jaxvision.train.loop'}\n",
        "jaxvision/train/loop.py": "def fit():\n    from jaxvision.optim import rules\n",
        "jaxvision/optim/__init__.py": "",
        "jaxvision/optim/rules.py": "",
        "jaxvision/optim/unused.py": "",
        "jaxvision/nn/__init__.py": "",
        "jaxvision/nn/conv.py": "from jaxvision.errors import x\n",
        "jaxvision/models/__init__.py": "",
        "jaxvision/models/inceptionnext.py": "import jaxvision.nn.conv\n",
        "jaxvision/models/vit.py": "",
        "jaxvision/tasks/__init__.py": "",
        "jaxvision/tasks/ssl/__init__.py": "",
        "jaxvision/tasks/ssl/dino.py": "",
        "configs/inceptionnext.py": "name = 'inception_next_tiny'\n",
        "tests/__init__.py": "",
        "tests/helper.py": "",
        "tests/claims/__init__.py": "",
        "tests/claims/test_a.py": "import jaxvision\nfrom ..helper import h\nconfig = '--config=configs/inceptionnext.py:demo'\njaxvision.fit()\n",
        "tests/claims/test_b.py": "from jaxvision.train import fit\ntask = 'dino'\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def names(root, file):
    return {path.relative_to(root).as_posix() for path in ledger.dependencies(root, file)}


def test_a_claim_depends_on_what_it_imports_and_names_and_on_nothing_else(tree):
    found = names(tree, "tests/claims/test_a.py")
    assert {"tests/claims/test_a.py", "tests/helper.py", "configs/inceptionnext.py", "jaxvision/models/inceptionnext.py"} <= found
    assert {"jaxvision/nn/conv.py", "jaxvision/errors.py", "jaxvision/__init__.py", "jaxvision/train/__init__.py"} <= found
    assert not {"jaxvision/models/vit.py", "jaxvision/optim/unused.py", "jaxvision/tasks/ssl/dino.py"} & found
    found = names(tree, "tests/claims/test_b.py")
    assert {"jaxvision/train/loop.py", "jaxvision/optim/rules.py", "jaxvision/tasks/ssl/dino.py"} <= found
    assert not {"configs/inceptionnext.py", "jaxvision/models/inceptionnext.py"} & found


def test_the_hash_changes_with_a_distant_dependency_alone(tree):
    before = {name: ledger.content_hash(tree, f"tests/claims/{name}.py") for name in ("test_a", "test_b")}
    (tree / "jaxvision/nn/conv.py").write_text("from jaxvision.errors import y\n")
    assert ledger.content_hash(tree, "tests/claims/test_a.py") != before["test_a"]
    assert ledger.content_hash(tree, "tests/claims/test_b.py") == before["test_b"]


def test_the_hash_of_a_real_test_is_had_without_importing_it():
    found = names(ROOT, "tests/test_ci_ledger.py")
    assert "tests/test_ci_ledger.py" in found
    assert len(ledger.content_hash(ROOT, "tests/train/test_writers.py")) == 16
    assert {"jaxvision/train/writers.py", "jaxvision/errors.py"} <= names(ROOT, "tests/train/test_writers.py")


def test_changed_tests_come_first_then_the_oldest_pass():
    tests = [LongTest(f"t.py::{name}", 60) for name in ("old", "new", "changed", "never")]
    passes = {
        "t.py::old": {"hash": "h", "date": "2026-01-01T00:00:00Z", "seconds": 1},
        "t.py::new": {"hash": "h", "date": "2026-02-01T00:00:00Z", "seconds": 1},
        "t.py::changed": {"hash": "other", "date": "2026-03-01T00:00:00Z", "seconds": 1},
    }
    turns = ledger.order(tests, {"t.py": "h"}, passes)
    assert [test.id.split("::")[1] for test in turns] == ["never", "changed", "old", "new"]


def test_a_test_is_started_only_while_its_mark_fits():
    now, calls, passes = [0.0], [], []
    tests = [LongTest("a", 300), LongTest("b", 300), LongTest("c", 100), LongTest("d", 60)]

    def run(group):
        (test,) = group
        calls.append(test.id)
        now[0] += {"a": 200, "b": 250, "c": 70, "d": 1}[test.id]
        return {test: 7.0} if test.id != "c" else {}

    passed, failed, left_out = ledger.run_in_time(tests, 400, run, clock=lambda: now[0], done=lambda passed: passes.append(len(passed)))
    assert ({test.id: seconds for test, seconds in passed.items()}, [t.id for t in failed], [t.id for t in left_out]) == (
        {"a": 7.0, "d": 7.0},
        ["c"],
        ["b"],
    )
    assert calls == ["a", "c", "d"] and passes == [1, 1, 1, 2]


def test_tests_of_a_file_share_a_process_as_far_as_all_of_them_fit():
    now, calls = [0.0], []
    tests = [LongTest("f::a", 100), LongTest("g::a", 50), LongTest("f::b", 100), LongTest("f::c", 100)]

    def run(group):
        calls.append([test.id for test in group])
        now[0] += 20
        return dict.fromkeys(group, 1.0)

    passed, failed, left_out = ledger.run_in_time(tests, 240 + ledger.MARGIN, run, clock=lambda: now[0])
    assert calls == [["f::a", "f::b"], ["f::c"], ["g::a"]] and len(passed) == 4 and not failed and not left_out


def test_claims_run_alone_and_two_files_of_compilations_at_once():
    both, seen = threading.Barrier(2), []

    def run(group):
        seen.append(group[0].id)
        if not group[0].claim:
            both.wait(5)  # breaks unless the other file runs now
        return dict.fromkeys(group, 1.0)

    tests = [LongTest("c::x", 9, False), LongTest("a::x", 9), LongTest("d::x", 9, False), LongTest("b::x", 9)]
    passed, failed, _ = ledger.run_in_time(tests, 100, run, clock=lambda: 0)
    assert len(passed) == 4 and not failed and set(seen[:2]) == {"c::x", "d::x"} and seen[2:] == ["a::x", "b::x"]


def test_a_missing_or_long_timeout_mark_is_named():
    lines = ledger.wrong_marks([LongTest("a", None), LongTest("b", 301), LongTest("c", 300)])
    assert len(lines) == 2 and "no timeout mark" in lines[0] and "timeout(301)" in lines[1]


def test_recording_keeps_earlier_passes_and_forgets_tests_that_are_gone():
    passes = {"a.py::x": {"hash": "1", "date": "d0", "seconds": 9.0}, "gone.py::x": {"hash": "1", "date": "d0", "seconds": 9.0}}
    tests = [LongTest("a.py::x", 9), LongTest("a.py::y", 9), LongTest("a.py::z", 9)]
    after = ledger.recorded(passes, tests, {tests[1]: 3.5}, {"a.py": "2"}, "d1")
    assert after == {"a.py::x": {"hash": "1", "date": "d0", "seconds": 9.0}, "a.py::y": {"hash": "2", "date": "d1", "seconds": 3.5}}


def test_the_committed_ledger_is_of_the_form_that_is_written():
    for name, entry in json.loads((ROOT / "tests" / "ledger.json").read_text()).items():
        assert "::" in name and set(entry) == {"hash", "date", "seconds"}


LONG = """
import pytest, time

@pytest.mark.claim
@pytest.mark.timeout(20)
@pytest.mark.parametrize("x", [1, 2])
def test_holds(x):
    assert x < 2

@pytest.mark.aot
@pytest.mark.timeout(299)
def test_compiles():
    pass

def test_quick():
    raise AssertionError("not one of the long tests")
"""


def test_long_tests_run_and_what_does_not_fit_is_left_out(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)  # meant for this suite, not for the one inside
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_long.py").write_text(LONG)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    until = ledger.time.time() + 200
    assert ledger.main([f"--until={until}", "--record"], tmp_path) == 1
    said = capfd.readouterr().out
    assert "claims and compilations: 1 passed, 1 failed, 1 left out" in said
    assert "left out, as its 299 s no longer fit: tests/test_long.py::test_compiles" in said
    assert "assert 2 < 2" in said
    assert list(json.loads((tmp_path / "tests" / "ledger.json").read_text())) == ["tests/test_long.py::test_holds[1]"]


# .ci/run itself, with stand-ins for everything it calls

STUB = """#!/bin/bash
name=$(basename "$0")
echo "$name $*" >> "$CALLS"
case "$name $*" in
"python3 -m venv "*) mkdir -p "$3/bin"; for tool in pip pytest ruff lint-imports python; do cp "$0" "$3/bin/$tool"; done ;;
"pip install"*) [ -e "$CALLS.network" ] || { touch "$CALLS.network"; exit 1; } ;;
"pytest"*) echo "7 passed, 3 deselected in 1.50s"; exit "${PYTEST_EXIT:-0}" ;;
"python .ci/ledger.py"*) echo "left out, as its 300 s no longer fit: tests/x.py::y"; echo "claims and compilations: 2 passed, 0 failed, 1 left out" ;;
esac
"""
TOOLS = ("bash", "basename", "cat", "chmod", "cp", "date", "dirname", "grep", "id", "mkdir", "mktemp", "rm", "tee", "timeout", "touch")
COMMAND = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest -n 2 --dist loadfile"


def ci_run(folder, *arguments, own_environment=False, **environment):
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    (folder / "README.md").write_text(f"# x\n\n```\n{COMMAND}\n```\n")
    tools = folder / "tools"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool))
    for stub in ("python3", "sleep"):
        (tools / stub).write_text(STUB)
        (tools / stub).chmod(stat.S_IRWXU)
    if own_environment:
        (folder / ".venv").mkdir()
    calls = folder / "calls"
    done = subprocess.run(
        [tools / "bash", ".ci/run", *arguments],
        cwd=folder,
        env={"PATH": str(tools), "CALLS": str(calls), "CI": "true"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_ci_runs_the_readme_command_in_a_fresh_environment_and_ends_with_the_closing_lines(tmp_path):
    done, calls = ci_run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert calls[:2] == ["python3 -m venv .venv", "pip install -q -e .[test]"]
    assert calls[2].startswith("sleep") and calls[3:5] == calls[:2]  # a failed download is tried again
    assert [call.split(" --until")[0] for call in calls[5:]] == [
        "ruff check .",
        "lint-imports ",
        *calls[:2],
        "pytest -n 2 --dist loadfile",
        "pip install -q -e .[test,preflight]",
        "python .ci/ledger.py",
    ]
    assert done.stdout.splitlines()[-3:] == [
        "left out, as its 300 s no longer fit: tests/x.py::y",
        "7 passed, 3 deselected in 1.50s",
        "claims and compilations: 2 passed, 0 failed, 1 left out",
    ]


def test_ci_fails_when_the_tests_fail_but_still_runs_the_rest(tmp_path):
    done, calls = ci_run(tmp_path, "--record", PYTEST_EXIT="1")
    assert done.returncode == 1
    assert "1 steps failed: tests" in done.stdout
    assert calls[-1].startswith("python .ci/ledger.py --until=") and calls[-1].endswith("--record")


def test_ci_leaves_an_environment_of_ones_own_alone(tmp_path):
    done, calls = ci_run(tmp_path, own_environment=True)
    assert done.returncode == 0 and calls[0] == "python3 -m venv .venv-ci"
    assert list((tmp_path / ".venv").iterdir()) == []


def test_ci_refuses_an_unknown_flag(tmp_path):
    done, calls = ci_run(tmp_path, "--recrod")
    assert done.returncode == 2 and "usage" in done.stderr and calls == []


def test_ci_script_is_executable_and_clean():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    of_the_test_extra = pathlib.Path(sys.executable).parent / "shellcheck"
    subprocess.run([of_the_test_extra if of_the_test_extra.exists() else "shellcheck", ROOT / ".ci" / "run"], check=True)

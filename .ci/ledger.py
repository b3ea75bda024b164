"""Runs the long tests (marks `claim` and `aot`) as far as time allows, those that changed first, and keeps tests/ledger.json.

    python .ci/ledger.py [--until=SECONDS] [--record] [--list]

The tests of a file run in one pytest, as many of them as fit: one is started only while its `timeout` mark, with a margin for starting up, fits
before `--until` (seconds since 1970). Claims run alone, since some compare times; of the files that only compile, two run at once. First come those
without a pass of their present content: the test file and all that it imports from the repository, transitively, and the configs, models and tasks
that it names; then those whose last pass is oldest. `--record` writes the passes into the ledger after each file, so that nothing is lost.
"""

import argparse
import ast
import collections
import concurrent.futures
import datetime
import hashlib
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

LIMIT = 300  # seconds that a `timeout` mark may state
MARGIN = 30  # seconds for starting and ending a process
ROOT = pathlib.Path(__file__).resolve().parent.parent
LEDGER = "tests/ledger.json"


class LongTest(NamedTuple):
    """A collected test: pytest's id, the seconds of its `timeout` mark (None without one), and whether it is a claim, which runs alone."""

    id: str
    timeout: float | None
    claim: bool = True

    @property
    def file(self) -> str:
        return self.id.split("::")[0]


# What a file depends on


def _file_of(root: pathlib.Path, dotted: str) -> pathlib.Path | None:
    """The file of a module of this repository, or None."""
    path = root.joinpath(*dotted.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _homes(tree: ast.Module) -> dict[str, str]:
    """{name: module} of a package that imports its names at first use, from its table `_HOMES`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "_HOMES" for target in node.targets):
            try:
                table = ast.literal_eval(node.value)
            except ValueError:
                continue
            return {name: home for name, home in table.items() if isinstance(home, str)}
    return {}


def _imported(root: pathlib.Path, path: pathlib.Path, tree: ast.Module) -> set[pathlib.Path]:
    package = path.relative_to(root).parent.parts
    found: set[pathlib.Path | None] = set()

    def name_of(module: str, name: str) -> None:
        if submodule := _file_of(root, f"{module}.{name}"):
            found.add(submodule)
        elif (home := _file_of(root, module)) and home.name == "__init__.py":
            if name in (homes := _homes(ast.parse(home.read_bytes()))):
                found.add(_file_of(root, homes[name]))

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                found |= {_file_of(root, ".".join(parts[: i + 1])) for i in range(len(parts))}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join(base + (node.module.split(".") if node.module else []))
            parts = module.split(".")
            found |= {_file_of(root, ".".join(parts[: i + 1])) for i in range(len(parts))}
            for alias in node.names:
                name_of(module, alias.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jaxvision":
            name_of("jaxvision", node.attr)
    return {file for file in found if file}


def _named(root: pathlib.Path, tree: ast.Module) -> set[pathlib.Path]:
    """Files named by the strings of a test or config: paths, configs, model names (models/hornet.py by "hornet_tiny"), tasks and the like."""
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    found = set()
    models = {path.stem.replace("_", ""): path for path in (root / "jaxvision" / "models").glob("*.py")}
    others = collections.defaultdict(set)
    for room in ("augment", "compress", "data", "optim", "search", "tasks"):
        for path in (root / "jaxvision" / room).rglob("*.py"):
            others[path.stem].add(path)
    for string in strings:
        for token in re.findall(r"[\w./-]+", string):
            for candidate in (root / token, root / "configs" / token, root / "configs" / f"{token}.py"):
                if candidate.is_file() and candidate.resolve().is_relative_to(root.resolve()):
                    found.add(candidate)
        if re.fullmatch(r"\w+", string):
            bare = string.replace("_", "")
            found |= {path for stem, path in models.items() if bare.startswith(stem)} | others[string]
    return found


def dependencies(root: pathlib.Path, file: str) -> set[pathlib.Path]:
    """The file itself and every file of the repository that it depends on."""
    seen: set[pathlib.Path] = set()
    waiting = [root / file]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if path.suffix == ".py":
            tree = ast.parse(path.read_bytes())
            waiting += _imported(root, path, tree)
            if path.relative_to(root).parts[0] != "jaxvision":
                waiting += _named(root, tree)
    return seen


def content_hash(root: pathlib.Path, file: str) -> str:
    """A hash of the paths and contents of all that `file` depends on."""
    digest = hashlib.sha256()
    for path in sorted(dependencies(root, file)):
        digest.update(f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


# Which to run, and when


def order(tests: list[LongTest], hashes: dict[str, str], ledger: dict[str, dict]) -> list[LongTest]:
    """Those without a pass of their present content first, then the oldest pass first."""

    def rank(test):
        entry = ledger.get(test.id)
        changed = entry is None or entry["hash"] != hashes[test.file]
        return (not changed, entry["date"] if entry else "", test.id)

    return sorted(tests, key=rank)


def wrong_marks(tests: list[LongTest]) -> list[str]:
    """A line for each test whose `timeout` mark is missing or above the limit."""
    return [
        f"{test.id}: {'no timeout mark' if test.timeout is None else f'timeout({test.timeout:g})'}; a long test states at most timeout({LIMIT})"
        for test in tests
        if test.timeout is None or not 0 < test.timeout <= LIMIT
    ]


def by_file(tests: list[LongTest]) -> list[list[LongTest]]:
    """The tests in groups of one file and one kind, in the order of each group's first."""
    groups: dict[tuple[str, bool], list[LongTest]] = {}
    for test in tests:
        groups.setdefault((test.file, test.claim), []).append(test)
    return list(groups.values())


def run_in_time(tests: list[LongTest], until: float, run, clock=time.time, done=lambda passed: None):
    """Runs the tests in turn, leaving out those that could outlast `until`. `run(list of tests)` returns {test that passed: seconds}.

    `done` gets the passes so far after each turn. Returns ({passed: seconds}, failed, left out).
    """
    passed, failed, left_out = {}, [], []
    waiting = by_file(tests)
    with concurrent.futures.ThreadPoolExecutor(2) as lanes:
        while waiting:
            turn = [waiting.pop(0)]
            if not turn[0][0].claim:
                turn += [waiting.pop(i) for i in [i for i, group in enumerate(waiting) if not group[0].claim][:1]]
            started = []
            for group in turn:
                # A test that waits for those before it in its process has to fit after all of them.
                left, fitting = until - clock() - MARGIN, []
                for test in group:
                    if test.timeout <= left:
                        fitting.append(test)
                        left -= test.timeout
                if fitting:
                    started.append((fitting, lanes.submit(run, fitting)))
                    if rest := [test for test in group if test not in fitting]:
                        waiting.insert(0, rest)
                else:
                    left_out += group
            for fitting, future in started:
                found = future.result()
                passed |= found
                failed += [test for test in fitting if test not in found]
            done(passed)
    return passed, failed, left_out


def recorded(ledger: dict[str, dict], tests: list[LongTest], passed: dict[LongTest, float], hashes: dict[str, str], date: str) -> dict[str, dict]:
    """The ledger after a run: passes entered, tests that are gone removed."""
    known = {test.id for test in tests}
    kept = {name: entry for name, entry in ledger.items() if name in known}
    new = {test.id: {"hash": hashes[test.file], "date": date, "seconds": seconds} for test, seconds in passed.items()}
    return dict(sorted((kept | new).items()))


# pytest


def pytest_collection_finish(session) -> None:
    """As a pytest plugin (-p ledger): writes the ids, timeouts and kinds of the collected tests where LEDGER_COLLECT says."""
    if "LEDGER_COLLECT" in os.environ:
        marks = [(item.nodeid, item.get_closest_marker("timeout"), item.get_closest_marker("claim") is not None) for item in session.items]
        tests = [(name, None if mark is None else mark.args[0] if mark.args else mark.kwargs.get("timeout"), claim) for name, mark, claim in marks]
        pathlib.Path(os.environ["LEDGER_COLLECT"]).write_text(json.dumps(tests))


def pytest_runtest_logreport(report) -> None:
    """As a pytest plugin: adds a line (id, phase, outcome, seconds) where LEDGER_REPORT says."""
    if "LEDGER_REPORT" in os.environ:
        with open(os.environ["LEDGER_REPORT"], "a") as file:
            file.write(json.dumps([report.nodeid, report.when, report.outcome, report.duration]) + "\n")


def _environment(**more: str) -> dict[str, str]:
    """One in which pytest finds this file as the plugin `ledger`."""
    paths = os.pathsep.join([str(pathlib.Path(__file__).resolve().parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": paths} | more


def collect(root: pathlib.Path) -> list[LongTest]:
    """All tests marked `claim` or `aot`. Exits when pytest cannot collect them."""
    with tempfile.TemporaryDirectory() as folder:
        listing = pathlib.Path(folder, "tests.json")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "ledger", "--collect-only", "-m", "claim or aot"],
            cwd=root,
            env=_environment(LEDGER_COLLECT=str(listing)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode not in (0, 5):  # 5: there are none
            sys.exit(f"collecting the long tests failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
        return [LongTest(*entry) for entry in json.loads(listing.read_text())]


def run_together(root: pathlib.Path, tests: list[LongTest]) -> dict[LongTest, float]:
    """{test that passed: seconds, fixtures included}, all run in one pytest, ended with all its processes when it outlasts their marks.

    Prints a line a test, and the output of a failure.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.jsonl")
        report.touch()
        limit = sum(test.timeout for test in tests) + MARGIN
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "ledger", "-m", "claim or aot", *(test.id for test in tests)],
            cwd=root,
            env=_environment(LEDGER_REPORT=str(report)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output = process.communicate()[0] + f"\nended after {limit:g} s"
        phases = [json.loads(line) for line in report.read_text().splitlines()]
    passed = {}
    for test in tests:
        own = {when: (outcome, seconds) for name, when, outcome, seconds in phases if name == test.id}
        seconds = round(sum(seconds for _, seconds in own.values()), 1)
        if set(own) == {"setup", "call", "teardown"} and all(outcome == "passed" for outcome, _ in own.values()):
            passed[test] = seconds
        print(f"{'passed' if test in passed else 'FAILED'} {seconds:6.1f} s  {test.id}", flush=True)
    if len(passed) < len(tests):
        print(output[-8000:], flush=True)
    return passed


def main(arguments: list[str] | None = None, root: pathlib.Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="ledger.py", description="Runs the tests marked claim and aot, changed ones first, as far as time allows.")
    parser.add_argument("--until", type=float, default=math.inf, help="seconds since 1970 after which no test may run")
    parser.add_argument("--record", action="store_true", help=f"write the passes into {LEDGER}")
    parser.add_argument("--list", action="store_true", help="print the order and stop")
    options = parser.parse_args(arguments)
    path = root / LEDGER
    ledger = json.loads(path.read_text()) if path.is_file() else {}
    tests = collect(root)
    if lines := wrong_marks(tests):
        print("\n".join(lines))
        return 1
    hashes = {file: content_hash(root, file) for file in {test.file for test in tests}}
    turns = order(tests, hashes, ledger)
    if options.list:
        for test in turns:
            entry = ledger.get(test.id)
            state = "never passed" if entry is None else "changed since" if entry["hash"] != hashes[test.file] else "unchanged since"
            print(f"{state:16} {entry['date'] if entry else '':20} {test.timeout:4g} s  {test.id}")
        return 0
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def record(passed):
        if options.record:
            path.write_text(json.dumps(recorded(ledger, tests, passed, hashes, date), indent=1) + "\n")

    passed, failed, left_out = run_in_time(turns, options.until, lambda group: run_together(root, group), done=record)
    for test in left_out:
        print(f"left out, as its {test.timeout:g} s no longer fit: {test.id}")
    print(f"claims and compilations: {len(passed)} passed, {len(failed)} failed, {len(left_out)} left out")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

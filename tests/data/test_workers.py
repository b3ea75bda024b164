"""Worker processes: the same batches, no device, and an end together with the parent."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import jaxvision.data as data
from jaxvision.data import Decode, EvalStream, TrainStream
from jaxvision.data import workers as workers_room
from jaxvision.errors import DataError


class Watched:
    """A source with one more column: 1 where it was read in another process whose JAX may only use the CPU."""

    columns = None

    def __init__(self, source):
        self.source, self.classes, self.fingerprint, self.parent = source, source.classes, source.fingerprint, os.getpid()

    def __len__(self):
        return len(self.source)

    def name_of(self, i):
        return self.source.name_of(i)

    def record(self, i):
        jax = sys.modules.get("jax")
        alone = jax is None or jax.config.jax_platforms == "cpu"
        return {**self.source.record(i), "in_worker": np.int32(os.getpid() != self.parent and alone)}


def take(source, workers, decode, count=4, **settings):
    stream = TrainStream(source, batch_size=6, image=decode, seed=2, workers=workers, **settings)
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches, stream


def test_the_number_of_workers_changes_nothing_and_workers_leave_devices_alone(picture_folder, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")  # for the workers: else the tests' own setting would do what the worker must
    source = Watched(data.open_source({"source": "folder", "path": str(picture_folder)}, "train", seed=0))
    (alone, _), (two, stream) = take(source, 0, Decode((16, 16))), take(source, 2, Decode((16, 16)))
    for a, b in zip(alone, two):
        assert a.keys() == b.keys()
        assert not a.pop("in_worker").any() and b.pop("in_worker").all()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
            assert type(b[key]) is np.ndarray and b[key].flags.writeable
    assert stream.position == 24


def test_policies_reach_across_processes_and_evaluation_keeps_its_workers(tmp_path, picture_folder):
    whole = (picture_folder / "cat" / "3.jpg").read_bytes()
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(whole[:400] if i == 3 else whole)
    source = data.files_source(tmp_path)
    stream = EvalStream(source, batch_size=2, image=Decode((8, 8)), workers=1, corrupt="skip")
    for _ in range(2):
        assert [batch["valid"].tolist() for batch in stream] == [[True, True], [True, False], [True, False]]
        assert stream.skipped_count == 1 and next(iter(stream.skipped)).endswith("3.jpg")
    pids = {process.pid for process in workers_room.multiprocessing.active_children()}
    list(stream)
    assert {process.pid for process in workers_room.multiprocessing.active_children()} == pids != set()
    stream.corrupt = "error"
    with pytest.raises(DataError, match=r"3\.jpg cannot be decoded"):
        list(stream)
    stream.close()
    assert not workers_room.multiprocessing.active_children()


def test_workers_end_with_a_parent_that_was_killed(picture_folder):
    script = textwrap.dedent(
        f"""
        import multiprocessing, os, time
        import jaxvision.data as data
        if __name__ == "__main__":
            source = data.open_source({{"source": "folder", "path": {str(picture_folder)!r}}}, "train", seed=0)
            stream = data.TrainStream(source, batch_size=4, image=data.Decode((8, 8)), seed=0, workers=1)
            next(stream)
            print(*(process.pid for process in multiprocessing.active_children()), flush=True)
            time.sleep(60)
        """
    )
    script_file = picture_folder.parent / "parent.py"
    script_file.write_text(script)
    parent = subprocess.Popen([sys.executable, str(script_file)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 1
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while alive := [pid for pid in pids if os.path.exists(f"/proc/{pid}") and "Z" not in open(f"/proc/{pid}/stat").read().split()[2]]:
        assert time.monotonic() < deadline, f"workers {alive} outlived their parent"
        time.sleep(0.05)


def test_sources_in_memory_have_no_workers_and_large_machines_have_some(monkeypatch):
    for count, expected in ((1, 0), (4, 0), (6, 5), (64, 8)):
        monkeypatch.setattr(workers_room, "processors", lambda count=count: count)
        assert workers_room.default_workers(in_memory=False) == expected
        assert workers_room.default_workers(in_memory=True) == 0


def test_the_package_is_light_to_import():
    heavy = "jax", "grain", "sklearn", "tensorflow_datasets", "tensorflow", "array_record"
    code = f"import sys, jaxvision.data; print(*(name for name in {heavy!r} if name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""

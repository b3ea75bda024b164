"""The progress line tells the pace and the time left, without compilation in it, and is written sparingly."""

import io

from jaxvision.train.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def paced(stream, updates, *, total=100, start=0, compile_seconds=30.0, pace=2.0, every=10, close=False):
    """Updates every `every` steps at `pace` steps a second after a first one that also compiled."""
    now = [0.0]
    progress = Progress(total, 32, start, stream=stream, clock=lambda: now[0])
    for i in range(1, updates + 1):
        now[0] += every / pace + (compile_seconds if i == 1 else 0.0)
        progress.update(start + i * every, {"train/accuracy": 0.5, "train/loss": 1 / i, "test/accuracy": 0.25, "lr": 1e-3})
    if close:
        progress.close()
    return progress


def test_rate_images_loss_accuracy_and_time_left_are_shown():
    line = paced(io.StringIO(), 5).line()
    assert line == "step 50/100 50 % | 2 steps/s | 64 images/s | loss 0.2 | accuracy 0.5 | test/accuracy 0.25 | ETA 25 s"


def test_compilation_does_not_count_once_there_is_a_second_update():
    assert "ETA 5:15" in paced(io.StringIO(), 1).line()
    assert "ETA 40 s" in paced(io.StringIO(), 2).line()


def test_a_resumed_run_counts_its_pace_from_where_it_began():
    assert "step 70/100 70 % | 2 steps/s" in paced(io.StringIO(), 2, start=50).line()


def test_off_a_terminal_a_line_appears_at_most_every_ten_seconds_and_at_the_end():
    stream = io.StringIO()
    paced(stream, 100, total=1000, compile_seconds=0.0, pace=10.0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11 and "\r" not in stream.getvalue()
    assert lines[0].startswith("step 10/1000") and lines[1].startswith("step 110/1000")
    assert lines[-1].startswith("step 1000/1000 100 %") and lines[-1].endswith("took 1:40")


def test_an_evaluation_at_the_same_step_leaves_the_rate_alone():
    progress = paced(io.StringIO(), 5)
    progress.update(50, {"test/accuracy": 0.75})
    assert progress.line() == "step 50/100 50 % | 2 steps/s | 64 images/s | loss 0.2 | accuracy 0.5 | test/accuracy 0.75 | ETA 25 s"


def test_on_a_terminal_one_line_is_rewritten_and_ended_once(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    paced(stream, 10, close=True)
    text = stream.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n") and text.count("\r") == 10
    assert all(len(part.split("\x1b")[0]) < 60 for part in text.split("\r"))
    silent = Terminal()
    paced(silent, 0, close=True)
    assert silent.getvalue() == ""


def test_durations_read_like_a_clock():
    assert [duration(s) for s in (7.4, 187, 7387, 93787)] == ["7 s", "3:07", "2:03:07", "1 d 2:03:07"]


def test_another_batch_size_counts_images_from_where_it_begins():
    now = [0.0]
    progress = Progress(100, 32, stream=io.StringIO(), clock=lambda: now[0])
    for step in range(1, 7):
        now[0] += 1.0 if step < 5 else 0.5
        if step == 5:
            progress.rebatch(8)
        progress.update(step, {})
    assert "2 steps/s | 16 images/s" in progress.line()

"""A line every so often where there is no terminal."""

from __future__ import annotations

import pytest

from genrec.training.progress import Progress, in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3570, "1 h 0 min"), (11_100, "3 h 5 min")],
)
def test_durations(seconds, words):
    assert in_words(seconds) == words


def spoken(capsys, shown: bool = True, done: int = 0) -> list[str]:
    now = [0.0]
    with Progress("x", total=1000 + done, done=done, shown=shown, clock=lambda: now[0]) as progress:
        for step in range(1, 1001):
            now[0] += 0.125
            progress.advance(done + step)
            if step % 10 == 0:
                progress.report(done + step, 0.5, 10.0)
    out = capsys.readouterr()
    assert out.err == ""
    return out.out.splitlines()


def test_lines_come_after_five_seconds_then_every_thirty(capsys):
    lines = spoken(capsys)
    steps = [line.partition(",")[0] for line in lines]
    assert steps == ["step 40/1", "step 280/1", "step 520/1", "step 760/1"]
    assert lines[0] == "step 40/1,000, loss 0.5000, 10 steps/s, 2 min left"
    assert lines[-1].endswith("30 s left")


def test_a_resumed_run_counts_its_own_steps_for_the_time_left(capsys):
    assert spoken(capsys, done=9000)[0].endswith("2 min left")


def test_other_processes_are_silent(capsys):
    assert spoken(capsys, shown=False) == []


def test_slow_steps_are_told_before_their_loss_is_read(capsys):
    now = [0.0]
    with Progress("x", total=174, clock=lambda: now[0]) as progress:
        for step in range(1, 51):
            now[0] += 4.0
            progress.advance(step)
        progress.report(50, 0.5, 0.25)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 4/174, 0.25 steps/s, 11 min left"
    assert [line.partition("/")[0] for line in lines] == [f"step {n}" for n in (4, 14, 24, 34, 44)]

"""Jobs of a benchmark: their order, their folders, and commands that come to the same."""

from __future__ import annotations

import dataclasses
import itertools
import shlex

from hypothesis import given
from hypothesis import strategies as st

from genrec.benchmark.jobs import plan_jobs, shell_line
from genrec.benchmark.settings import BenchmarkSettings
from genrec.stages import Options, plan


def settings(**changes) -> BenchmarkSettings:
    known = {"models": {"a": "ease", "b": "sasrec/amazon"}, "dataset": "sample", "out": "nowhere"}
    return BenchmarkSettings(**(known | changes))


def test_fitted_models_have_one_job_and_trained_ones_one_a_seed():
    jobs = plan_jobs(settings(seeds=[3, 5]), ["genrec", "benchmark", "x"])
    assert [(job.model, job.seed) for job in jobs] == [("a", 0), ("b", 3), ("b", 5)]
    assert jobs[0].command == "genrec benchmark x --model a"
    assert "--gin sasrec.seed=3" in jobs[1].command
    assert "nowhere" not in jobs[1].command
    (step,) = jobs[1].steps()
    assert step.settings.seed == 3
    assert not step.settings.test_at_end
    assert step.run.parts == ("nowhere", "runs", "b", "seed-3", "sasrec")
    assert [job.model for job in plan_jobs(settings(), [], ["a"])] == ["a"]


def test_the_command_trains_what_the_job_trains(tmp_path):
    """Words and overrides in the table come to the same settings, apart from the folder."""
    job = plan_jobs(settings(bindings={"b": ["train.dropout_p=0.4"]}), [], ["b"])[1]
    words = shlex.split(job.command)[2:]
    bindings = [word for before, word in itertools.pairwise(words) if before == "--gin"]
    (told,) = plan([words[0]], Options(bindings=bindings, name=str(tmp_path)))
    (done,) = job.steps()
    place = {"save_dir_root": "", "test_at_end": True, "resume": False}
    assert dataclasses.replace(told.settings, **place) == dataclasses.replace(
        done.settings, **place
    )
    assert (told.settings.dropout_p, told.settings.seed) == (0.4, 1)


@given(st.lists(st.text(st.characters(exclude_characters="\x00", codec="utf-8"), min_size=1)))
def test_a_shell_reads_the_words_again(words):
    assert shlex.split(shell_line(words)) == words


def test_overrides_are_quoted_as_people_write_them():
    line = shell_line(["genrec", "--gin", "train.split='beauty'", "--gin", "train.x=[1, 2]"])
    assert line == "genrec --gin \"train.split='beauty'\" --gin 'train.x=[1, 2]'"

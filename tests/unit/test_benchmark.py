"""The parts of a benchmark: fitting over a grid, commands, and the order of its jobs."""

from __future__ import annotations

import dataclasses
import itertools
import shlex

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.benchmark.fitted import FITTED, check_grid, fit_best
from genrec.benchmark.jobs import plan_jobs, shell_line
from genrec.benchmark.settings import BenchmarkSettings
from genrec.errors import ConfigError
from genrec.rankers_linear import Ease


@pytest.fixture
def data(tmp_path, write_data):
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(12)[:6] for _ in range(30)]
    return write_data(tmp_path / "data", [f"i{n}" for n in range(12)], sequences=sequences)


def settings(**changes) -> BenchmarkSettings:
    known = {"models": {"a": "ease", "b": "sasrec/amazon"}, "dataset": "sample", "out": "nowhere"}
    return BenchmarkSettings(**(known | changes))


@pytest.mark.parametrize("kind", FITTED)
def test_without_a_grid_nothing_is_scored(data, kind):
    fit = fit_best(kind, data, {}, lambda ranker: pytest.fail("scored"))
    assert isinstance(fit.ranker, FITTED[kind])
    assert fit.chosen == {}
    assert fit.parameters == {"item-knn": 144, "ease": 144}.get(kind, 0)


def test_the_best_of_a_grid_is_kept_and_a_decay_needs_no_fit(data, monkeypatch):
    fitted, scored = [], []
    fit = Ease.fit.__func__

    def counted(cls, data, **how):
        fitted.append(how["ridge"])
        return fit(cls, data, **how)

    monkeypatch.setattr(Ease, "fit", classmethod(counted))
    monkeypatch.setattr("genrec.benchmark.fitted._settings", lambda kind: ["max_history"])
    monkeypatch.setattr("genrec.benchmark.fitted._whole", lambda kind, given: given)

    def score(ranker):
        scored.append(ranker.decay)
        return -abs(ranker.decay - 0.5) - len(fitted)  # the earlier fit is the better one

    found = fit_best("ease", data, {"ridge": [1.0, 9.0], "decay": [0.2, 0.6, 0.4]}, score)
    assert fitted == [1.0, 9.0]
    assert scored == [0.2, 0.6, 0.4] * 2
    assert found.chosen == {"ridge": 1.0, "decay": 0.6}  # of equals the first
    assert found.ranker.decay == 0.6
    assert np.allclose(found.ranker.weights, fit(Ease, data, ridge=1.0).weights)


def test_whole_numbers_of_a_grid_stay_whole(data):
    fit = fit_best("item-knn", data, {"num_neighbours": [3.0]}, lambda ranker: 0.0)
    assert fit.ranker.neighbours.shape == (12, 3)
    assert fit.chosen == {"num_neighbours": 3.0}
    with pytest.raises(ConfigError, match="got 'ridge'; did you mean shrinkage"):
        check_grid("item-knn", {"ridge": [1.0]})


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
    from genrec.stages import Options, plan

    job = plan_jobs(settings(bindings={"b": ["train.dropout_p=0.4"]}), [], ["b"])[1]
    words = shlex.split(job.command)[2:]
    bindings = [word for before, word in itertools.pairwise(words) if before == "--gin"]
    (told,) = plan([words[0]], Options(bindings=bindings, name=str(tmp_path)))
    (done,) = job.steps()
    place = {"save_dir_root": "", "test_at_end": True}
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

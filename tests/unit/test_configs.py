"""Every configuration in the repository parses, finalises, and binds what its stage knows."""

from __future__ import annotations

import re
from pathlib import Path

import gin
import pytest

from genrec.benchmark.jobs import plan_jobs
from genrec.benchmark.settings import BenchmarkSettings
from genrec.config import configure
from genrec.recipes import find_recipe
from genrec.stages import STAGES, Options, plan

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = ROOT / "configs"

#: Each folder of configs/, and the stage that its files configure.
STAGE_OF = {folder: name for name, stage in STAGES.items() for folder in stage.folders}

#: All of them, so that none can fall out of the search.
FILES = {
    "benchmark": ["beauty.gin", "movielens.gin", "sample.gin"],
    "decoder": [
        "amazon.gin",
        "amazon_cpu.gin",
        "movielens.gin",
        "paper.gin",
        "paper_cpu.gin",
        "paper_movielens.gin",
        "paper_sample.gin",
        "sample.gin",
    ],
    "rkmeans": ["amazon.gin"],
    "rqvae": [
        "amazon.gin",
        "movielens.gin",
        "paper.gin",
        "paper_movielens.gin",
        "paper_sample.gin",
        "sample.gin",
    ],
    "sasrec": ["amazon.gin", "amazon_plain.gin", "movielens.gin", "sample.gin"],
}


def files(folder: str) -> list[Path]:
    return sorted((CONFIGS / folder).rglob("*.gin"))


ALL = [pytest.param(path, id=str(path.relative_to(CONFIGS))) for path in CONFIGS.rglob("*.gin")]
BENCHMARKS = [one for one in ALL if one.id.startswith("benchmark/")]
RECIPES = [one for one in ALL if one not in BENCHMARKS]


def test_no_file_is_forgotten():
    assert {stage: [path.name for path in files(stage)] for stage in FILES} == FILES
    everywhere = sorted(CONFIGS.rglob("*.gin"))
    assert everywhere == sorted(path for stage in FILES for path in files(stage))


@pytest.mark.parametrize("path", RECIPES)
def test_every_file_makes_settings_of_its_stage(path):
    folder = path.relative_to(CONFIGS).parts[0]
    stage = STAGES[STAGE_OF[folder]]
    settings = configure(stage.settings, path)
    assert type(settings).__name__ == stage.settings_name
    assert gin.config_is_locked()
    bound = set(re.findall(r"^([\w./]+)\.\w+ = ", gin.config_str(), flags=re.MULTILINE))
    assert bound == {"train"}
    # A run that nobody said how long to train, or where to put, is a mistake.
    assert folder == "rkmeans" or settings.iterations or settings.epochs
    assert settings.save_dir_root.startswith(f"runs/{folder}")
    assert settings.without_effect() == []


HEADER = ("Paper", "Command", "Hardware", "Time", "Expected", "Validated")


@pytest.mark.parametrize("path", ALL)
def test_every_file_says_what_it_is(path):
    header = path.read_text().split("\n\n")[0]
    for word in HEADER:
        found = re.search(rf"^# {word}:\s+(\S.*)$", header, flags=re.MULTILINE)
        assert found, f"{path} has no line '# {word}:'"
    commands = re.findall(r"^# Command:\s+genrec (\w+) ([^\n]*?)(?: --.*)?$", header, re.MULTILINE)
    command, words = commands[0]
    if command == "benchmark":
        assert find_recipe(words, ("benchmark",)) == path
        return
    assert command == "train"
    (step,) = plan(words.split(), Options(name="nowhere-yet"))
    assert step.recipe == path


@pytest.mark.parametrize("path", BENCHMARKS)
def test_every_benchmark_can_be_planned(path, tmp_path):
    settings = configure(BenchmarkSettings, path, [f"benchmark.out='{tmp_path}'"], root="benchmark")
    jobs = plan_jobs(settings, ["genrec", "benchmark"])
    assert {job.model for job in jobs} == set(settings.models)
    assert all(not step.done for job in jobs if job.words for step in job.steps())
    assert list(tmp_path.iterdir()) == []

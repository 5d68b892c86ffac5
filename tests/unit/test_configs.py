"""Every configuration in the repository parses, finalises, and binds what its stage knows."""

from __future__ import annotations

import re
from pathlib import Path

import gin
import pytest

from genrec.benchmark.settings import BenchmarkSettings
from genrec.config import configure
from genrec.recipes import find_recipe
from genrec.stages import STAGES, Options, plan

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = ROOT / "configs"

#: Each folder of configs/, the settings that its files make, and the root that they bind.
SETTINGS = {folder: (s.settings, "train") for s in STAGES.values() for folder in s.folders}
SETTINGS["benchmark"] = (BenchmarkSettings, "benchmark")

#: All of them, so that none can fall out of the search.
FILES = {
    "benchmark": ["beauty.gin", "sample.gin"],
    "decoder": ["amazon.gin", "amazon_cpu.gin", "movielens.gin", "sample.gin"],
    "rkmeans": ["amazon.gin"],
    "rqvae": ["amazon.gin", "movielens.gin", "sample.gin"],
    "sasrec": ["amazon.gin", "movielens.gin"],
}


def files(folder: str) -> list[Path]:
    return sorted((CONFIGS / folder).rglob("*.gin"))


ALL = [pytest.param(path, id=str(path.relative_to(CONFIGS))) for path in CONFIGS.rglob("*.gin")]


def test_no_file_is_forgotten():
    assert {stage: [path.name for path in files(stage)] for stage in FILES} == FILES
    everywhere = sorted(CONFIGS.rglob("*.gin"))
    assert everywhere == sorted(path for stage in FILES for path in files(stage))


@pytest.mark.parametrize("path", ALL)
def test_every_file_makes_settings_of_its_kind(path):
    folder = path.relative_to(CONFIGS).parts[0]
    kind, root = SETTINGS[folder]
    settings = configure(kind, path, root=root)
    assert type(settings).__name__ == kind.__name__
    assert gin.config_is_locked()
    bound = set(re.findall(r"^([\w./]+)\.\w+ = ", gin.config_str(), flags=re.MULTILINE))
    assert bound == {root}
    if root == "train":
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
    said = r"^# Command:\s+genrec (train|benchmark) ([^\n]*?)(?: --.*)?$"
    command, words = re.findall(said, header, re.MULTILINE)[0]
    if command == "benchmark":
        assert find_recipe(words, ["benchmark"]) == path
    else:
        (step,) = plan(words.split(), Options(name="nowhere-yet"))
        assert step.recipe == path

"""Recipes are found by name from any folder, and travel in the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from genrec.errors import MissingPathError
from genrec.recipes import find_recipe, recipe_names, recipes_folder

ROOT = Path(__file__).resolve().parent.parent.parent
RQVAE = ("rqvae", "rkmeans")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("amazon", "rqvae/amazon.gin"),
        ("rkmeans/amazon", "rkmeans/amazon.gin"),
        ("sample", "rqvae/sample.gin"),
    ],
)
def test_by_name_from_any_folder(tmp_path, monkeypatch, name, found):
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name, RQVAE) == recipes_folder() / found


def test_a_file_is_taken_as_it_is(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("")
    assert find_recipe(str(path), RQVAE) == path


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("sampl", "did you mean sample, paper_sample?"),
        ("rqvae/amazn", "did you mean rqvae/amazon"),
        ("configs/rqvae/sampl.gin", "did you mean rqvae/sample"),
        ("decoder/sample", "did you mean rqvae/sample"),
    ],
)
def test_what_is_not_there_is_answered_with_the_near_names(name, near):
    with pytest.raises(MissingPathError, match="RECIPE must be an existing gin file") as caught:
        find_recipe(name, RQVAE)
    assert near in str(caught.value)


def test_an_installed_package_holds_its_recipes(tmp_path, monkeypatch):
    (tmp_path / "configs" / "rqvae").mkdir(parents=True)
    (tmp_path / "configs" / "rqvae" / "own.gin").write_text("")
    monkeypatch.setattr("genrec.recipes._PACKAGE", tmp_path)
    assert recipe_names(["rqvae"]) == ["rqvae/own"]


def test_the_package_takes_every_recipe_and_the_page_along(tmp_path, copy_package):
    """What a wheel holds: the step of its building that gathers the files, on a copy."""
    copy_package(tmp_path)
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", "built"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    built = tmp_path / "built" / "genrec"
    for folder, pattern, inside in (
        ("configs", "*.gin", "configs"),
        ("genrec", "*.py", "."),
        ("genrec", "page/*", "."),
        ("genrec", "static/*", "."),
    ):
        files = {path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob(pattern)}
        assert files
        assert {path.relative_to(built / inside) for path in built.rglob(pattern)} == files
    assert (built / "py.typed").is_file()

"""Recipes are found by name from any folder, and travel in the package."""

from __future__ import annotations

from pathlib import Path

import pytest
from setuptools import Distribution
from setuptools.config.pyprojecttoml import apply_configuration

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
        ("sampl", "did you mean sample?"),
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


def test_the_package_takes_every_recipe_along(monkeypatch):
    """What a wheel is built of, asked of setuptools without building one."""
    monkeypatch.chdir(ROOT)
    built: dict[str, Distribution] = {}
    monkeypatch.setattr("setuptools.setup", lambda **given: built.update(it=Distribution(given)))
    exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {})
    distribution = apply_configuration(built["it"], ROOT / "pyproject.toml")
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    taken = {
        f"{package}/{name}"
        for package, _, _, names in command.data_files
        for name in names
        if package == "genrec.configs"
    }
    recipes = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.gin")}
    assert taken == {f"genrec.configs/{path.as_posix()}" for path in recipes}
    modules = {package for package, _, _ in command.find_all_modules()}
    packages = {path.parent for path in (ROOT / "genrec").rglob("__init__.py")}
    assert {".".join(path.relative_to(ROOT).parts) for path in packages} <= modules

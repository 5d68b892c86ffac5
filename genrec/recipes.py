"""The recipes of ``configs/``, found by name from any folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from genrec.errors import MissingPathError, did_you_mean

__all__ = ["find_recipe", "recipe_name", "recipe_names", "recipes_folder"]

_PACKAGE = Path(__file__).resolve().parent


def recipes_folder() -> Path:
    """Give the folder of recipes: inside an installed package, beside it in a checkout."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def recipe_names(folders: Sequence[str]) -> list[str]:
    """List the recipes in some folders of ``configs/``, for example ``rqvae/amazon``."""
    root = recipes_folder()
    files = (file for folder in folders for file in sorted((root / folder).rglob("*.gin")))
    return [file.relative_to(root).with_suffix("").as_posix() for file in files]


def recipe_name(file: Path) -> str:
    """Name the recipe in a file, ``rqvae/amazon``; a file of one's own by its path."""
    root = recipes_folder()
    own = not file.is_relative_to(root)
    return str(file) if own else file.relative_to(root).with_suffix("").as_posix()


def find_recipe(name: str, folders: Sequence[str]) -> Path:
    """Find a recipe.

    Args:
        name: ``amazon``, ``rqvae/amazon``, or the path of a gin file.
        folders: Folders of ``configs/`` to look in; the first that has the name wins.

    Returns:
        The gin file.

    Raises:
        MissingPathError: If there is none.
    """
    if name.endswith(".gin") and Path(name).is_file():
        return Path(name)
    known = recipe_names(folders)
    for found in [name, *(f"{folder}/{name}" for folder in folders)]:
        if found in known:
            return recipes_folder() / f"{found}.gin"
    stem = name.removeprefix("configs/").removesuffix(".gin")
    choices = known if "/" in stem else [recipe.partition("/")[2] for recipe in known]
    raise MissingPathError(
        f"RECIPE must be an existing gin file or the name of a recipe, got {name}; "
        f"{did_you_mean(stem, choices)}"
    )

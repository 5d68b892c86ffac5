"""What is written for speed says what it equals, and names tests that use it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[4]
FOLDER = REPOSITORY / "genrec" / "modules" / "kernels"
KERNELS = [path for path in sorted(FOLDER.glob("*.py")) if path.stem != "__init__"]


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_a_kernel_names_its_plain_form_and_its_test(path: Path) -> None:
    top = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "\nEquals ``" in top
    shown = re.search(r"\nShown by: ([\w/., ]+)\.\n", top + "\n")
    assert shown, top
    assert [name for name in shown[1].split(", ") if not (REPOSITORY / name).is_file()] == []

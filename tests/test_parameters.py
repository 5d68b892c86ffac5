"""No function takes more than twelve parameters after its first: split what it is told."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "genrec"
KERNELS = PACKAGE / "modules" / "kernels"  # a kernel is told all that it computes with
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if KERNELS not in path.parents]
MOST = 12


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> int:
    """Count the parameters after ``self`` or ``cls`` and the first."""
    given = function.args
    names = [known.arg for known in given.posonlyargs + given.args + given.kwonlyargs]
    names += [known.arg for known in (given.vararg, given.kwarg) if known is not None]
    return len(names) - (names[:1] in (["self"], ["cls"])) - 1


def too_long(source: str) -> list[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    return [
        f"line {node.lineno}: {num_parameters(node)} parameters"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, kinds) and num_parameters(node) > MOST
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_function_is_told_too_much(path: Path) -> None:
    assert too_long(path.read_text()) == []


def test_the_rule_bites() -> None:
    names = ", ".join(f"p{i}" for i in range(12))
    assert too_long(f"def f(first, *, {names}): ...") == []
    assert too_long(f"class C:\n    def f(self, first, {names}): ...") == []
    assert too_long(f"def f(first, {names}, **more): ...") == ["line 1: 13 parameters"]

"""The mutation run: what it changes, and that it tells what is noticed from what is not."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

SOURCE = '''
"""Text."""
__all__ = ["f"]
import math

@d(frozen=True, x=True)
def f(a: int = 3, *, b="x"):
    assert a > 0
    c = a
    c = -1
    if not a:
        raise ValueError(f"a must not be {a}, got " + str(a - 1))
    return c[1:] + b
'''
CHANGES = """
d(frozen=True, x=True) -> lambda f: f
d(frozen=True, x=True) -> d(frozen=True, x=False)
3 -> 4
3 -> 2
c = -1 -> pass
-1 -> 1
-1 -> 0
-1 -> -2
not a -> a
not a -> True
not a -> False
raise ValueError(f'a must not be {a}, got ' + str(a - 1)) -> pass
return c[1:] + b -> return None
c[1:] + b -> c[1:] - b
c[1:] -> c[2:]
c[1:] -> c[0:]
"""


def test_one_place_is_changed_at_a_time(repository, monkeypatch):
    monkeypatch.syspath_prepend(repository / "scripts")
    from mutating import mutants

    tree = ast.parse(SOURCE)
    before, texts, codes = ast.unparse(tree), [], []
    for mutant in mutants(tree, "m"):
        assert ast.unparse(tree) == before
        texts.append(mutant.text.removeprefix("m.f: "))
        changed = ast.parse(SOURCE)
        (same,) = [other for other in mutants(changed, "m") if other.text == mutant.text]
        same.apply()
        codes.append(ast.unparse(changed))
    assert sorted(texts) == sorted(CHANGES.strip().splitlines())
    assert len({*codes, before}) == len(texts) + 1


@pytest.mark.parametrize(
    ("tests", "status", "told"),
    [
        ("tests/unit/test_metrics.py", 0, "1 changes, 1 noticed, 0 listed, 0 not noticed"),
        ("tests/unit/test_seeding.py", 1, "1 changes, 0 noticed, 0 listed, 1 not noticed"),
    ],
)
def test_a_change_is_noticed_by_the_tests_of_its_file(repository, tests, status, told):
    file = "genrec/evaluation/metrics.py"
    lines = (repository / file).read_text().splitlines()
    (line,) = [n for n, text in enumerate(lines, 1) if "return float(shown.double" in text]
    done = subprocess.run(
        [sys.executable, str(repository / "scripts" / "mutate.py"), file, "--tests", tests,
         "--lines", f"{line}-{line}"],
        capture_output=True,
        text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert told in done.stdout
    assert ("NOT NOTICED: `metrics.coverage: return" in done.stdout) == bool(status)

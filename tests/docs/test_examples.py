"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import genrec

MODULES = [module.name for module in pkgutil.walk_packages(genrec.__path__, "genrec.")]
WITH_EXAMPLES = [
    name
    for name in MODULES
    if name != "genrec.__main__"
    and any(test.examples for test in doctest.DocTestFinder().find(importlib.import_module(name)))
]


def test_there_are_examples():
    assert len(WITH_EXAMPLES) > 10


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert result.failed == 0

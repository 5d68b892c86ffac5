"""Change one place of a file at a time, and see whether the file's tests notice.

    python scripts/mutate.py                                    # all files of TESTS
    python scripts/mutate.py genrec/decoding/trie.py --lines 230-260

A change is made in memory, in a forked process that runs the tests until one fails, so that torch
is imported once. Tests that start other processes see nothing of it and are no use here. A change
that is not noticed must stand in docs/mutation.md, with the reason, in the words that are printed.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mutating import Mutant, mutants

REPOSITORY = Path(__file__).resolve().parent.parent
_LISTED = REPOSITORY / "docs" / "mutation.md"
_TESTS = "tests/unit/"
_EXAMPLES = 30
_MOST_BYTES = 8 << 30
_DECODING = [
    "decoding/test_trie.py",
    "decoding/test_beam_search.py",
    "decoding/test_legal.py",
    "decoding/test_item_paths.py",
    "decoding/test_array_search.py",
]

#: The tests of each file, the quickest to notice first.
TESTS = {
    "genrec/checkpoint.py": ["test_checkpoint.py"],
    "genrec/data/splits.py": ["data/test_splits.py"],
    "genrec/decoding/beam_search.py": _DECODING,
    "genrec/decoding/legal.py": [_DECODING[2], *_DECODING[:2]],
    "genrec/decoding/trie.py": _DECODING,
    "genrec/evaluation/evaluator.py": ["test_evaluator.py"],
    "genrec/evaluation/metrics.py": ["test_metrics.py"],
    "genrec/tokenizer/collisions.py": ["tokenizer/test_collisions.py"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=sorted(TESTS), help="[all of TESTS]")
    parser.add_argument("--tests", nargs="+", help="tests in place of those of TESTS")
    parser.add_argument("--lines", default="1-99999", help="lines to change, as 10-20 [all]")
    told = parser.parse_args()
    os.chdir(REPOSITORY)
    os.environ.update(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    first, last = map(int, told.lines.split("-"))
    unlisted = 0
    for file in told.files:
        tests = told.tests or [_TESTS + name for name in TESTS[file]]
        unlisted += _run(file, tests, first, last)
    return 1 if unlisted else 0


def _run(file: str, tests: Sequence[str], first: int, last: int) -> int:
    """Try all changes of a file; return how many were neither noticed nor listed."""
    tree = ast.parse(Path(file).read_text("utf-8"))
    used = _try(None, tree, file, tests, cpu_s=600)
    if used is None:
        raise SystemExit(f"error: the tests of {file} must pass unchanged, got a failure of them")
    began, listed, counts = time.monotonic(), _LISTED.read_text("utf-8"), [0, 0, 0, 0]
    for mutant in mutants(tree, Path(file).stem):
        if not first <= mutant.line <= last:
            continue
        counts[0] += 1
        if _try(mutant, tree, file, tests, cpu_s=10 + 4 * used) is None:
            counts[1] += 1
            continue
        known = f"`{mutant.text}`" in listed
        counts[2 if known else 3] += 1
        print(f"{file}:{mutant.line}: {'listed' if known else 'NOT NOTICED'}: `{mutant.text}`",
              flush=True)  # fmt: skip
    seconds = time.monotonic() - began
    print(f"{file}: {counts[0]} changes, {counts[1]} noticed, {counts[2]} listed, {counts[3]} not "
          f"noticed and not listed, {seconds:.0f} s", flush=True)  # fmt: skip
    return counts[3]


def _try(
    mutant: Mutant | None, tree: ast.Module, file: str, tests: Sequence[str], *, cpu_s: float
) -> float | None:
    """Run the tests in a fork; return their seconds of CPU, or None where they did not pass."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(read)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s), int(cpu_s) + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
        status = 1
        try:
            if mutant is not None:
                mutant.apply()
            sys.meta_path.insert(0, _Finder(file, tree))
            _quiet_hypothesis()
            import pytest

            for test in tests:
                status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", test]))
                if status:
                    break
            os.write(write, json.dumps(sorted(sys.modules)).encode())
        finally:
            os._exit(status)
    os.close(write)
    watch = signal.signal(signal.SIGALRM, lambda *_: os.killpg(child, signal.SIGKILL))
    signal.alarm(60 + 20 * int(cpu_s))  # for what waits without using any CPU
    with os.fdopen(read, "rb") as told:
        modules = told.read()
    _, status, usage = os.wait4(child, 0)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, watch)
    if status != 0:
        return None
    if mutant is None:
        _import(json.loads(modules))
    return usage.ru_utime + usage.ru_stime


def _import(names: Sequence[str]) -> None:
    """Import what the tests import, but for what is tested, so that each fork has it."""
    for name in names:
        if name.partition(".")[0] not in ("genrec", "tests", "conftest", "__main__"):
            try:
                importlib.import_module(name)
            except Exception:  # made by a test, or not to be imported by itself
                continue


def _quiet_hypothesis() -> None:
    """The same few draws for each change, none kept, and no search for the smallest failure."""
    import hypothesis

    settings = hypothesis.settings
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    checks = list(hypothesis.HealthCheck)
    settings.register_profile("mutate", database=None, derandomize=True, deadline=None,
                              phases=phases, suppress_health_check=checks)  # fmt: skip
    settings.load_profile("mutate")

    def fewer(max_examples: int = _EXAMPLES, **options: Any) -> Any:
        return settings(max_examples=min(max_examples, _EXAMPLES), **options)

    hypothesis.settings = fewer  # type: ignore


class _Finder:
    """Gives the changed module in place of the one on the disk."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        self.path, self.tree = str(REPOSITORY / file), tree
        self.name = file.removesuffix(".py").replace("/", ".")

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name != self.name:
            return None
        loader = importlib.machinery.SourceFileLoader(name, self.path)
        loader.get_code = lambda fullname: compile(self.tree, self.path, "exec")  # type: ignore
        return importlib.util.spec_from_file_location(name, self.path, loader=loader)


if __name__ == "__main__":
    raise SystemExit(main())

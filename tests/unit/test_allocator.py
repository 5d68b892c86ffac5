"""Freed memory is kept where that is asked for, and a user's own setting wins."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Faults that the kernel serves while arrays of 48 MiB come and go.
SCRIPT = """
import resource, sys
import torch
from genrec.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    print(keep_freed_memory())
for turn in range(25):
    if turn == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(12 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(word: str, **variables: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, word],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        check=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc")
def test_arrays_are_not_faulted_in_anew():
    (usual,) = run("leave")
    said, kept = run("keep")
    assert said == "True"
    assert int(usual) > 1000
    assert int(kept) < int(usual) / 2


BREAK = """
import ctypes
import torch
from genrec.allocator import keep_freed_memory

keep_freed_memory()
here = ctypes.CDLL(None).sbrk
here.restype = ctypes.c_void_p
large = torch.empty(3 << 30, dtype=torch.uint8)  # never touched, so it costs no memory
before = here(0)
del large
print(before == here(0))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc")
def test_more_than_two_gibibytes_are_kept():
    command = [sys.executable, "-c", BREAK]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


def test_a_setting_of_the_user_wins():
    said, _ = run("keep", MALLOC_TRIM_THRESHOLD_="100000")
    assert said == "False"

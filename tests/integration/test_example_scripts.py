"""The scripts of `examples/` run in an empty folder and say what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_runs(script, tmp_path):
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Recommender(48 items, generation on cpu, runs/decoder)" in done.stdout
    _, _, answers = done.stdout.partition("Recommendations(3 items)\n")
    after_reds, like_a_red_bowl = answers.split("Recommendations(3 items)\n")
    assert after_reds.count("[red-") == 3
    assert like_a_red_bowl.count("[red-") == 3
    assert "customer 1" in like_a_red_bowl
    assert "red-99" not in after_reds


def test_there_are_some():
    assert list(EXAMPLES.glob("*.py"))

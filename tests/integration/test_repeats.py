"""Two quick starts print the same tables and recommendations, on one thread and on two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = (
    "train sample --resume --gin decoder.test_at_end=False "
    "--gin rqvae.iterations=30 --gin decoder.iterations=40 --gin decoder.full_eval_every=20",
    "evaluate runs/decoder/sample --reuse -k 5 -k 10",
    "recommend runs/decoder/sample --users 3 -k 5",
)


def quick_start(folder: Path, threads: int) -> list[str]:
    """Run the commands of scripts/quickstart.sh, shorter, in a folder; what the last two print."""
    said = []
    folder.mkdir()
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "genrec", *command.split()],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)},
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        said.append("\n".join(line for line in lines if not line.endswith(" users/s")))
    return said[1:]


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_two_quick_starts_say_the_same(tmp_path, repository, threads):
    script = (repository / "scripts" / "quickstart.sh").read_text()
    for command in COMMANDS:  # those that the script runs
        first = command.split(" --")[0].replace("runs/decoder/sample", '"$run"')
        assert f"genrec {first}" in script
    first, second = (quick_start(tmp_path / name, threads) for name in ("first", "second"))
    assert first == second
    assert "popularity, item level" in first[0]
    weights = [
        next((tmp_path / n / "runs/decoder/sample").glob("step_40/*.safetensors"))
        for n in ("first", "second")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()

"""The soak in its short form: nothing is lost, nothing changes in silence, nothing escapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys


def test_the_short_soak(repository, tmp_path):
    words = ["--kills", "5", "--faults", "8", "--flips", "60", "--fuzz", "250", "--seconds", "120"]
    done = subprocess.run(
        [sys.executable, str(repository / "scripts" / "soak.py"), "--json", *words],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] >= 3  # a command may end before its moment comes
    assert found["kills_ok"] == found["kills"]
    assert found["faults_ok"] == found["faults"] >= 8
    assert (found["flips"], found["flips_silent"]) == (60, 0)
    assert found["fuzz_inputs"] >= 200
    assert found["fuzz_failures"] == 0

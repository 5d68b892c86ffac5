"""The benchmarks run, on the sample and as small as they go, and print the keys they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "scripts"


@pytest.mark.parametrize(
    ("script", "words", "keys"),
    [
        (
            "bench_decode.py",
            "--users 6 --beams 10",
            "results users items device threads versions",
        ),
        (
            "bench_train.py",
            "--steps 1 --hf-steps 1 --batch-size 16",
            "samples_per_s packed_samples_per_s hf_samples_per_s ratio packed_ratio",
        ),
        ("bench_index.py", "--items 1000,2000 --codes 16", "results device versions"),
        (
            "bench_items.py",
            "--users 6 --hf-users 2 --beams 10 --steps 1 --items 1000,2000",
            "search training file large data items width threads versions",
        ),
        (
            "bench_onnx.py",
            "--users 6 --batches 6,1 --seconds 0",
            "results check model threads export_s versions",
        ),
        ("bench_rqvae.py", "--steps 1", "steps_per_s mlp_steps_per_s items_per_s peak_mib"),
        (
            "bench_scale.py",
            "--items 2000 --rows 64 --steps 1",
            "targets_per_core_second bytes_a_row step_in_shards mask_us items versions",
        ),
        ("bench_tokenize.py", "--items 2000 --width 8 --codes 16", "results versions"),
    ],
)
def test_a_benchmark_runs(script, words, keys, tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), "--json", *words.split()],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GENREC_TEST_DATA": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(keys.split()) <= set(found)
    if script == "bench_onnx.py":
        assert found["check"]["same_top_10"] == 1.0
    if script == "bench_decode.py":
        assert found["results"][0]["same_topk"] == 1.0


@pytest.mark.slow
def test_the_benchmark_of_the_service_runs(sample_decoder, tmp_path):
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    words = [str(sample_decoder), "--json", "--seconds", "0.2", "--users", "40"]
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "bench_serve.py"), *words],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    known = {
        "results",
        "library_users_per_s",
        "library_cpu_us",
        "library_small_batch",
        "users",
        "cores",
        "versions",
    }
    assert known <= set(found)
    assert list(found["results"]) == ["1", "8", "64"]
    for row in found["results"].values():
        names = (
            *("requests_per_s", "p50_ms", "p99_ms", "errors"),
            *("server_cpu_us", "client_cpu_us"),
        )
        wanted = {f"{kind}_{name}" for kind in ("batched", "alone") for name in names}
        assert wanted | {"times_alone", "of_library"} == set(row)
        assert (row["batched_errors"], row["alone_errors"]) == (0, 0)
        assert row["batched_requests_per_s"] > 0

"""The wheel, without the repository, goes the whole way in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

SMALL = ("rqvae.iterations=20", "rqvae.kmeans_after_epochs=1", "decoder.iterations=5")


#: Of this process without what would show it the repository.
KEEP = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def installed(copy_package, tmp_path_factory) -> Path:
    """The command of a fresh environment that has the wheel, and the dependencies of this one."""
    work = tmp_path_factory.mktemp("wheel")
    (work / "copy").mkdir()
    copy_package(work / "copy")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", ".", "./copy"]
    subprocess.run(build, check=True, cwd=work, env=KEEP)
    shutil.rmtree(work / "copy")
    environment = work / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    (wheel,) = work.glob("*.whl")
    install = [*pip, "--python", str(python), "install", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, env=KEEP)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin" / "genrec"


@pytest.mark.slow
def test_the_whole_way(installed, tmp_path):
    def genrec(*words: str) -> str:
        done = subprocess.run(
            [str(installed), *words],
            cwd=tmp_path,
            env={**KEEP, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    genrec("sample", "shop")
    genrec("train", "sample", "--data", "shop", *(w for b in SMALL for w in ("--gin", b)))
    assert "item level" in genrec("evaluate", "runs/decoder/sample", "-k", "10", "--beams", "10")
    answers = genrec("recommend", "runs/decoder/sample", "--users", "2", "-k", "3", "--json")
    assert [len(json.loads(line)["recommended"]) for line in answers.splitlines()] == [3, 3]
    genrec(
        "train",
        "sasrec",
        "amazon",
        "--data",
        "shop",
        "--name",
        "shop",
        "--gin",
        "train.dataset='sample'",
        "--gin",
        "train.dataset_split=None",
        "--gin",
        "train.encoder_model_name='tfidf'",
        "--gin",
        "train.iterations=5",
    )
    assert "SASRec" in genrec("evaluate", "runs/decoder/sample", "runs/sasrec/shop", "-k", "10")
    written = genrec("report", "runs/decoder/sample", "runs/sasrec/shop", "--users", "50")
    assert written.startswith("wrote report.html, ")

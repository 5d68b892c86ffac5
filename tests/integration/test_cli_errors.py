"""Bad input of the scripts and commands: one line, exit status 2, nothing written."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

from genrec.data.prepared import is_prepared

RQVAE = ("train_rqvae.py", "configs/rqvae/paper_sample.gin")
DECODER = ("train_decoder.py", "configs/decoder/paper_sample.gin")


def binding(name: str, value: object) -> tuple[str, str]:
    return ("--gin", f"train.{name}={value!r}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*RQVAE, *binding("dataset_folder", "nowhere")), "dataset folder must exist, got nowhere"),
        (
            (*RQVAE, *binding("learning_rat", 1)),
            "setting must exist, got train.learning_rat; did you mean learning_rate?",
        ),
        ((*RQVAE, *binding("encoder_model_name", "{bad}")), "one row an item, 1000, got (5, 8)"),
        ((*RQVAE, *binding("vae_codebook_size", 0)), "codebook_size"),
        ((*RQVAE, *binding("collision_policy", "dedup")), "did you mean dedup_token?"),
        (("train_rqvae.py", "configs/rqvae/sampl.gin"), "existing gin file"),
        ((*DECODER, *binding("pretrained_rqvae_path", "nowhere")), "must be a stage-one run"),
        (("evaluate_decoder.py", "nowhere"), "run must be a folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scripts(launch, tmp_path, words, message):
    bad = tmp_path / "bad.npy"
    np.save(bad, np.zeros((5, 8), dtype=np.float32))
    target = tmp_path / "run"
    words = [str(word).replace("{bad}", str(bad)) for word in words]
    if words[0].startswith("train"):
        words += binding("save_dir_root", str(target))
    if words[0] == "train_rqvae.py":
        words += binding("processed_dir", str(tmp_path / "processed"))
    done = launch(*words)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not target.exists()
    # A data set that was prepared before the error showed is whole and serves the next call.
    left = {
        path for path in tmp_path.glob("processed/*/") if path.name not in ("embeddings", "sample")
    }
    assert all(is_prepared(path) for path in left)


@pytest.mark.parametrize("config", [RQVAE, DECODER], ids=["stage one", "stage two"])
def test_a_mistake_costs_no_older_run(launch, sample_tokenizer, sample_decoder, tmp_path, config):
    older = sample_tokenizer if config is RQVAE else sample_decoder
    run = shutil.copytree(older, tmp_path / "run")
    before = sorted(path.relative_to(run) for path in run.rglob("*"))
    stage_one = binding("pretrained_rqvae_path", str(sample_tokenizer))
    done = launch(
        *config,
        *(stage_one if config is DECODER else ()),
        *binding("save_dir_root", str(run)),
        *binding("overwrite", True),
        *binding("optimizer", "adamm"),
    )
    assert done.returncode == 2
    assert "optimizer must be known, got 'adamm'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == before


def test_unknown_split(launch, tmp_path):
    (tmp_path / "beauty").mkdir()
    (tmp_path / "beauty" / "sequential_data.txt").write_text("1 1 2 3\n")
    config = ("train_rqvae.py", "configs/rqvae/amazon.gin", "--split", "beuty")
    done = launch(
        *config,
        *binding("dataset_folder", str(tmp_path)),
        *binding("save_dir_root", str(tmp_path / "run")),
    )
    assert done.returncode == 2
    assert "got 'beuty'; did you mean beauty?" in done.stderr
    assert not (tmp_path / "run").exists()


def test_ids_of_other_items(launch, sample_tokenizer, tmp_path):
    log = tmp_path / "interactions.csv"
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n" + "".join(f"i{k},thing {k}\n" for k in range(30)))
    log.write_text(
        "user_id,item_id,timestamp\n"
        + "".join(f"u{u},i{(u * 7 + k) % 30},{k}\n" for u in range(20) for k in range(6))
    )
    done = launch(
        *DECODER,
        *binding("pretrained_rqvae_path", str(sample_tokenizer)),
        *binding("dataset", "tables"),
        *binding("dataset_folder", str(tmp_path)),
        *binding("processed_dir", str(tmp_path / "processed")),
        *binding("save_dir_root", str(tmp_path / "run")),
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "items" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tokenize", "nowhere"), "RUN_DIR must be a folder"),
        (("diagnose", "nowhere"), "RUN_DIR must be a run folder"),
        (("recommend", "nowhere"), "run must be a folder"),
        (("evaluate", "nowhere"), "run must be a folder"),
        (("prepare", "nowhere", "--out", "out"), "nowhere"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_commands(tmp_path, words, message):
    done = subprocess.run(
        [sys.executable, "-m", "genrec", *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_under_a_quiet_launcher_is_one_line(tmp_path):
    """Accelerate ends with 1 whatever the status was, and without --quiet adds a traceback."""
    words = ["--quiet", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    words += ["--num_cpu_threads_per_process", "1"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "genrec", "train", "sampl"]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: WHAT must be a stage, a recipe or a gin file, got 'sampl'"
    )
    assert done.stderr.count("\n") == 1

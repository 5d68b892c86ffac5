"""Stage one from its root to the semantic IDs, on a small catalogue of near duplicates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec.checkpoint import RunDirectory, load_model_files
from genrec.commands.tokenize import tokenize_run
from genrec.data.prepared import PreparedDataset
from genrec.errors import ConfigError, DataError
from genrec.models.rqvae import QuantizeForwardMode, RqVae
from genrec.reporting.diagnose import diagnose_run
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.training.rqvae import RqVaeSettings, train

NUM_ITEMS, WIDTH = 600, 24
Train = Callable[..., Path]

#: What diagnosis says of every run here: two variants of a kind are hard to tell apart.
COLLISIONS = "many items of equal codes"

#: Mean losses of steps 1 to 10 of :func:`test_ten_steps_give_the_recorded_losses`.
GOLDEN = [
    1.11173,
    1.04676,
    1.05373,
    1.01841,
    1.01627,
    1.01609,
    1.00596,
    1.01274,
    1.01769,
    1.01838,
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_data: Any) -> PreparedDataset:
    """600 items in 40 groups, each of five kinds of three variants: a catalogue in small."""
    rng = np.random.default_rng(0)
    groups = rng.normal(size=(40, 1, 1, 6))
    kinds = groups + 0.5 * rng.normal(size=(40, 5, 1, 6))
    tastes = (kinds + 0.2 * rng.normal(size=(40, 5, 3, 6))).reshape(NUM_ITEMS, 6)
    items = np.tanh(tastes @ rng.normal(size=(6, WIDTH)))
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    keys = [f"item-{i}" for i in range(NUM_ITEMS)]
    path = tmp_path_factory.mktemp("data") / "prepared"
    return write_data(path, keys, items.astype(np.float32), sequences=[[0, 1, 2]])


@pytest.fixture
def run(data: PreparedDataset, tmp_path: Path) -> Train:
    """A function that trains and returns the run's folder."""

    def call(name: str = "run", **options: Any) -> Path:
        settings: dict[str, Any] = {
            "dataset": "tables",
            "dataset_folder": str(data.path),
            "save_dir_root": str(tmp_path / name),
            "epochs": 30,
            "batch_size": 60,
            "learning_rate": 3e-3,
            "kmeans_after_epochs": 5,
            "vae_embed_dim": 8,
            "vae_hidden_dims": (48, 24),
            "vae_codebook_size": 16,
        }
        return train(RqVaeSettings(**(settings | options)))

    return call


def evaluation(run_dir: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run_dir / "meta.json").read_text())["evaluation"]
    return found


def test_a_run_leaves_everything_that_stage_two_needs(
    run: Train, data: PreparedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run(eval_every=150, save_model_every=100)
    said = capsys.readouterr().out
    for words in ("last", "best_loss", "best_collision", "R2", "collisions", "run: "):
        assert words in said
    meta = json.loads((run_dir / "meta.json").read_text())
    assert meta["items_fingerprint"] == data.items_fingerprint
    assert meta["prepared"] == str(data.path.resolve())
    assert meta["steps"] == 300
    directory = RunDirectory(run_dir)
    for pointer in ("latest", "best_loss", "best_collision"):
        assert directory.pointed(pointer) is not None
    table = SemanticIdTokenizer.load(run_dir)
    table.check_items(data.items_fingerprint)
    assert table.num_levels == 4
    assert len(np.unique(table.ids, axis=0)) == NUM_ITEMS
    model = RqVae.load_from_checkpoint(run_dir)
    ids = model.get_semantic_ids(torch.from_numpy(np.array(data.item_embeddings)))
    assert np.array_equal(ids.numpy(), table.ids[:, :3])
    assert evaluation(run_dir)["eval/r2"] > 0.8
    assert meta["semantic_ids"]["reassign_cost"] < 0.01
    (finding,) = diagnose_run(run_dir)
    assert finding.trouble == COLLISIONS
    assert f"{meta['semantic_ids']['reassign_cost']:.4f} of R2" in finding.settings[0]


def test_the_same_seed_gives_the_same_ids(run: Train) -> None:
    first, second = run("first", epochs=8, seed=3), run("second", epochs=8, seed=3)
    other = run("other", epochs=8, seed=4)
    prints = [SemanticIdTokenizer.load(r).fingerprint for r in (first, second, other)]
    assert prints[0] == prints[1] != prints[2]


RESUMABLE: dict[str, dict[str, Any]] = {
    "gradient and separation": {"separation_weight": 10.0, "separation_after_epochs": 6},
    "ema and dead codes": {"codebook_update": "ema", "dead_code_steps": 3},
    "gumbel and dropout": {
        "vae_codebook_mode": QuantizeForwardMode.GUMBEL_SOFTMAX,
        "gumbel_temperature_end": 0.1,
        "vae_dropout": 0.1,
    },
    "sim_vq and batch norm": {"vae_sim_vq": True, "vae_batch_norm": True, "dead_code_steps": 3},
}


@pytest.mark.parametrize("options", RESUMABLE.values(), ids=RESUMABLE)
@pytest.mark.parametrize("stop", [33, 87], ids=["in the warm-up", "amid an epoch"])
def test_resuming_repeats_an_unbroken_run(
    run: Train, options: dict[str, Any], stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunDirectory, "_prune", lambda self: None)  # keep the step to resume from
    settings = options | {"epochs": 10, "save_model_every": stop, "schedule": "cosine"}
    whole = run("whole", **settings)
    _, expected = load_model_files(whole, prefer=("latest",))
    broken = whole.with_name("broken")
    shutil.copytree(whole, broken)
    directory = RunDirectory(broken)
    for step in directory.steps():
        if step > stop:
            shutil.rmtree(directory.step_path(step))
    assert directory.steps()[-1] == stop
    directory.point("latest", stop)
    run("broken", **settings, resume=True)
    _, found = load_model_files(broken, prefer=("latest",))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_ten_steps_give_the_recorded_losses(run: Train) -> None:
    run_dir = run(iterations=10, kmeans_after_epochs=0, log_every=1, seed=1, separation_weight=1.0)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert losses == pytest.approx(GOLDEN, rel=2e-4)


MODES: dict[str, dict[str, Any]] = {
    mode.name: {"vae_codebook_mode": mode} for mode in QuantizeForwardMode
} | {
    "EMA": {"codebook_update": "ema"},
}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_no_mode_collapses(
    run: Train, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run(epochs=30, gumbel_temperature_end=0.05, **options)
    metrics = evaluation(run_dir)
    for level in (1, 2, 3):
        assert metrics[f"eval/codes_used_{level}"] >= 15
        assert metrics[f"eval/perplexity_{level}"] > 10
    assert metrics["eval/r2"] > 0.7
    assert "warning" not in capsys.readouterr().out
    assert {finding.trouble for finding in diagnose_run(run_dir)} <= {COLLISIONS}


def test_sabotage_is_seen_by_alarm_and_diagnosis(
    run: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run(
        learning_rate=1.0,
        use_kmeans_init=False,
        kmeans_after_epochs=0,
        log_every=10,
        eval_every=150,
    )
    said = capsys.readouterr().out
    assert "warning: level 1" in said
    assert "train.use_kmeans_init=True" in said
    findings = {finding.trouble: finding for finding in diagnose_run(run_dir)}
    assert "codebook collapse" in findings
    settings = " ".join(findings["codebook collapse"].settings)
    assert "train.use_kmeans_init" in settings
    assert "train.learning_rate" in settings


def test_separation_lowers_collisions_and_keeps_r2(run: Train) -> None:
    options = {"epochs": 30, "vae_codebook_size": 32}
    plain = evaluation(run("plain", **options))
    separated = evaluation(
        run("separated", **options, separation_weight=20.0, separation_after_epochs=12)
    )
    assert separated["eval/collision_rate"] < 0.7 * plain["eval/collision_rate"]
    assert separated["eval/r2"] > plain["eval/r2"] - 0.03


def test_held_out_items_give_their_own_loss(run: Train) -> None:
    run_dir = run(val_ratio=0.2, eval_every=50, patience=2, epochs=200)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    held_out = [row["val/reconstruction_loss"] for row in rows if "val/r2" in row]
    meta = json.loads((run_dir / "meta.json").read_text())
    assert meta["steps"] < 200 * 8  # stopped early
    assert min(held_out) == held_out[-3]
    assert SemanticIdTokenizer.load(run_dir).num_items == NUM_ITEMS


@pytest.mark.parametrize("tokenizer", ["residual_kmeans", "balanced_residual_kmeans"])
def test_residual_kmeans_leaves_the_same_kind_of_run(run: Train, tokenizer: str) -> None:
    with pytest.warns(UserWarning, match="without effect .*: .*learning_rate.*vae_embed_dim"):
        run_dir = run(tokenizer=tokenizer)
    table = SemanticIdTokenizer.load(run_dir)
    assert table.num_items == NUM_ITEMS
    assert ResidualKMeans.load_from_checkpoint(run_dir).codebook_sizes == (16, 16, 16)
    assert evaluation(run_dir)["eval/r2"] > 0.7
    assert {finding.trouble for finding in diagnose_run(run_dir)} <= {COLLISIONS}


def test_training_goes_on_from_other_weights(run: Train) -> None:
    first = run("first", epochs=20)
    _, expected = load_model_files(first)
    second = run(
        "second",
        iterations=1,
        epochs=None,
        pretrained_rqvae_path=str(first),
        learning_rate=1e-9,
        kmeans_after_epochs=0,
    )
    _, found = load_model_files(second)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "width": ({"vae_input_dim": 768}, "vae_input_dim must equal the width .* 24, got 768"),
    "tokenizer": ({"tokenizer": "rqkmeans"}, "tokenizer must be known, got 'rqkmeans'"),
    "room": (
        {"collision_policy": "reassign", "vae_codebook_size": 2},
        "collision_policy 'reassign' must have a tuple of codes an item, got .* items for 2 x 2",
    ),
    "policy": (
        {"collision_policy": "dedup"},
        "collision_policy must be known, got 'dedup'; did you mean dedup_token",
    ),
    "length": ({"epochs": None}, "iterations or epochs must be given"),
    "ratio": ({"val_ratio": 1.0}, "val_ratio must be >= 0 and < 1, got 1.0"),
    "temperature": ({"gumbel_temperature": 0.0}, "gumbel_temperature must be > 0"),
    "optimizer": ({"optimizer": "adamv"}, "optimizer must be known, got 'adamv'"),
    "balance": (
        {"vae_codebook_mode": QuantizeForwardMode.SINKHORN, "batch_size": 15},
        "must hold at least as many items as a level has codes, 16, got 15",
    ),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_named(run: Train, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(**options)


def test_a_tail_that_is_not_categorical_is_refused(run: Train) -> None:
    with pytest.raises(DataError, match="the last vae_n_cat_feats = 3 features must be 0 or 1"):
        run(vae_n_cat_feats=3)


def test_collaborative_vectors_are_kept_for_new_items(write_data: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    keys = [f"k{i}" for i in range(80)]
    vectors = rng.normal(size=(80, 12)).astype(np.float32)
    log = [rng.permutation(60)[:9] for _ in range(60)]  # items 60 to 79 are never taken
    data = write_data(tmp_path / "small", keys, vectors, log)
    fused = train(
        RqVaeSettings(
            dataset="tables",
            dataset_folder=str(data.path),
            save_dir_root=str(tmp_path / "fused"),
            tokenizer="residual_kmeans",
            vae_codebook_size=8,
            collaborative_weight=0.5,
            collaborative_dim=5,
        )
    )
    assert (fused / "item_space").is_dir()
    table = SemanticIdTokenizer.load(fused)
    # The same items in another order, and new ones: none of the old codes moves.
    order = rng.permutation(80)
    wider = write_data(
        tmp_path / "wider",
        [*(keys[i] for i in order), "new"],
        np.concatenate([vectors[order], vectors[:1]]),
        log,
    )
    codes = tokenize_run(fused, data_path=wider.path, out=tmp_path / "ids", policy="none").ids
    assert np.array_equal(codes[:80, :3], table.ids[order, :3])
    extended = tokenize_run(fused, data_path=wider.path, out=tmp_path / "more", extend=True)
    assert np.array_equal(extended.ids[:80], table.ids)

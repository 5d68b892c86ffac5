from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from genrec.checkpoint import RunDirectory
from genrec.commands.diagnose import app_command
from genrec.errors import ArtifactError, MissingPathError
from genrec.reporting.diagnose import (
    RunRecord,
    diagnose,
    diagnose_run,
    format_findings,
    read_record,
)


def healthy() -> RunRecord:
    evaluation = {
        "r2": 0.65,
        "r2_unquantized": 0.67,
        "quantization_error": 0.2,
        "unique_ids": 9_700.0,
        "collision_rate": 0.03,
        "largest_group": 4.0,
    }
    for level in (1, 2, 3):
        evaluation |= {f"codes_used_{level}": 256.0, f"perplexity_{level}": 230.0}
    falling = tuple((50 * i, 0.5 * 0.98**i + 0.1) for i in range(1, 40))
    config = {
        "model": "rqvae",
        "codebook_size": [256] * 3,
        "embed_dim": 32,
        "hidden_dims": [512],
        "commitment_weight": 0.25,
    }
    norms = tuple((s, 1.0) for s, _ in falling)
    return RunRecord(config, evaluation, falling, norms, {"reassign_cost": 0.0003})


def changed(**evaluation: float) -> RunRecord:
    return replace(healthy(), evaluation=healthy().evaluation | evaluation)


def test_nothing_wrong_where_nothing_is() -> None:
    assert diagnose(healthy()) == []
    assert format_findings([]) == "nothing wrong"


TROUBLES: dict[str, tuple[RunRecord, str, str, tuple[str, ...]]] = {
    "few codes": (
        changed(codes_used_2=20.0, perplexity_2=9.0),
        "codebook collapse",
        "level 2 uses 20 of 256 codes, with perplexity 9.0",
        ("use_kmeans_init", "dead_code_steps", "SINKHORN", "learning_rate"),
    ),
    "low perplexity": (
        changed(perplexity_1=40.0),
        "codebook collapse",
        "level 1 uses 256 of 256 codes, with perplexity 40.0",
        ("use_kmeans_init",),
    ),
    "suspicious": (
        replace(
            changed(quantization_error=0.001, unique_ids=100.0, collision_rate=0.99),
            ids={"policy": "reassign"},
        ),
        "codebook collapse",
        "suspiciously low: codes lose 0.10 % of the latents' variance with only 100 distinct",
        ("use_kmeans_init",),
    ),
    "weak autoencoder": (
        changed(r2=0.3, r2_unquantized=0.35),
        "reconstruction loss too high",
        "the autoencoder explains 35.0 %",
        ("vae_embed_dim: more than 32", "vae_hidden_dims", "commitment_weight: less than 0.25"),
    ),
    "costly codes": (
        changed(r2=0.4, r2_unquantized=0.7),
        "quantisation loss too high",
        "codes cost 0.300 of R2: 0.700 without, 0.400 with",
        ("commitment_weight: more than 0.25", "vae_codebook_size: more than 256"),
    ),
    "coarse codes": (
        changed(quantization_error=0.6),
        "quantisation loss too high",
        "codes lose 60 % of the latents' variance",
        ("commitment_weight", "kmeans_after_epochs"),
    ),
    "many collisions": (
        changed(collision_rate=0.185),
        "many items of equal codes",
        "18.5 % of the items collide before repair, and 4 share one ID",
        ("train.collision_policy='reassign'", "at 0.0003 of R2"),
    ),
    "a large group": (
        changed(largest_group=62.0),
        "many items of equal codes",
        "and 62 share one ID",
        ("genrec tokenize RUN_DIR --policy reassign",),
    ),
    "costly repair": (
        replace(changed(largest_group=62.0), ids={"policy": "none", "reassign_cost": 0.02}),
        "many items of equal codes",
        "and 62 share one ID",
        ("train.vae_codebook_size", "would cost 0.0200 of R2"),
    ),
    "jump": (
        replace(healthy(), losses=(*healthy().losses[:20], (1050, 9.0), *healthy().losses[20:])),
        "unstable training",
        "jumped to 9 at step 1,050",
        ("learning_rate", "max_grad_norm", "warmup_steps"),
    ),
    "drift": (
        replace(
            healthy(),
            losses=(*healthy().losses, *((2000 + i, 0.33 + 0.06 * i) for i in range(9))),
        ),
        "unstable training",
        "ended at",
        ("learning_rate",),
    ),
    "not finite": (
        replace(healthy(), losses=(*healthy().losses, (2000, math.nan))),
        "unstable training",
        "not finite at step 2,000",
        ("learning_rate",),
    ),
}


@pytest.mark.parametrize(("record", "trouble", "seen", "settings"), TROUBLES.values(), ids=TROUBLES)
def test_each_trouble_is_named_with_evidence_and_settings(
    record: RunRecord, trouble: str, seen: str, settings: tuple[str, ...]
) -> None:
    (finding,) = diagnose(record)
    assert finding.trouble == trouble
    assert any(seen in text for text in finding.evidence), finding.evidence
    advice = " ".join(finding.settings)
    for setting in settings:
        assert setting in advice
    text = format_findings([finding])
    assert text.startswith(f"1. {trouble}\n   seen: ")
    assert "\n   try:  " in text


def test_codes_that_fit_better_than_latents_are_no_poor_autoencoder() -> None:
    assert diagnose(changed(r2=0.549, r2_unquantized=0.392)) == []


def test_a_fitted_quantiser_is_not_judged_as_an_autoencoder() -> None:
    record = changed(r2=0.64, r2_unquantized=1.0, quantization_error=0.36)
    config = {"model": "residual_kmeans", "codebook_sizes": [256] * 3}
    assert diagnose(replace(record, config=config)) == []


def test_repaired_collisions_are_no_trouble() -> None:
    record = replace(changed(collision_rate=0.185), ids={"policy": "reassign"})
    assert diagnose(record) == []


def test_mean_reduction_is_the_first_suspect_of_a_collapse() -> None:
    record = changed(perplexity_1=2.0)
    record = replace(record, config=record.config | {"losses": {"recon_reduction": "mean"}})
    assert "recon_reduction" in diagnose(record)[0].settings[0]


def test_a_small_catalogue_cannot_use_all_codes() -> None:
    few = changed(unique_ids=30.0, collision_rate=0.0)
    levels = {f"codes_used_{i}": 28.0 for i in (1, 2, 3)} | {
        f"perplexity_{i}": 26.0 for i in (1, 2, 3)
    }
    assert diagnose(replace(few, evaluation=few.evaluation | levels)) == []


def write_run(folder: Path, record: RunRecord, evaluate: bool = True) -> Path:
    RunDirectory(folder).save(1, weights={"w": torch.zeros(1)}, config=record.config)
    rows: list[dict[str, Any]] = [
        {"step": step, "train/reconstruction_loss": value, "train/grad_norm": 1.0}
        for step, value in record.losses
    ]
    if evaluate:
        rows.insert(5, {"step": 1, "eval/r2": 0.0, "eval/codes_used_1": 1.0})  # an older one
        rows.append({"step": 2} | {f"eval/{k}": v for k, v in record.evaluation.items()})
    text = "\n".join(json.dumps(row) for row in rows) + "\n"
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_a_record_is_read_from_its_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path, healthy())
    assert read_record(run) == replace(healthy(), ids={}, path=str(run))
    assert diagnose_run(run) == []


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match=r"RUN_DIR must be a run folder with metrics\.jsonl"):
        diagnose_run(tmp_path)
    run = write_run(tmp_path / "run", healthy(), evaluate=False)
    with pytest.raises(ArtifactError, match="stage-one run with an evaluation"):
        diagnose_run(run)
    other = replace(healthy(), config={"model": "retrieval"})
    with pytest.raises(ArtifactError, match="must be a stage-one run, got one of 'retrieval'"):
        diagnose_run(write_run(tmp_path / "other", other))


def test_the_command_prints_findings(tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app_command(app)
    app.callback()(lambda: None)  # keeps the command's name with a single command
    run = str(write_run(tmp_path, changed(perplexity_1=2.0)))
    plain = CliRunner().invoke(app, ["diagnose", run])
    assert plain.exit_code == 0
    assert plain.output.startswith("1. codebook collapse")
    found = json.loads(CliRunner().invoke(app, ["diagnose", run, "--json"]).output)
    assert found[0]["trouble"] == "codebook collapse"
    assert CliRunner().invoke(app, ["diagnose", str(tmp_path / "none")]).exit_code == 2

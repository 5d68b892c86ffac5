"""Names what is wrong with a stage-one run: the evidence, and the settings to change.

Reads ``metrics.jsonl`` and the configuration of the last checkpoint, and loads no weights.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrec.atomic import read_json
from genrec.checkpoint import resolve_step
from genrec.digests import read_signed
from genrec.errors import ArtifactError, MissingPathError
from genrec.evaluation.codebook import (
    COLLAPSED_USAGE,
    LOW_PERPLEXITY,
    collision_advice,
    many_collide,
)
from genrec.metric_rows import metric_rows
from genrec.runs import find_run
from genrec.tokenizer.artifact import ARTIFACT_NAME

__all__ = ["Finding", "RunRecord", "diagnose", "diagnose_run", "format_findings", "read_record"]

#: The autoencoder alone should explain at least this share of the variance.
LOW_UNQUANTIZED_R2 = 0.5
#: The codes may cost at most this much R2, or lose this share of the latents' variance.
HIGH_QUANTIZATION_GAP = 0.15
HIGH_QUANTIZATION_ERROR = 0.5
#: Codes that fit this well, with this few distinct ids, describe latents that are all alike.
SUSPICIOUS_QUANTIZATION_ERROR = 0.02
FEW_DISTINCT_IDS = 0.25
#: A loss this many times the usual is a jump; an end this far above the best is a drift.
JUMP = 2.0
DRIFT = 1.5
_WINDOW = 5  # log lines that make "the usual"


@dataclass(frozen=True)
class Finding:
    """One trouble.

    Attributes:
        trouble: Its name.
        evidence: What was measured, in words.
        settings: What to change, one entry a setting, most promising first.
    """

    trouble: str
    evidence: tuple[str, ...]
    settings: tuple[str, ...]


@dataclass(frozen=True)
class RunRecord:
    """What a run wrote down.

    Attributes:
        config: Configuration of the model.
        evaluation: Last evaluation of the catalogue, names without their prefix.
        losses: Mean reconstruction loss between log lines, as ``(step, value)``; NaN where it
            was not finite.
        grad_norms: Gradient norms before clipping, likewise.
        ids: Statistics and ``policy`` of the run's ID table; empty where it has none.
        path: The run's folder.
    """

    config: dict[str, Any]
    evaluation: dict[str, float]
    losses: tuple[tuple[int, float], ...]
    grad_norms: tuple[tuple[int, float], ...]
    ids: Mapping[str, Any] = field(default_factory=dict)
    path: str = "RUN_DIR"


def read_record(run: str | os.PathLike[str]) -> RunRecord:
    """Read what a stage-one run wrote down.

    Args:
        run: Its folder.

    Returns:
        The record.

    Raises:
        MissingPathError: If there is no run, or it has no metrics.
        ArtifactError: If it is no stage-one run, or was never evaluated.
    """
    folder = find_run(run)
    file = folder / "metrics.jsonl"
    if not file.is_file():
        raise MissingPathError(
            f"RUN_DIR must be a run folder with metrics.jsonl, got {folder}; give the folder that "
            "`genrec train rqvae` printed"
        )
    config = read_json(resolve_step(folder, prefer=("latest",)) / "config.json")
    evaluation: dict[str, float] = {}
    series: dict[str, list[tuple[int, float]]] = {"reconstruction_loss": [], "grad_norm": []}
    for _, known in metric_rows(file):
        row = {k: math.nan if v is None else v for k, v in known.items()}
        for name, values in series.items():
            if f"train/{name}" in row:
                values.append((int(row["step"]), row[f"train/{name}"]))
        found = {k.removeprefix("eval/"): v for k, v in row.items() if k.startswith("eval/")}
        evaluation = found if "r2" in found else evaluation
    if not evaluation:
        raise ArtifactError(
            f"RUN_DIR must be a stage-one run with an evaluation, got {folder} without one; train "
            "with train.do_eval=True"
        )
    return RunRecord(
        config,
        evaluation,
        tuple(series["reconstruction_loss"]),
        tuple(series["grad_norm"]),
        _id_statistics(folder),
        str(folder),
    )


def _id_statistics(run: Path) -> dict[str, Any]:
    """Read what is known of a run's ID table: as training left it, and as it is now."""
    trained, now = run / "meta.json", run / ARTIFACT_NAME / "meta.json"
    if not now.is_file():
        return {}
    table = read_json(now)
    before = read_signed(trained).get("semantic_ids", {}) if trained.is_file() else {}
    return {**before, **table["statistics"], "policy": table["policy"]}


def diagnose_run(run: str | os.PathLike[str]) -> list[Finding]:
    """Diagnose a run folder: its troubles, worst first; none where nothing is wrong."""
    return diagnose(read_record(run))


def diagnose(record: RunRecord) -> list[Finding]:
    """Find what is wrong with a run, worst first; none where nothing is wrong."""
    checks = (_unstable, _collapsed, _poor_reconstruction, _poor_quantization, _colliding)
    return [found for check in checks if (found := check(record)) is not None]


def format_findings(findings: Sequence[Finding]) -> str:
    """Write findings for a person; ``nothing wrong`` where there are none."""
    if not findings:
        return "nothing wrong"
    lines = []
    for number, finding in enumerate(findings, start=1):
        lines.append(f"{number}. {finding.trouble}")
        lines += [f"   seen: {text}" for text in finding.evidence]
        lines += [f"   try:  {text}" for text in finding.settings]
    return "\n".join(lines)


def _unstable(record: RunRecord) -> Finding | None:
    evidence = []
    values = [value for _, value in record.losses]
    lost = [step for step, value in record.losses if not math.isfinite(value)]
    if lost:
        evidence.append(f"the loss was not finite at step {lost[0]:,}")
    for index in range(_WINDOW, len(values)):
        usual = statistics.median(values[index - _WINDOW : index])
        if values[index] > JUMP * usual:
            step = record.losses[index][0]
            evidence.append(
                f"the reconstruction loss jumped to {values[index]:.3g} at step {step:,}, "
                f"{values[index] / usual:.1f} times the usual"
            )
            break
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) > _WINDOW:
        end, best = statistics.median(finite[-_WINDOW:]), min(finite)
        if end > DRIFT * best:
            evidence.append(
                f"the reconstruction loss ended at {end:.3g}, {end / best:.1f} times its best"
            )
    norms = [value for _, value in record.grad_norms if math.isfinite(value)]
    if norms and evidence:
        evidence.append(
            f"gradient norm: median {statistics.median(norms):.3g}, highest {max(norms):.3g}"
        )
    if not evidence:
        return None
    return Finding(
        "unstable training",
        tuple(evidence),
        (
            "train.learning_rate: a third of what it is",
            "train.max_grad_norm = 1.0: clip the gradients",
            "train.warmup_steps = 500: warm the learning rate up",
        ),
    )


def _collapsed(record: RunRecord) -> Finding | None:
    evidence = []
    sizes = _codebook_sizes(record)
    num_ids = record.evaluation["unique_ids"]
    num_items = num_ids / max(1e-9, 1 - record.evaluation["collision_rate"])
    for level, size in enumerate(sizes, start=1):
        used = record.evaluation[f"codes_used_{level}"]
        perplexity = record.evaluation[f"perplexity_{level}"]
        reach = min(size, num_items)
        if used < COLLAPSED_USAGE * reach or perplexity < LOW_PERPLEXITY * reach:
            evidence.append(
                f"level {level} uses {used:.0f} of {size} codes, with perplexity {perplexity:.1f}"
            )
    error = record.evaluation["quantization_error"]
    if error < SUSPICIOUS_QUANTIZATION_ERROR and num_ids < FEW_DISTINCT_IDS * num_items:
        evidence.append(
            f"the quantisation loss is suspiciously low: codes lose {100 * error:.2f} % of the "
            f"latents' variance with only {num_ids:,.0f} distinct ids"
        )
    if not evidence:
        return None
    advice = [
        "train.use_kmeans_init = True, train.kmeans_after_epochs = 10: start codes from latents",
        "train.learning_rate: a third of what it is",
        "train.dead_code_steps = 200: re-seed idle codes",
        "train.vae_codebook_mode = %genrec.models.rqvae.QuantizeForwardMode.SINKHORN: balance, "
        "with a batch of at least the codebook's size",
        "train.codebook_update = 'ema'",
    ]
    if record.config.get("losses", {}).get("recon_reduction") == "mean":
        advice.insert(0, "train.recon_reduction = 'sum': the mean over features is too weak")
    return Finding("codebook collapse", tuple(evidence), tuple(advice))


def _poor_reconstruction(record: RunRecord) -> Finding | None:
    # The decoder is trained on codes, so that it may do better with them than with latents.
    r2 = max(record.evaluation["r2_unquantized"], record.evaluation["r2"])
    if r2 >= LOW_UNQUANTIZED_R2:
        return None
    config = record.config
    beta = config.get("commitment_weight", 0.25)
    return Finding(
        "reconstruction loss too high",
        (
            f"with or without quantisation the autoencoder explains {100 * r2:.1f} % of the "
            f"embeddings' variance, less than {100 * LOW_UNQUANTIZED_R2:.0f} %",
        ),
        (
            "train.epochs: more, if the loss still falls at the end",
            f"train.vae_embed_dim: more than {config.get('embed_dim')}, the latent is too narrow",
            f"train.vae_hidden_dims: wider than {config.get('hidden_dims')}, the network is small",
            f"train.commitment_weight: less than {beta}, beta is too high",
        ),
    )


def _poor_quantization(record: RunRecord) -> Finding | None:
    evaluation = record.evaluation
    gap = evaluation["r2_unquantized"] - evaluation["r2"]
    error = evaluation["quantization_error"]
    evidence = []
    trained = record.config.get("model") == "rqvae"
    # What is fitted to the embeddings themselves has no autoencoder to compare with.
    if trained and gap > HIGH_QUANTIZATION_GAP:
        evidence.append(
            f"codes cost {gap:.3f} of R2: {evaluation['r2_unquantized']:.3f} without, "
            f"{evaluation['r2']:.3f} with quantisation"
        )
    if error > HIGH_QUANTIZATION_ERROR:
        evidence.append(f"codes lose {100 * error:.0f} % of the latents' variance")
    if not evidence:
        return None
    beta = record.config.get("commitment_weight", 0.25)
    sizes = _codebook_sizes(record)
    advice = [
        f"train.vae_codebook_size: more than {max(sizes)}, or train.vae_n_layers: more than "
        f"{len(sizes)}"
    ]
    if trained:
        advice.insert(0, f"train.commitment_weight: more than {beta}, beta is too low")
        advice.append(
            "train.use_kmeans_init = True, train.kmeans_after_epochs = 10: a better start"
        )
    return Finding("quantisation loss too high", tuple(evidence), tuple(advice))


def _colliding(record: RunRecord) -> Finding | None:
    rate, largest = record.evaluation["collision_rate"], record.evaluation["largest_group"]
    if record.ids.get("policy") == "reassign" or not many_collide(rate, largest):
        return None
    advice = (
        collision_advice(record.ids["reassign_cost"], run=record.path)
        if "reassign_cost" in record.ids
        else f"`genrec tokenize {record.path} --policy reassign`, which says what it costs"
    )
    return Finding(
        "many items of equal codes",
        (f"{100 * rate:.1f} % of the items collide before repair, and {largest:.0f} share one ID",),
        (advice,),
    )


def _codebook_sizes(record: RunRecord) -> list[int]:
    sizes = record.config.get("codebook_size", record.config.get("codebook_sizes"))
    if not isinstance(sizes, list):
        raise ArtifactError(
            f"RUN_DIR must be a stage-one run, got one of {record.config.get('model')!r}; give the "
            "run of `genrec train rqvae`"
        )
    return [int(size) for size in sizes]

"""Stage one without a network: fits residual k-means and leaves the same kind of run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.evaluation.codebook import Described, collapse_alarms, evaluate_codebook
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.training.loop import FitResult
from genrec.training.session import Session

__all__ = ["KMeansSettings", "train_residual_kmeans"]


@dataclass(frozen=True, kw_only=True)
class KMeansSettings:
    """How residual k-means is fitted.

    Attributes:
        codebook_sizes: Codes of each level.
        balanced: Whether clusters of the fit may hold no more than their share.
        num_iters: Most iterations a level.
        max_samples: Most items to fit on.
        seed: Of sampling and starts.
    """

    codebook_sizes: tuple[int, ...]
    balanced: bool = False
    num_iters: int = 50
    max_samples: int = 100_000
    seed: int = 0


def train_residual_kmeans(
    session: Session, items: Tensor, settings: KMeansSettings
) -> tuple[ResidualKMeans, FitResult]:
    """Fit residual k-means on a catalogue and keep it in the run's folder as step 1.

    Args:
        session: Processes, run folder and tracker; every process fits the same.
        items: Shape ``(N, X)``.
        settings: How.

    Returns:
        The quantiser on the CPU, and the result of its evaluation.
    """
    accelerator = session.accelerator
    started = time.perf_counter()
    model = ResidualKMeans.fit(
        items,
        codebook_sizes=settings.codebook_sizes,
        balanced=settings.balanced,
        num_iters=settings.num_iters,
        max_samples=settings.max_samples,
        seed=settings.seed,
        device=accelerator.device,
        on_level=lambda level, r2: session.say(f"level {level + 1} fitted | R2 {r2:.4f}"),
    )
    seconds = time.perf_counter() - started

    def describe(rows: Tensor) -> Described:
        rows = rows.to(accelerator.device).float()
        ids = model.get_semantic_ids(rows)
        codes = model.get_codebook_entry(ids)
        error = (rows - codes).square().sum(dim=1)
        return Described(ids, rows, codes, rows, rows, codes, error)

    report = evaluate_codebook(describe, items, codebook_sizes=settings.codebook_sizes)
    session.say(str(report))
    for alarm in collapse_alarms(report):
        session.say(f"warning: {alarm}")
    metrics = report.metrics("eval")
    session.tracker.log(1, metrics)
    if accelerator.is_main_process:
        session.run_dir.save(1, weights=model.state_dict(), config=model.config)
    accelerator.wait_for_everyone()
    result = FitResult(step=1, seconds=seconds, metrics=metrics, history=[(1, metrics)])
    return model.to(torch.device("cpu")), result

"""Evaluation runs of the retrieval model, during training and after it.

Shape legend: B = users, R = results, N = items, L = levels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor

from genrec.atomic import read_json, write_json_atomic
from genrec.checkpoint import RunDirectory
from genrec.data.batching import TokenTable
from genrec.data.prepared import PreparedDataset
from genrec.data.schemas import SequenceBatch
from genrec.data.sequence_dataset import SPLITS, SeqData
from genrec.decoding.trie import PrefixIndex
from genrec.errors import ArtifactError, ConfigError, MissingPathError, did_you_mean
from genrec.evaluation.baselines import cooccurrence, neural, popularity
from genrec.evaluation.evaluator import DEFAULT_KS, Evaluator, PredictFn
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.sasrec import SasRec
from genrec.tokenizer.semantic_id import ARTIFACT_NAME, SemanticIdTokenizer
from genrec.training.processes import start_accelerator

__all__ = [
    "EvaluationSettings",
    "Retrieval",
    "TrainedModel",
    "base_groups",
    "compare",
    "evaluate_run",
    "format_table",
    "load_model",
    "load_run",
]


@dataclass(frozen=True)
class EvaluationSettings:
    """How a retrieval model is evaluated.

    Attributes:
        num_beams: Beams ``W``.
        ks: Lengths of the result list.
        exclude_history: Whether items of the history are never recommended.
        max_history: Newest items of the history that the model sees.
        budget: Most history items of a batch.
        max_rows: Most users of a batch.
    """

    num_beams: int = 30
    ks: tuple[int, ...] = DEFAULT_KS
    exclude_history: bool = False
    max_history: int = 20
    budget: int = 1024
    max_rows: int = 128


@dataclass(frozen=True)
class Retrieval:
    """A model with all it needs to recommend items of one data set.

    Attributes:
        model: In evaluation mode.
        tokenizer: The ID table.
        index: The table's prefixes, on the model's device.
        data: The data set.
        max_history: Newest items of a history that the model sees.
        settings: The run's evaluation settings.
    """

    model: EncoderDecoderRetrievalModel
    tokenizer: SemanticIdTokenizer
    index: PrefixIndex
    data: PreparedDataset
    settings: EvaluationSettings

    def predictor(self, table: TokenTable, num_results: int) -> PredictFn:
        """Wrap the model for an evaluator.

        Args:
            table: Codes and hashed users of the data set, on the model's device.
            num_results: Items for each user ``R``.

        Returns:
            From a batch to items, shape ``(B, R)``.
        """
        settings, tables = self.settings, self.model.decoding_tables()

        def predict(batch: SequenceBatch) -> Tensor:
            tokens = table.tokenize(batch)
            legal = self.index.exclude_per_user(batch.history) if settings.exclude_history else None
            return self.model.generate(
                tokens.history,
                self.index,
                num_beams=max(settings.num_beams, num_results),
                num_results=num_results,
                user_ids=tokens.user_ids,
                padded=tokens.padded,
                tables=tables,
                legal=legal,
            ).items

        return predict


@dataclass(frozen=True)
class TrainedModel:
    """What a stage-two run holds: enough to recommend without its data set.

    Attributes:
        model: The best step's, in evaluation mode.
        tokenizer: The ID table.
        index: The table's prefixes, on the model's device.
        settings: The run's evaluation settings.
        meta: The run's ``meta.json``.
    """

    model: EncoderDecoderRetrievalModel
    tokenizer: SemanticIdTokenizer
    index: PrefixIndex
    settings: EvaluationSettings
    meta: Mapping[str, Any]


def base_groups(tokenizer: SemanticIdTokenizer) -> npt.NDArray[np.int64]:
    """Number the items by their codes before repair.

    Args:
        tokenizer: The ID table.

    Returns:
        Shape ``(N,)``, int64; equal where the codes without the dedup digit are equal.
    """
    codes = tokenizer.ids[:, :-1] if tokenizer.has_dedup_digit else tokenizer.ids
    _, groups = np.unique(codes, axis=0, return_inverse=True)
    return groups.reshape(-1).astype(np.int64)


def load_model(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    overrides: Mapping[str, Any] | None = None,
) -> TrainedModel:
    """Open the best model of a stage-two run and its ID table.

    Args:
        path: The run's folder.
        device: Where the model shall live.
        overrides: Evaluation settings that differ from those of the run.

    Returns:
        Everything needed to recommend.

    Raises:
        MissingPathError: If the run is not there.
        ArtifactError: If a file of it is damaged.
    """
    run = Path(path)
    if not (run / "meta.json").is_file() or not (run / ARTIFACT_NAME).is_dir():
        raise MissingPathError(
            f"run must be a folder of scripts/train_decoder.py with meta.json and {ARTIFACT_NAME}, "
            f"got {run}; give the folder that training printed at its end"
        )
    meta = read_json(run / "meta.json")
    tokenizer = SemanticIdTokenizer.load(run / ARTIFACT_NAME)
    model = EncoderDecoderRetrievalModel.load_pretrained(run, device=device)
    index = PrefixIndex.from_ids(tokenizer.ids, tokenizer.level_sizes, device=device)
    known = dict(meta.get("evaluation", {})) | dict(overrides or {})
    if "ks" in known:
        known["ks"] = tuple(known["ks"])
    return TrainedModel(model, tokenizer, index, EvaluationSettings(**known), meta)


def load_run(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    data: PreparedDataset | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Retrieval:
    """Open a stage-two run with its data set.

    Args:
        path: The run's folder.
        device: Where the model shall live.
        data: The data set, or None to open the one that the run was trained on.
        overrides: Evaluation settings that differ from those of the run.

    Returns:
        Everything needed to evaluate.

    Raises:
        MissingPathError: If the run, or its data set, is not there.
        ArtifactError: If the data set has other items than the ID table.
    """
    found = load_model(path, device=device, overrides=overrides)
    data = data if data is not None else PreparedDataset.load(found.meta["prepared"])
    found.tokenizer.check_items(data.items_fingerprint)
    return Retrieval(found.model, found.tokenizer, found.index, data, found.settings)


def compare(
    retrieval: Retrieval,
    split: str,
    accelerator: Accelerator,
    *,
    baselines: bool = True,
    sasrec: SasRec | None = None,
    limit: int | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate a model and the baselines on one split.

    Args:
        retrieval: The model and its data.
        split: ``valid`` or ``test``.
        accelerator: Processes and device.
        baselines: Whether to evaluate popularity and co-occurrence too.
        sasrec: A SASRec of the same data set to evaluate too.
        limit: Use only this many users, or None for all.

    Returns:
        Metrics of ``model`` and of each baseline.

    Raises:
        ConfigError: If the split cannot be evaluated.
    """
    if split not in SPLITS[1:]:
        raise ConfigError(
            f"split to evaluate must be valid or test, got {split!r}; "
            f"{did_you_mean(split, SPLITS[1:])}"
        )
    settings, data, device = retrieval.settings, retrieval.data, accelerator.device
    examples = SeqData(data, split, max_history=settings.max_history)
    evaluator = Evaluator(
        examples,
        num_items=data.num_items,
        groups=base_groups(retrieval.tokenizer),
        ks=settings.ks,
        accelerator=accelerator,
        budget=settings.budget,
        max_rows=settings.max_rows,
        limit=limit,
    )
    table = TokenTable.build(
        examples,
        retrieval.tokenizer.ids,
        num_users=retrieval.model.layout.num_users,
        device=device,
    )
    count = evaluator.num_results
    results = {"model": evaluator.run(retrieval.predictor(table, count))}
    if baselines:
        results["popularity"] = evaluator.run(popularity(data, count, device))
        results["co-occurrence"] = evaluator.run(cooccurrence(data, count, device))
    if sasrec is not None:
        results["SASRec"] = evaluator.run(
            neural(sasrec, count, exclude_history=settings.exclude_history)
        )
    return results


def evaluate_run(
    path: str | os.PathLike[str],
    *,
    split: str = "test",
    num_beams: int | None = None,
    exclude_history: bool | None = None,
    ks: Sequence[int] | None = None,
    sasrec: str | os.PathLike[str] | None = None,
    data: PreparedDataset | None = None,
    limit: int | None = None,
    reuse: bool = False,
) -> dict[str, dict[str, float]]:
    """Evaluate a finished run, print the table and write ``metrics.json`` beside it.

    Args:
        path: The run's folder.
        split: ``valid`` or ``test``.
        num_beams: Beams, those of the run when None.
        exclude_history: Never recommend items of the history; as in the run when None.
        ks: Lengths to show, computed beside those of the run; those of the run when None.
        sasrec: Folder of a SASRec run on the same data set, to stand in the table too.
        data: The data set, or None to open the one that the run was trained on.
        limit: Use only this many users, or None for all; nothing is written then.
        reuse: Take the numbers of ``metrics.json`` where they still hold.

    Returns:
        Metrics of the model and of each baseline.
    """
    accelerator = start_accelerator()
    overrides: dict[str, Any] = {}
    if num_beams is not None:
        overrides["num_beams"] = num_beams
    if exclude_history is not None:
        overrides["exclude_history"] = exclude_history
    retrieval = load_run(path, device=accelerator.device, data=data, overrides=overrides)
    if ks is not None:
        lengths = tuple(sorted({*retrieval.settings.ks, *ks}))
        retrieval = replace(retrieval, settings=replace(retrieval.settings, ks=lengths))
    rival = None if sasrec is None else _open_sasrec(sasrec, retrieval, accelerator.device)
    reuse = reuse and rival is None
    results = _known_results(Path(path), split, retrieval.settings) if reuse else None
    fresh = results is None
    if results is None:
        results = compare(retrieval, split, accelerator, sasrec=rival, limit=limit)
    if accelerator.is_main_process:
        print(format_table(results, split, retrieval.settings, ks))
        if fresh and limit is None:
            write_metrics(path, split, results, retrieval.settings)
    accelerator.wait_for_everyone()
    return results


def _open_sasrec(
    path: str | os.PathLike[str], retrieval: Retrieval, device: torch.device
) -> SasRec:
    """Load a SASRec, and refuse one of other data."""
    model = SasRec.load_pretrained(path, device=device)
    meta = Path(path) / "meta.json"
    trained_on = read_json(meta).get("data_fingerprint") if meta.is_file() else None
    if trained_on not in (None, retrieval.data.fingerprint):
        raise ArtifactError(
            f"SASRec must have been trained on the data set of the run, {retrieval.data.path}, got "
            f"{path} of another; train it with train.dataset_folder='{retrieval.data.path}'"
        )
    if model.max_history < retrieval.settings.max_history:
        raise ArtifactError(
            f"SASRec must read histories of {retrieval.settings.max_history} items as the run "
            f"does, got {model.max_history}; train it with "
            f"train.max_seq_len={retrieval.settings.max_history}"
        )
    return model


def _known_results(
    run: Path, split: str, settings: EvaluationSettings
) -> dict[str, dict[str, float]] | None:
    """Read what ``metrics.json`` holds of these settings and of the run as it is now."""
    file = run / "metrics.json"
    pointers = [run / name for name in RunDirectory(run).pointers()]
    if not file.is_file() or any(p.stat().st_mtime > file.stat().st_mtime for p in pointers):
        return None
    known = read_json(file).get(split, {})
    how = known.pop("settings", None)
    columns = {f"recall@{k}" for k in settings.ks}
    if how != _described(settings) or not columns <= set(known.get("model", {})):
        return None
    return dict(known)


def write_metrics(
    path: str | os.PathLike[str],
    split: str,
    results: Mapping[str, Mapping[str, float]],
    settings: EvaluationSettings,
) -> None:
    """Write ``metrics.json`` of a run, keeping what it holds of other splits.

    Args:
        path: The run's folder.
        split: Which split the results are of.
        results: Metrics by recommender.
        settings: How they came about.
    """
    file = Path(path) / "metrics.json"
    known = read_json(file) if file.is_file() else {}
    how = _described(settings)
    if "model" not in results:  # nobody searched with beams
        del how["num_beams"]
    known[split] = {
        "settings": how,
        **{name: dict(row) for name, row in results.items()},
    }
    write_json_atomic(file, known)


def _described(settings: EvaluationSettings) -> dict[str, Any]:
    """Say what results depend on."""
    return {
        "num_beams": settings.num_beams,
        "exclude_history": settings.exclude_history,
        "max_history": settings.max_history,
    }


def format_table(
    results: Mapping[str, Mapping[str, float]],
    split: str,
    settings: EvaluationSettings,
    ks: Sequence[int] | None = None,
) -> str:
    """Lay metrics out as a table for people.

    Args:
        results: Metrics by recommender.
        split: Which split they are of.
        settings: How they came about.
        ks: Lengths to show, all when None.

    Returns:
        Some lines of text.
    """
    shown = tuple(ks or settings.ks)
    columns = [f"{name}@{k}" for name in ("recall", "ndcg") for k in shown]
    users = int(next(iter(results.values()))["users"])
    hidden = "hidden" if settings.exclude_history else "not hidden"
    beams = f", {settings.num_beams} beams" if "model" in results else ""
    lines = [
        f"{split} split, {users:,} users, all items ranked, history {hidden}{beams}",
        f"{'':<26}" + "".join(f"{_short(c):>9}" for c in columns) + f"{'MRR':>9}{'coverage':>10}",
    ]
    for name, row in results.items():
        for label, prefix in (("item level", ""), ("SID level", "sid_")):
            if f"{prefix}mrr" not in row:
                continue
            cells = "".join(f"{row[prefix + c]:>9.4f}" for c in columns)
            cover = f"{row['coverage']:>10.4f}" if not prefix else f"{'':>10}"
            lines.append(f"{f'{name}, {label}':<26}{cells}{row[prefix + 'mrr']:>9.4f}{cover}")
    name, row = next(iter(results.items()))
    lines.append(f"{name}: {row['users_per_s']:,.0f} users/s")
    return "\n".join(lines)


def _short(column: str) -> str:
    name, _, k = column.partition("@")
    return f"{'R' if name == 'recall' else 'N'}@{k}"

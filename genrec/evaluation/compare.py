"""Several rankers on one split of one data set."""

from __future__ import annotations

from collections.abc import Mapping

from genrec.data.prepared import PreparedDataset
from genrec.data.sequence_dataset import SPLITS, SeqData
from genrec.errors import ArtifactError, ConfigError, did_you_mean
from genrec.evaluation.evaluator import Evaluator
from genrec.evaluation.settings import EvaluationSettings, Processes
from genrec.rankers import Ranker

__all__ = ["compare"]


def compare(
    rankers: Mapping[str, Ranker],
    data: PreparedDataset,
    split: str,
    settings: EvaluationSettings,
    processes: Processes | None = None,
    *,
    limit: int | None = None,
    known: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, dict[str, float]]:
    """Evaluate rankers with the history shown and hidden.

    Rankers that know no codes are counted at SID level too, by the codes of the first that does.

    Args:
        rankers: By the name to show; their items must be the data set's.
        data: The data set.
        split: ``valid`` or ``test``.
        settings: How to evaluate. A ranker sees ``max_history`` items, or as many as it takes
            where that is less.
        processes: Those that share the work; this one alone, on the CPU, when None.
        limit: Use only this many users, evenly spread, or None for all.
        known: Results at hand by the same names; they are not computed again.

    Returns:
        Metrics of each ranker, see :meth:`~genrec.evaluation.evaluator.Evaluator.run_both`.

    Raises:
        ArtifactError: If a ranker knows other items.
        ConfigError: If the split cannot be evaluated.
    """
    if split not in SPLITS[1:]:
        raise ConfigError(
            f"split to evaluate must be valid or test, got {split!r}; "
            f"{did_you_mean(split, SPLITS[1:])}"
        )
    for name, ranker in rankers.items():
        if ranker.item_keys.digest() != data.items_fingerprint:
            raise ArtifactError(
                f"items of {name} must be those of the data set {data.path}, got "
                f"{ranker.num_items} others; evaluate it on the data set that it was trained on"
            )
    groups = next((r.groups for r in rankers.values() if r.groups is not None), None)
    evaluators: dict[int, Evaluator] = {}
    results = {}
    for name, ranker in rankers.items():
        at_hand = dict((known or {}).get(name, {}))
        if "mrr" in at_hand and (groups is None or "sid_mrr" in at_hand):
            results[name] = at_hand
            continue
        length = min(settings.max_history, ranker.max_history)
        if length not in evaluators:
            evaluators[length] = Evaluator(
                SeqData(data, split, max_history=length),
                num_items=data.num_items,
                groups=groups,
                ks=settings.ks,
                processes=processes,
                budget=settings.budget,
                max_rows=settings.max_rows,
                limit=limit,
            )
        results[name] = evaluators[length].run_both(ranker)
    return results

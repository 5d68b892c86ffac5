"""Measures a run that recommends on its validation split, for the diagnosis.

Shape legend: E = examples, B = users of a batch, S = history items, L = levels, N = items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.data.prepared import PreparedDataset
from genrec.data.schemas import Rules
from genrec.data.sequence_dataset import SeqData
from genrec.errors import ArtifactError, ConfigError, DataError
from genrec.evaluation.evaluator import Evaluator
from genrec.evaluation.settings import EvaluationSettings, OneProcess
from genrec.models.beam_ranker import BeamRanker
from genrec.rankers import Cooccurrence, Popularity, Ranker, training_counts
from genrec.reporting.level_losses import Sight, find_likely, measure_levels, standard_error
from genrec.reporting.ranking_diagnosis import Bucket, Diagnosis, Level, Search
from genrec.threads import side_by_side
from genrec.trained import Trained, was_trained_on

__all__ = ["HISTORY_ENDS", "POPULARITY_ENDS", "bucket_rows", "measure"]

#: Upper ends of the buckets, included; the last one has none.
HISTORY_ENDS = (2, 5, 10, 20, 50)
POPULARITY_ENDS = (0, 5, 20, 100)
_K = 10
#: Log-probabilities of the search and of a whole pass differ by less than this.
_SAME_NATS = 1e-3

Rows = npt.NDArray[np.int64]
Nats = npt.NDArray[np.float64]


def measure(run: Trained, data: PreparedDataset, *, users: int) -> Diagnosis:
    """Measure a run; see :class:`~genrec.reporting.ranking_diagnosis.Diagnosis`.

    Time is bounded by ``users``, but for counting the training part once.

    Args:
        run: A run that recommends.
        data: The data set that it was trained on.
        users: Most validation users to look at, >= 1, and as many training examples.

    Returns:
        The numbers, without findings.

    Raises:
        ArtifactError: If the run was trained on another data set.
        ConfigError: If ``users`` is below 1.
        DataError: If nobody can be validated on.
    """
    if users < 1:
        raise ConfigError(f"users must be >= 1, got {users}; 2000 is usual")
    _check_same_data(run, data)
    settings = EvaluationSettings.from_options(run.options)
    length = min(settings.max_history, run.ranker.max_history)
    split = SeqData(data, "valid", max_history=length)
    if len(split) == 0:
        raise DataError(
            f"data set must have validation users, got none in {data.path}; prepare it with "
            "another split rule or more data"
        )
    evaluator = Evaluator(
        split,
        num_items=data.num_items,
        groups=run.catalogue.groups,
        ks=(_K,),
        processes=OneProcess(run.ranker.device),
        budget=settings.budget,
        max_rows=settings.max_rows,
        limit=users,
    )
    rows, hide = evaluator.batches.examples, settings.exclude_history
    rankers: dict[str, Ranker] = {"model": run.ranker}
    rankers |= {
        kind.name: kind.fit(data, device=run.ranker.device) for kind in (Popularity, Cooccurrence)
    }
    hits, metrics = {}, {}
    for name, ranker in rankers.items():
        metrics[name], ranks = evaluator.run_with_ranks(ranker, hide_history=hide)
        hits[name] = ranks >= 0
    histories = split.positions[rows] - np.asarray(data.sequence_offsets)[split.users[rows]]
    taken = training_counts(data)
    table = _Hits(**{name.replace("-", ""): found for name, found in hits.items()})
    targets = split.targets[rows]
    likely = find_likely(run.ranker)
    sight = Sight(split, rows, rows_at_once=max(1, min(128, settings.budget // length)))
    search: Search | None = None
    levels: tuple[Level, ...] = ()
    if likely is not None:
        nats = sight.nats(likely, run.ranker.device)
        levels = measure_levels(run, data, sight, likely, nats)
        if isinstance(run.ranker, BeamRanker):
            search = _search(run, sight, -nats[0].sum(axis=1), hide)
    return Diagnosis(
        run=str(run.path),
        model=run.ranker.name,
        users=len(rows),
        all_users=len(split),
        hide_history=hide,
        levels=levels,
        overall=table.bucket(np.arange(len(rows)), int(histories.min()), int(histories.max())),
        by_history=_buckets(table, histories, HISTORY_ENDS, first=1),
        by_popularity=_buckets(table, taken[targets], POPULARITY_ENDS, first=0),
        sid_recall=None if run.ranker.groups is None else metrics["model"][f"sid_recall@{_K}"],
        search=search,
    )


def bucket_rows(values: Rows, ends: Sequence[int]) -> list[Rows]:
    """Sort rows into buckets, ``len(ends) + 1`` of them.

    Args:
        values: Shape ``(E,)``.
        ends: Upper ends, included, rising.

    Returns:
        The rows of each bucket.
    """
    places = np.searchsorted(np.asarray(ends), values)
    return [np.flatnonzero(places == place) for place in range(len(ends) + 1)]


def _check_same_data(run: Trained, data: PreparedDataset) -> None:
    same = run.ranker.item_keys.digest() == data.items_fingerprint
    if not same or not was_trained_on(run.meta, data):
        raise ArtifactError(
            f"--data must be the data set that the run was trained on, got {data.path} with "
            f"other {'interactions' if same else 'items'}; give {run.meta.get('prepared')}"
        )


@dataclass(frozen=True)
class _Hits:
    """Whose targets were found, shape ``(E,)``, bool, by each ranker."""

    model: npt.NDArray[np.bool_]
    cooccurrence: npt.NDArray[np.bool_]
    popularity: npt.NDArray[np.bool_]

    def bucket(self, rows: Rows, least: int, most: int | None) -> Bucket:
        """Average over some rows, at least one."""
        found = [getattr(self, name)[rows] for name in ("model", "cooccurrence", "popularity")]
        recall, *others = (float(hits.mean()) for hits in found)
        better = found[1 + int(np.argmax(others))]
        return Bucket(
            label=_label(least, most),
            least=least,
            most=most,
            users=len(rows),
            recall=recall,
            cooccurrence=others[0],
            popularity=others[1],
            error=standard_error(found[0].astype(np.float64) - better),
        )


def _buckets(table: _Hits, values: Rows, ends: Sequence[int], *, first: int) -> tuple[Bucket, ...]:
    """Average over buckets that have users."""
    least = (first, *(end + 1 for end in ends))
    rows = bucket_rows(values, ends)
    ranges = zip(rows, least, (*ends, None), strict=True)
    return tuple(table.bucket(own, low, high) for own, low, high in ranges if len(own))


def _label(least: int, most: int | None) -> str:
    if most is None:
        return f"{least:,} or more"
    return f"{least:,}" if least == most else f"{least:,}-{most:,}"


def _search(run: Trained, sight: Sight, log_probs: Nats, hide: bool) -> Search:
    """Compare what generation alone finds with what the model gives the targets, ``(E,)``."""
    ranker = run.model.ranker(run.catalogue, {**run.options, "rescore": 0.0})
    assert isinstance(ranker, BeamRanker)
    never = run.meta.get("settings", {}).get("skip_history", False) or hide
    beams, batches = max(_K, ranker.num_beams), sight.batches()

    def work(number: int) -> Tensor:
        batch, users = sight.look(batches[number], ranker.device)
        rules = Rules(exclude=batch.history) if hide else None
        found = ranker.rank(batch.history, beams, users=users, rules=rules)
        own = torch.from_numpy(log_probs[batches[number]]).float().to(ranker.device)
        match = found.items == batch.targets
        scores = found.scores.masked_fill(found.items < 0, torch.inf)
        worst = scores.amin(dim=1)
        missed = ~match.any(dim=1)
        if never:  # what may not be recommended is not lost
            missed &= ~(batch.history == batch.targets).any(dim=1)
        tenth = found.scores[:, _K - 1]
        lost_hits, lost = missed & (own > tenth + _SAME_NATS), missed & (own > worst + _SAME_NATS)
        return torch.stack([match[:, :_K].any(dim=1), lost_hits, lost]).sum(dim=1).cpu()

    total = torch.stack(list(side_by_side(work, len(batches), ranker.device))).sum(dim=0)
    hits, lost_hits, lost = (total.double() / len(sight.rows)).tolist()
    return Search(ranker.num_beams, hits, lost_hits, lost)

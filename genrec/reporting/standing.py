"""How good the runs of a report are beside each other and beside counting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from genrec.data.prepared import PreparedDataset
from genrec.evaluation.compare import compare
from genrec.evaluation.settings import EvaluationSettings, OneProcess
from genrec.evaluation.tables import known_results
from genrec.rankers import SearchingRanker, baselines
from genrec.trained import Trained

__all__ = ["Standing", "stand"]


@dataclass(frozen=True)
class Standing:
    """Metrics of all rankers on one split.

    Attributes:
        split: ``valid`` or ``test``.
        users: How many there are.
        ks: Lengths of the result list.
        metrics: By the names of runs and baselines, see
            :meth:`~genrec.evaluation.evaluator.Evaluator.run_both`.
        simple: Names of the baselines.
        how: Beams and history, in words.
        reused: Names whose numbers were at hand.
    """

    split: str
    users: int
    ks: tuple[int, ...]
    metrics: dict[str, dict[str, float]]
    simple: tuple[str, ...]
    how: str
    reused: tuple[str, ...]

    @property
    def chooser(self) -> int:
        """Length of the list next to 10."""
        return min(self.ks, key=lambda k: abs(k - 10))

    @property
    def best_simple(self) -> str:
        """The better of the baselines."""
        return max(self.simple, key=lambda name: self.metrics[name][f"recall@{self.chooser}"])


def stand(runs: Sequence[tuple[str, Trained]], data: PreparedDataset, split: str) -> Standing:
    """Evaluate runs and baselines, taking the numbers of ``metrics.json`` where they hold.

    Args:
        runs: Names and runs, at least one.
        data: The data set.
        split: ``valid`` or ``test``.

    Returns:
        The metrics.

    Raises:
        ArtifactError: If a run knows other items.
        ConfigError: If the split cannot be evaluated.
    """
    options = [EvaluationSettings.from_options(run.options) for _, run in runs]
    ks = tuple(sorted({k for own in options for k in own.ks}))
    # Each ranker takes no more than its own share of the longest history.
    common = replace(options[0], ks=ks, max_history=max(own.max_history for own in options))
    device = runs[0][1].ranker.device
    simple = baselines(data, device=device)
    known: dict[str, dict[str, float]] = {}
    for name, run in runs:
        rows = known_results(run.path, split, common, run.ranker)
        own = {name: rows[run.ranker.name]} if run.ranker.name in rows else {}
        known = {n: row for n, row in rows.items() if n in simple} | own | known
    rankers = {name: run.ranker for name, run in runs}
    metrics = compare({**rankers, **simple}, data, split, common, OneProcess(device), known=known)
    beams = {name: r.num_beams for name, r in rankers.items() if isinstance(r, SearchingRanker)}
    how = [f"{count} beams of {name}" for name, count in beams.items()]
    how.append(f"histories of at most {common.max_history} items")
    return Standing(
        split=split,
        users=int(metrics[runs[0][0]]["users"]),
        ks=ks,
        metrics=metrics,
        simple=tuple(simple),
        how=", ".join(how),
        reused=tuple(name for name, row in metrics.items() if row == known.get(name)),
    )

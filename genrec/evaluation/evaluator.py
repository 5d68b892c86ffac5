"""Evaluation of any ranker: every user's held-out item among all items.

Shape legend: B = users of a batch, S = history items, R = results, E = examples, N = items.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.data.batching import EvaluationBatches
from genrec.data.schemas import Rules, SequenceBatch
from genrec.data.sequence_dataset import SeqData
from genrec.errors import ConfigError
from genrec.evaluation.metrics import coverage, hit_ranks, ranking_metrics
from genrec.evaluation.settings import DEFAULT_KS, OneProcess, Processes
from genrec.rankers import Ranker, SearchingRanker
from genrec.threads import side_by_side

__all__ = ["Evaluator"]


class Evaluator:
    """Ranks every user's target over all items.

    Two numbers stand side by side. *Item level*: a user counts when the target item itself is
    among the results. *SID level* (keys with the prefix ``sid_``): when an item with the same
    codes before repair is, which is what systems report that cannot tell such items apart.

    Args:
        data: The split.
        num_items: Number of items ``N``.
        groups: For each item a number that is equal for items whose codes before repair are
            equal, shape ``(N,)``, integer, for rankers that have none of their own; None where
            there are no codes.
        ks: Lengths of the result list.
        processes: Those that share the work; this one alone, on the CPU, when None.
        budget: Most history items of a batch on a CPU; 8 times as many elsewhere.
        max_rows: Most users of a batch, likewise.
        limit: Use only this many examples, evenly spread, or None for all.

    Raises:
        ConfigError: If a length is below 1.
    """

    def __init__(
        self,
        data: SeqData,
        *,
        num_items: int,
        groups: npt.NDArray[np.integer] | None = None,
        ks: Sequence[int] = DEFAULT_KS,
        processes: Processes | None = None,
        budget: int = 2048,
        max_rows: int = 256,
        limit: int | None = None,
    ) -> None:
        if not ks or min(ks) < 1:
            raise ConfigError(
                f"top_k_eval_list must hold numbers >= 1, got {list(ks)}; use [5, 10]"
            )
        self.data, self.num_items, self.groups = data, num_items, groups
        self.ks = tuple(sorted(set(ks)))
        self.processes: Processes = processes or OneProcess()
        self.device = self.processes.device
        # A GPU takes as long for a batch that fits a CPU's caches as for a larger one.
        times = 1 if self.device.type == "cpu" else 8
        self.batches = EvaluationBatches(
            data,
            device=self.device,
            budget=budget * times,
            max_rows=max_rows * times,
            rank=self.processes.process_index,
            world_size=self.processes.num_processes,
            limit=limit,
        )
        self._users = data.user_hashes.to(self.device)

    @property
    def num_results(self) -> int:
        """Results of each user that count."""
        return max(self.ks)

    @property
    def chooser(self) -> str:
        """Name of the metric that chooses the best step: Recall at the length next to 10."""
        return f"recall@{min(self.ks, key=lambda k: abs(k - 10))}"

    def run(self, ranker: Ranker, *, hide_history: bool = False) -> dict[str, float]:
        """Evaluate a ranker in one way.

        Args:
            ranker: On a CPU called from several threads at once. It sees the whole history that
                the split gives, so its ``max_history`` must be no less than the split's.
            hide_history: Whether items of the history are never recommended.

        Returns:
            Recall, NDCG and MRR at item level and, with groups, at SID level; coverage by the
            longest list; users and users a second. The same on every process and for any number
            of processes.
        """
        return self._run(ranker, (hide_history,))[0][0]

    def run_with_ranks(
        self, ranker: Ranker, *, hide_history: bool = False
    ) -> tuple[dict[str, float], npt.NDArray[np.int64]]:
        """Evaluate as :meth:`run`, and say where each example's target stood.

        Args:
            ranker: See :meth:`run`.
            hide_history: Likewise.

        Returns:
            The metrics, and the item-level ranks as of :meth:`run_both_with_ranks`.
        """
        return self._run(ranker, (hide_history,))[0]

    def run_both(self, ranker: Ranker) -> dict[str, float]:
        """Evaluate a ranker with its history shown and hidden.

        One ranking is enough for both, unless the ranker searches: then hiding items frees
        beams, and it is asked twice.

        Args:
            ranker: See :meth:`run`.

        Returns:
            As :meth:`run` with the history shown, and the same with it hidden under keys with
            the prefix ``hidden_``.
        """
        return self.run_both_with_ranks(ranker)[0]

    def run_both_with_ranks(
        self, ranker: Ranker
    ) -> tuple[dict[str, float], dict[str, npt.NDArray[np.int64]]]:
        """Evaluate as :meth:`run_both`, and say where each example's target stood.

        Args:
            ranker: See :meth:`run`.

        Returns:
            The metrics, and by prefix (empty with the history shown, ``hidden_`` with it hidden)
            the item-level ranks, shape ``(E,)``, from 0; -1 where the target is not among the
            results. Examples are in the order of the split, with ``limit`` those that were used.
        """
        if isinstance(ranker, SearchingRanker):
            shown, hidden = (self._run(ranker, (hide,))[0] for hide in (False, True))
        else:
            shown, hidden = self._run(ranker, (False, True))
        common = ("users", "users_per_s")
        metrics = shown[0] | {f"hidden_{k}": v for k, v in hidden[0].items() if k not in common}
        return metrics, {"": shown[1], "hidden_": hidden[1]}

    def _run(
        self, ranker: Ranker, ways: Sequence[bool]
    ) -> list[tuple[dict[str, float], npt.NDArray[np.int64]]]:
        """Evaluate with the history hidden or not: metrics and ranks for each way."""
        searches = isinstance(ranker, SearchingRanker)
        groups = self.groups if ranker.groups is None else ranker.groups
        alike = None if groups is None else torch.from_numpy(np.asarray(groups)).to(self.device)
        founds = [_Found(len(self.data), self.num_items, alike, self.device) for _ in ways]

        def answer(number: int) -> tuple[npt.NDArray[np.int64], Tensor, list[Tensor]]:
            rows, batch = self.batches[number]
            k, users = self.num_results, self._users[batch.user_ids]
            if searches:
                rules = Rules(exclude=batch.history) if ways[0] else None
                return (
                    rows,
                    batch.targets[:, 0],
                    [ranker.rank(batch.history, k, users=users, rules=rules).items],
                )
            spare = batch.history.shape[1] if any(ways) else 0
            items = ranker.rank(batch.history, k + spare, users=users).items
            lists = [_without(items, batch, k) if hide else items[:, :k] for hide in ways]
            return rows, batch.targets[:, 0], lists

        began = time.perf_counter()
        for rows, targets, lists in side_by_side(answer, len(self.batches), self.device):
            for found, results in zip(founds, lists, strict=True):
                found.add(rows, targets, results)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for found in founds:
            found.join(self.processes)
        seconds = time.perf_counter() - began
        used = torch.from_numpy(self.batches.examples)
        speed = {"users": float(len(used)), "users_per_s": len(used) / max(seconds, 1e-9)}
        return [
            (found.metrics(used, self.ks) | speed, found.ranks[0].cpu()[used].numpy())
            for found in founds
        ]


class _Found:
    """Where the targets stood, and which items were shown."""

    def __init__(
        self, num_examples: int, num_items: int, groups: Tensor | None, device: torch.device
    ) -> None:
        self.groups = groups
        self.ranks = torch.full((2, num_examples), -2, dtype=torch.long, device=device)
        self.shown = torch.zeros(num_items + 1, dtype=torch.long, device=device)

    def add(self, rows: npt.NDArray[np.int64], targets: Tensor, results: Tensor) -> None:
        where = torch.from_numpy(rows).to(self.ranks.device)
        self.ranks[0, where] = hit_ranks(results, targets)
        if self.groups is not None:
            alike = self.groups[results.clamp(min=0)].where(results >= 0, -1)
            self.ranks[1, where] = hit_ranks(alike, self.groups[targets])
        self.shown[results] = 1  # -1 lands in the spare last place

    def join(self, processes: Processes) -> None:
        # Each example is on one process and -2 on the others, so the largest is its rank.
        if processes.num_processes > 1:
            self.ranks, self.shown = (
                processes.gather(values.unsqueeze(0)).amax(dim=0)
                for values in (self.ranks, self.shown)
            )

    def metrics(self, used: Tensor, ks: Sequence[int]) -> dict[str, float]:
        ranks = self.ranks.cpu()[:, used]
        found = ranking_metrics(ranks[0], ks)
        if self.groups is not None:
            found |= {f"sid_{k}": value for k, value in ranking_metrics(ranks[1], ks).items()}
        return found | {"coverage": coverage(self.shown[:-1].cpu() > 0)}


def _without(items: Tensor, batch: SequenceBatch, k: int) -> Tensor:
    """Keep the first ``k`` items, ``(B, R)``, that are not in the history; -1 for none.

    Exact where R is ``k`` and the length of the history together: no more can be lost.
    """
    seen = (items.unsqueeze(2) == batch.history.unsqueeze(1)).any(dim=2) | (items < 0)  # (B, R)
    order = seen.long().argsort(dim=1, stable=True)[:, :k]
    kept = items.gather(1, order).masked_fill(seen.gather(1, order), -1)
    return pad(kept, (0, k - kept.shape[1]), value=-1)

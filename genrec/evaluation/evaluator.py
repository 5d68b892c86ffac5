"""Evaluation of any recommender: it is given a function from histories to items.

Shape legend: B = users of a batch, R = results, E = examples, N = items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor

from genrec.data.batching import EvaluationBatches
from genrec.data.schemas import SequenceBatch
from genrec.data.sequence_dataset import SeqData
from genrec.errors import ConfigError
from genrec.evaluation.metrics import coverage, hit_ranks, ranking_metrics
from genrec.threads import side_by_side

__all__ = ["DEFAULT_KS", "Evaluator", "PredictFn"]

DEFAULT_KS = (1, 5, 10, 20)

PredictFn = Callable[[SequenceBatch], Tensor]


class Evaluator:
    """Ranks every user's target over all items.

    Two numbers stand side by side. *Item level*: a user counts when the target item itself is
    among the results. *SID level* (keys with the prefix ``sid_``): when an item with the same
    codes before repair is, which is what systems report that cannot tell such items apart.

    Args:
        data: The split.
        num_items: Number of items ``N``.
        groups: For each item a number that is equal for items whose codes before repair are
            equal, shape ``(N,)``, integer; None where there are no codes.
        ks: Lengths of the result list.
        accelerator: Processes and device.
        budget: Most history items of a batch.
        max_rows: Most users of a batch.
        limit: Use only this many examples, evenly spread, or None for all.

    Raises:
        ConfigError: If a length is below 1.
    """

    def __init__(
        self,
        data: SeqData,
        *,
        num_items: int,
        groups: npt.NDArray[np.integer] | Tensor | None,
        ks: Sequence[int] = DEFAULT_KS,
        accelerator: Accelerator,
        budget: int = 2048,
        max_rows: int = 256,
        limit: int | None = None,
    ) -> None:
        if not ks or min(ks) < 1:
            raise ConfigError(
                f"top_k_eval_list must hold numbers >= 1, got {list(ks)}; use [5, 10]"
            )
        self.data, self.num_items = data, num_items
        self.ks = tuple(sorted(set(ks)))
        self.accelerator = accelerator
        device = accelerator.device
        self.groups = None if groups is None else torch.as_tensor(np.asarray(groups)).to(device)
        self.batches = EvaluationBatches(
            data,
            device=device,
            budget=budget,
            max_rows=max_rows,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            limit=limit,
        )

    @property
    def num_results(self) -> int:
        """Results that a recommender must return for each user."""
        return max(self.ks)

    @property
    def chooser(self) -> str:
        """Name of the metric that chooses the best step: Recall at the length next to 10."""
        return f"recall@{min(self.ks, key=lambda k: abs(k - 10))}"

    def run(self, predict: PredictFn) -> dict[str, float]:
        """Evaluate a recommender.

        Args:
            predict: From a batch to items, best first, shape ``(B, R)``, int64, -1 for none;
                on a CPU called from several threads at once.

        Returns:
            Recall, NDCG and MRR at item level and, with ``groups``, at SID level; coverage by
            the longest list; users and users a second. The same on every process and for any
            number of processes.
        """
        device = self.accelerator.device
        ranks = torch.full((2, len(self.data)), -2, dtype=torch.long, device=device)
        shown = torch.zeros(self.num_items + 1, dtype=torch.long, device=device)

        def answer(number: int) -> tuple[npt.NDArray[np.int64], Tensor, Tensor]:
            rows, batch = self.batches[number]
            return rows, batch.targets[:, 0], predict(batch)[:, : self.num_results]

        began = time.perf_counter()
        for rows, targets, results in side_by_side(answer, len(self.batches), device):
            where = torch.from_numpy(rows).to(device)
            ranks[0, where] = hit_ranks(results, targets)
            if self.groups is not None:
                alike = self.groups[results.clamp(min=0)].where(results >= 0, -1)
                ranks[1, where] = hit_ranks(alike, self.groups[targets])
            shown[results] = 1  # -1 lands in the spare last place
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        # Each example is on one process and -2 on the others, so the largest is its rank.
        ranks = _largest(self.accelerator, ranks)
        shown = _largest(self.accelerator, shown)
        seconds = time.perf_counter() - began
        used = torch.from_numpy(self.batches.examples)
        metrics = ranking_metrics(ranks[0].cpu()[used], self.ks)
        if self.groups is not None:
            alike_metrics = ranking_metrics(ranks[1].cpu()[used], self.ks)
            metrics |= {f"sid_{name}": value for name, value in alike_metrics.items()}
        metrics["coverage"] = coverage(shown[:-1].cpu() > 0)
        metrics["users"] = float(len(used))
        metrics["users_per_s"] = len(used) / max(seconds, 1e-9)
        return metrics


def _largest(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Take the element-wise maximum over processes."""
    if accelerator.num_processes == 1:
        return values
    return accelerator.gather(values.unsqueeze(0)).amax(dim=0)

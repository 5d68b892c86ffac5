"""The loss of each level of a run that recommends, beside what guesses cost.

Shape legend: E = examples, B = users of a batch, L = levels, T = temperatures, N = items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.data.prepared import PreparedDataset
from genrec.data.schemas import SequenceBatch
from genrec.data.sequence_dataset import SeqData
from genrec.models.beam_ranker import BeamRanker, CodeLogProbs
from genrec.models.score_ranker import ScoreRanker
from genrec.rankers import Ranker, training_counts, training_pairs
from genrec.reporting.code_bars import CodePaths, TrainingCounts, bigram_nats, uniform_nats
from genrec.reporting.ranking_diagnosis import Level
from genrec.threads import side_by_side
from genrec.trained import Trained

__all__ = ["LikelyFn", "Sight", "find_likely", "measure_levels", "standard_error"]

#: Probabilities are looked at as they are and less sure.
_TEMPERATURES = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)

LikelyFn = Callable[[SequenceBatch, Tensor], CodeLogProbs]
Rows = npt.NDArray[np.int64]
Nats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sight:
    """Examples of a split, looked at in batches of like length.

    Attributes:
        split: The split.
        rows: Its examples, shape ``(E,)``.
        rows_at_once: Users of a batch.
    """

    split: SeqData
    rows: Rows
    rows_at_once: int

    def batches(self) -> list[Rows]:
        """Places in ``rows``, shortest histories first."""
        order = np.argsort(self.split.lengths[self.rows], kind="stable")
        return [order[i : i + self.rows_at_once] for i in range(0, len(order), self.rows_at_once)]

    def look(self, places: Rows, device: torch.device) -> tuple[SequenceBatch, Tensor]:
        """Gather a batch and the hashes of its users."""
        batch = self.split.gather(self.rows[places])
        hashes = self.split.user_hashes[batch.user_ids]
        moved = SequenceBatch(
            batch.history.to(device),
            batch.targets.to(device),
            batch.user_ids.to(device),
            padded=batch.padded,
        )
        return moved, hashes.to(device)

    def nats(self, likely: LikelyFn, device: torch.device) -> tuple[Nats, Nats]:
        """Compute the loss of each level, ``(E, L)``, and at all temperatures, ``(E, L, T)``."""
        batches = self.batches()

        def work(number: int) -> CodeLogProbs:
            return likely(*self.look(batches[number], device))

        found = list(side_by_side(work, len(batches), device))
        places = np.argsort(np.concatenate(batches))
        own, tempered = (
            -torch.cat(part).double().cpu().numpy()[places]
            for part in ([x.own for x in found], [x.tempered for x in found])
        )
        return own, tempered


def find_likely(ranker: Ranker) -> LikelyFn | None:
    """Find out how a ranker tells probabilities; None where it does not."""
    if isinstance(ranker, BeamRanker) and (codes := ranker.code_log_probs) is not None:
        return lambda batch, users: codes(batch, users=users, temperatures=_TEMPERATURES)
    if isinstance(ranker, ScoreRanker):
        scores = ranker.scores

        @torch.no_grad()
        def of_items(batch: SequenceBatch, users: Tensor) -> CodeLogProbs:
            log_probs = scores(batch.history).float().log_softmax(dim=1)  # (B, N)
            return CodeLogProbs.of_levels([(log_probs, batch.targets[:, 0])], _TEMPERATURES)

        return of_items
    return None


def measure_levels(
    run: Trained, data: PreparedDataset, sight: Sight, likely: LikelyFn, nats: tuple[Nats, Nats]
) -> tuple[Level, ...]:
    """Set the loss of each level beside guesses, and beside that on training examples.

    Args:
        run: The run.
        data: Its data set.
        sight: Examples of the validation split.
        likely: From :func:`find_likely`.
        nats: Of these examples, from :meth:`Sight.nats`.

    Returns:
        The levels, one for a model that scores items.
    """
    ranker, split, rows = run.ranker, sight.split, sight.rows
    index = ranker.index if isinstance(ranker, BeamRanker) else None
    paths = CodePaths.of_items(ranker.num_items) if index is None else CodePaths.of_index(index)
    targets = split.targets[rows]
    last = np.asarray(data.sequence_items)[split.positions[rows] - 1].astype(np.int64)
    uniform = uniform_nats(paths, targets)
    seen = TrainingCounts(training_counts(data), *training_pairs(data))
    bigram = bigram_nats(paths, seen, last, targets)
    training = _newest_training(data, split.max_history, len(rows))
    own, tempered = nats
    at_temperatures = tempered.mean(axis=0)  # (L, T)
    fitted = own[:0]
    if len(training):
        of_training = SeqData(data, "train", max_history=split.max_history)
        fitted, _ = Sight(of_training, training, sight.rows_at_once).nats(likely, ranker.device)
    table = run.table
    digit = index is not None and table is not None and table.has_dedup_digit
    found = []
    for level in range(own.shape[1]):
        name = "item" if index is None else f"code {level + 1}"
        found.append(
            Level(
                name="dedup digit" if digit and level == own.shape[1] - 1 else name,
                loss=float(own[:, level].mean()),
                uniform=float(uniform[:, level].mean()),
                bigram=float(bigram[:, level].mean()),
                children=float(np.exp(uniform[:, level]).mean()),
                train_loss=float(fitted[:, level].mean()) if len(fitted) else float("nan"),
                illegal=max(0.0, float(own[:, level].mean() - at_temperatures[level, 0])),
                calibrated=float(at_temperatures[level].min()),
                temperature=_TEMPERATURES[int(at_temperatures[level].argmin())],
                uniform_error=standard_error(own[:, level] - uniform[:, level]),
                bigram_error=standard_error(own[:, level] - bigram[:, level]),
            )
        )
    return tuple(found)


def _newest_training(data: PreparedDataset, max_history: int, count: int) -> Rows:
    """Pick the newest training example of users, evenly spread: rows of the training split."""
    split = SeqData(data, "train", max_history=max_history)
    newest = np.flatnonzero(np.diff(split.users, append=-1))
    if len(newest) <= count:
        return newest
    return newest[np.linspace(0, len(newest) - 1, count).astype(np.int64)]


def standard_error(values: Nats) -> float:
    """Standard error of a mean; infinite for a single value, which says nothing."""
    if len(values) < 2:
        return float("inf")
    return float(values.std(ddof=1) / np.sqrt(len(values)))

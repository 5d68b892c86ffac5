"""What a diagnosis of a run that recommends holds: its numbers and its findings, plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from genrec.reporting.diagnose import Finding, format_findings

__all__ = ["Bucket", "Diagnosis", "Level", "Search", "format_diagnosis"]


@dataclass(frozen=True)
class Level:
    """The loss of one position of the ID on validation, beside what guesses cost; all in nats.

    Attributes:
        name: For example ``code 1``; ``dedup digit``; ``item`` for a softmax over items.
        loss: The model's, mean over the users.
        uniform: Of a uniform guess among the codes that continue the target's prefix.
        bigram: Of a bigram of codes, see :func:`~genrec.reporting.code_bars.bigram_nats`.
        children: Mean number of those codes.
        train_loss: The model's on the newest training example of as many users, without dropout.
        illegal: The part of ``loss`` that goes to codes which do not exist there.
        calibrated: The loss among those that exist, at the best of some temperatures.
        temperature: That one; well above 1 where the model is surer than it should be.
        uniform_error: Standard error of ``loss - uniform``.
        bigram_error: Standard error of ``loss - bigram``.
    """

    name: str
    loss: float
    uniform: float
    bigram: float
    children: float
    train_loss: float
    illegal: float
    calibrated: float
    temperature: float
    uniform_error: float
    bigram_error: float


@dataclass(frozen=True)
class Bucket:
    """Recall@10 on validation of some users, item level.

    Attributes:
        label: Which, for example ``6-20``.
        least: Lower end.
        most: Upper end, included; None for none.
        users: How many.
        recall: The model's.
        cooccurrence: That of last-item co-occurrence for the same users.
        popularity: That of popularity.
        error: Standard error of the model's recall less that of the better of the two.
    """

    label: str
    least: int
    most: int | None
    users: int
    recall: float
    cooccurrence: float
    popularity: float
    error: float

    @property
    def counting(self) -> float:
        """The better of co-occurrence and popularity."""
        return max(self.cooccurrence, self.popularity)


@dataclass(frozen=True)
class Search:
    """What the beam search loses of what the model knows; generation alone.

    Attributes:
        num_beams: Beams.
        hits: Share of users whose target is among the first ten.
        lost_hits: Share whose target is not found, although the model gives it a higher
            probability than the tenth result.
        lost: Share whose target is not found, although likelier than the worst beam kept.
    """

    num_beams: int
    hits: float
    lost_hits: float
    lost: float


@dataclass(frozen=True)
class Diagnosis:
    """What is known of a run on the validation split.

    Attributes:
        run: Its folder.
        model: What tables call it.
        users: How many validation users were looked at, evenly spread.
        all_users: How many there are.
        hide_history: Whether items of the history were left out of the results.
        levels: Losses, in the order of the ID; empty for a model that gives no probabilities.
        overall: Recall of all these users; its range is that of their histories.
        by_history: By the number of items before the target, whatever the model sees of them.
        by_popularity: By how often the target was taken in the training part.
        sid_recall: Recall@10 at SID level; None for a model that knows no codes.
        search: What the search loses; None for a model that scores all items.
        findings: What is wrong, worst first; empty where nothing is.
    """

    run: str
    model: str
    users: int
    all_users: int
    hide_history: bool
    levels: tuple[Level, ...]
    overall: Bucket
    by_history: tuple[Bucket, ...]
    by_popularity: tuple[Bucket, ...]
    sid_recall: float | None
    search: Search | None
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON: what is no finite number, as an error of one user, is None."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """Write a diagnosis for a person: tables, then findings or ``nothing wrong``."""
    hidden = "history hidden" if diagnosis.hide_history else "history not hidden"
    lines = [
        f"{diagnosis.model}: {diagnosis.users:,} of {diagnosis.all_users:,} validation users, "
        f"{hidden}"
    ]
    if diagnosis.levels:
        lines += ["", *_level_table(diagnosis.levels)]
    for title, buckets in (
        ("items of history", diagnosis.by_history),
        ("target taken in training", diagnosis.by_popularity),
    ):
        lines += ["", *_bucket_table(title, buckets, diagnosis.overall)]
    lines += ["", *_sentences(diagnosis)]
    return "\n".join([*lines, "", format_findings(diagnosis.findings)])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _level_table(levels: Sequence[Level]) -> list[str]:
    names = ("loss", "calibrated", "uniform", "bigram", "on training", "children")
    lines = [f"{'nats':24}" + "".join(f"{name:>12}" for name in names)]
    for level in levels:
        values = (level.loss, level.calibrated, level.uniform, level.bigram, level.train_loss)
        lines.append(
            f"{level.name:24}" + "".join(f"{v:12.3f}" for v in values) + f"{level.children:12.1f}"
        )
    if len(levels) > 1:
        fields = ("loss", "calibrated", "uniform", "bigram", "train_loss")
        totals = [sum(getattr(level, name) for level in levels) for name in fields]
        lines.append(f"{'whole ID':24}" + "".join(f"{total:12.3f}" for total in totals))
    return lines


def _bucket_table(title: str, buckets: Sequence[Bucket], overall: Bucket) -> list[str]:
    names = ("users", "recall@10", "co-occur.", "popularity")
    lines = [f"{title:24}" + "".join(f"{name:>12}" for name in names)]
    for bucket, label in [*((bucket, bucket.label) for bucket in buckets), (overall, "all")]:
        values = (bucket.recall, bucket.cooccurrence, bucket.popularity)
        lines.append(f"{label:24}{bucket.users:12,}" + "".join(f"{v:12.4f}" for v in values))
    return lines


def _sentences(diagnosis: Diagnosis) -> list[str]:
    lines = []
    if diagnosis.search is not None:
        search = diagnosis.search
        lines.append(
            f"search with {search.num_beams} beams: loses {100 * search.lost_hits:.2f} % of the "
            f"users' hits at ten to beams dropped early, beside {100 * search.hits:.2f} % found"
        )
    if diagnosis.sid_recall is not None:
        lines.append(
            f"recall@10 {diagnosis.overall.recall:.4f} at item level, {diagnosis.sid_recall:.4f} "
            "at SID level"
        )
    return lines

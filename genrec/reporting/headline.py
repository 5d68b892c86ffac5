"""What the head of the report says, and what is worth a try whatever was found."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genrec.data.prepared import PreparedDataset
from genrec.reporting.standing import Standing
from genrec.reporting.subject import Missing, Subject
from genrec.trained import Trained

__all__ = ["Headline", "ideas", "say_headline"]


@dataclass(frozen=True)
class Headline:
    """The head of the page.

    Attributes:
        heading: Its title.
        verdict: The main thing in a sentence.
        tiles: Numbers and what they are.
    """

    heading: str
    verdict: str
    tiles: tuple[tuple[str, str], ...]


def say_headline(
    subjects: Sequence[Subject], standing: Standing | Missing, data: PreparedDataset | Missing
) -> Headline:
    """Say the main things.

    Args:
        subjects: All runs on the page, stage one first.
        standing: How good they are.
        data: The data set.

    Returns:
        The head of the page.
    """
    tiles: list[tuple[str, str]] = []
    verdict = "Semantic IDs of a catalogue, and how they came about."
    if isinstance(standing, Standing):
        k, simple = standing.chooser, standing.best_simple
        row = {name: found[f"recall@{k}"] for name, found in standing.metrics.items()}
        names = [name for name in row if name not in standing.simple]
        best = max(names, key=lambda name: row[name])
        verdict = (
            f"Of {standing.users:,} users of the {standing.split} split, {best} finds the item "
            f"taken next among its first {k} for {_percent(row[best])}; {simple}, which only "
            f"counts, for {_percent(row[simple])}."
        )
        tiles += [(_percent(row[name]), f"Recall@{k}, {name}") for name in names[:3]]
        if row[simple] > 0:
            tiles.append((f"{row[best] / row[simple]:.2f}\u00a0×", f"{best} beside {simple}"))
    rates = [s.table.statistics["collision_rate"] for s in subjects if s.table is not None]
    tiles += [(_percent(rate), "collisions before repair") for rate in rates[:1]]
    fits = [s.logged["eval/r2"][-1][1] for s in subjects if "eval/r2" in s.logged]
    tiles += [(f"{fit:.2f}", "R2 of the codes, stage one") for fit in fits[:1]]
    place = ", ".join(subject.name for subject in subjects)
    if not isinstance(data, Missing):
        tiles.append((f"{data.num_items:,}", f"items, taken by {data.num_users:,} users"))
        place = str(data.meta.get("name") or place)
    return Headline(f"Report on {place}", verdict, tuple(tiles))


def ideas(
    runs: Sequence[tuple[str, Trained]], data: PreparedDataset | Missing
) -> list[tuple[str, str]]:
    """List what is worth a try in any case: words, and a command or nothing."""
    found = []
    if not isinstance(data, Missing) and not any(name.startswith("SASRec") for name, _ in runs):
        name = Path(data.path).name
        recipe = "sample" if data.num_items <= 3_000 else "amazon"  # as `genrec train auto`
        words = ["genrec", "train", "sasrec", recipe, "--data", str(data.path), "--name", name]
        found.append(("Train the usual model over item ids beside it.", shlex.join(words)))
        if runs:
            words = ["genrec", "report", *(str(run.path) for _, run in runs)]
            words.append(f"runs/sasrec/{name}")
            found.append(("Look at both side by side.", shlex.join(words)))
    if runs:
        what = "Train once more with another seed, train.seed=1: a difference as small as that "
        found.append((f"{what}between two seeds is noise.", ""))
    found.append(("See what every setting means.", "genrec settings decoder"))
    return found


def _percent(value: float) -> str:
    return f"{100 * value:.1f}\u00a0%"

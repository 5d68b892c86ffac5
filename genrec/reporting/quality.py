"""How good runs are, measured and drawn: beside counting, by kinds of users, code by code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genrec.data.prepared import PreparedDataset
from genrec.reporting.plots import Bars, Line, Plot, bar_plot, line_plot
from genrec.reporting.ranking_diagnosis import Bucket, Diagnosis
from genrec.reporting.ranking_findings import diagnose_ranking
from genrec.reporting.standing import Standing, stand
from genrec.reporting.subject import Missing, attempt
from genrec.trained import Trained

__all__ = ["Diagnosed", "Quality", "Slice", "measure_quality"]

_BASE_COLOURS = ("base-2", "base-1")  # popularity, co-occurrence


@dataclass(frozen=True)
class Diagnosed:
    """One run's diagnosis, and the losses of its codes drawn, where it has any."""

    name: str
    found: Diagnosis | Missing
    levels: Plot | None


@dataclass(frozen=True)
class Slice:
    """Recall of kinds of users.

    Attributes:
        plot: Drawn.
        what: By what they are told apart.
        labels: Of the kinds.
        users: How many of each.
        rows: Recalls, a row a ranker.
    """

    plot: Plot
    what: str
    labels: tuple[str, ...]
    users: tuple[int, ...]
    rows: tuple[Bars, ...]


@dataclass(frozen=True)
class Quality:
    """How good the runs of a report are.

    Attributes:
        standing: Beside each other and beside counting.
        recall_plots: The same, drawn.
        diagnosed: Each run's diagnosis.
        slices: Recall of kinds of users; empty where no run could be diagnosed.
        looked_at: How many users the diagnoses are of, in words.
    """

    standing: Standing | Missing
    recall_plots: tuple[Plot, ...] = ()
    diagnosed: tuple[Diagnosed, ...] = ()
    slices: tuple[Slice, ...] = ()
    looked_at: str = ""


def measure_quality(
    runs: Sequence[tuple[str, Trained]], data: PreparedDataset, *, split: str, users: int
) -> Quality:
    """Measure runs on a data set.

    Args:
        runs: Names and runs, at least one.
        data: The data set.
        split: Split of the standing; diagnoses are of validation.
        users: Most users that a diagnosis looks at.

    Returns:
        What was found.
    """
    standing = stand(runs, data, split)
    colours = {name: f"run-{1 + place % 6}" for place, (name, _) in enumerate(runs)}
    colours |= dict(zip(standing.simple, _BASE_COLOURS, strict=True))
    diagnosed = []
    for name, run in runs:
        found = attempt(diagnose_ranking, run, data, users=users)
        diagnosed.append(Diagnosed(name, found, _level_plot(name, found, colours[name])))
    known = [(one.name, one.found) for one in diagnosed if isinstance(one.found, Diagnosis)]
    return Quality(
        standing,
        tuple(_recall_plots(standing, colours)),
        tuple(diagnosed),
        tuple(_slices(known, colours)),
        _looked_at(known[0][1]) if known else "",
    )


def _looked_at(found: Diagnosis) -> str:
    """Say how many users a diagnosis is of."""
    if found.users == found.all_users:
        return f"{found.users:,} users"
    return f"{found.users:,} of {found.all_users:,} users, evenly spread"


def _recall_plots(standing: Standing, colours: Mapping[str, str]) -> list[Plot]:
    """Draw Recall@K against K with the history shown and hidden."""
    plots = []
    for words, prefix in (("history not hidden", ""), ("history hidden", "hidden_")):
        lines = [
            Line(
                name,
                standing.ks,
                [row[f"{prefix}recall@{k}"] for k in standing.ks],
                colours[name],
                "dashed" if name in standing.simple else "solid",
            )
            for name, row in standing.metrics.items()
        ]
        plots.append(
            line_plot(
                f"Recall@K, {words}",
                lines,
                x_label="K, length of the list",
                percent=True,
                from_zero=True,
                ticks=standing.ks,
            )
        )
    return plots


def _slices(found: Sequence[tuple[str, Diagnosis]], colours: Mapping[str, str]) -> list[Slice]:
    """Draw recall by the length of the history and by how often the target was taken."""
    return [
        _slice(title, what, [(name, getattr(one, buckets)) for name, one in found], colours)
        for title, what, buckets in (
            ("Recall@10 by length of the history", "items before the target", "by_history"),
            ("Recall@10 by popularity of the target", "times taken in training", "by_popularity"),
        )
        if found
    ]


def _slice(
    title: str,
    what: str,
    found: Sequence[tuple[str, tuple[Bucket, ...]]],
    colours: Mapping[str, str],
) -> Slice:
    """Draw the recall of some buckets of users, the same for all runs."""
    first = found[0][1]
    rows = [Bars(name, [bucket.recall for bucket in own], colours[name]) for name, own in found]
    for name, values in (
        ("co-occurrence", [bucket.cooccurrence for bucket in first]),
        ("popularity", [bucket.popularity for bucket in first]),
    ):
        rows.append(Bars(name, values, colours[name]))
    labels = tuple(bucket.label for bucket in first)
    short = [label.replace(" or more", "+") for label in labels]
    plot = bar_plot(title, short, rows, x_label=what, percent=True)
    return Slice(plot, what, labels, tuple(bucket.users for bucket in first), tuple(rows))


def _level_plot(name: str, found: Diagnosis | Missing, colour: str) -> Plot | None:
    """Draw the loss of each code position beside what guesses cost."""
    if isinstance(found, Missing) or not found.levels:
        return None
    levels, of_codes = found.levels, found.levels[0].name != "item"
    rows = [
        Bars(name, [level.loss for level in levels], colour),
        Bars("bigram", [level.bigram for level in levels], "base-1"),
        Bars(
            "uniform over legal codes" if of_codes else "uniform over all items",
            [level.uniform for level in levels],
            "base-2",
        ),
    ]
    return bar_plot(
        f"Loss of each {'code' if of_codes else 'item'}, {name}",
        [level.name for level in levels],
        rows,
        x_label="nats; lower is better",
    )

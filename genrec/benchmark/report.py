"""The page of a benchmark: the table of the README, and how sure its differences are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrec.data.prepared import PreparedDataset
from genrec.data.sequence_dataset import SeqData
from genrec.evaluation.results import Ranks, ResultRow, ResultsFile, pairs_table, results_table

__all__ = ["describe", "format_report"]

_METRICS = ("recall@10", "ndcg@10")


def format_report(
    results: ResultsFile,
    rows: Sequence[ResultRow],
    data: PreparedDataset,
    split: str,
    command: str,
) -> str:
    """Write the tables of a benchmark as Markdown.

    Args:
        results: Holds the ranks behind the rows.
        rows: Runs on the data set, at least one, in the order of the tables.
        data: The data set.
        split: The split that counts; validation stands behind a test.
        command: What started the benchmark.

    Returns:
        The page; the same for the same rows.
    """
    users = SeqData(data, split, max_history=1).users
    parts = [
        f"# {data.meta['name']}, {split} split",
        f"`{command}`; {describe(rows, data, split)} Seconds of all stages together.",
        results_table(rows, split),
    ]
    if split == "test":
        parts += ["# Validation, on which everything was chosen", results_table(rows, "valid")]
    models = list(dict.fromkeys(row.model for row in rows))
    if len(models) > 1:
        parts.append(
            f"# Paired bootstrap over the users of the {split} split\n\n"
            "First minus second, of the seeds' mean; how much seeds differ is not in the interval."
        )
        ranks = {row.key: results.ranks(row) for row in rows}
        for history, hidden in (("not hidden", ""), ("hidden", "hidden_")):
            by_model: dict[str, Ranks] = {
                model: np.stack(
                    [ranks[row.key][f"{hidden}{split}"] for row in rows if row.model == model]
                )
                for model in models
            }
            tables = [pairs_table(by_model, metric=metric, users=users) for metric in _METRICS]
            parts += [f"History {history}", *tables]
    if chosen := _chosen(rows):
        parts.append("\n".join(["# Chosen on validation", "", *chosen]))
    return "\n\n".join(parts) + "\n"


def describe(rows: Sequence[ResultRow], data: PreparedDataset, split: str) -> str:
    """Say what the tables are of: targets, data, code and threads."""
    users = SeqData(data, split, max_history=1).users
    commits = sorted({row.commit or "none" for row in rows})
    threads = sorted({row.threads for row in rows})
    seeds = sorted({row.seed for row in rows})
    over = (
        f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}."
        if len(seeds) > 1
        else f"Seed {seeds[0]}."
    )
    return (
        f"{len(users):,} targets of {len(np.unique(users)):,} users among all "
        f"{data.num_items:,} items, data {data.fingerprint}, commit {', '.join(commits)}, "
        f"CPU threads {' or '.join(map(str, threads))}. {over}"
    )


def _chosen(rows: Sequence[ResultRow]) -> list[str]:
    """List what was chosen for each fitted model."""
    return [
        f"- {row.model}: " + ", ".join(f"{name} {value:g}" for name, value in row.chosen.items())
        for row in rows
        if row.chosen
    ]

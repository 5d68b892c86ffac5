"""Results as a table for people, and as ``metrics.json`` of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genrec.atomic import write_json_atomic
from genrec.checkpoint import RunDirectory
from genrec.digests import read_signed, signed
from genrec.errors import ArtifactError
from genrec.evaluation.settings import EvaluationSettings
from genrec.rankers import Ranker, SearchingRanker

__all__ = ["check_metrics", "format_table", "known_results", "write_metrics"]

Results = Mapping[str, Mapping[str, float]]

#: Words for people and the prefix of the metrics.
_WAYS = {False: ("history not hidden", ""), True: ("history hidden", "hidden_")}


def format_table(
    results: Results,
    split: str,
    *,
    ks: Sequence[int],
    hide_history: bool | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Lay metrics out as a table for people.

    Args:
        results: Metrics by ranker, from :func:`~genrec.evaluation.compare.compare`.
        split: Which split they are of.
        ks: Lengths to show.
        hide_history: Show only the rows with the history hidden, or not hidden; both when None.
        notes: What else the first line shall say, for example ``30 beams``.

    Returns:
        Some lines of text.
    """
    columns = [f"{name}@{k}" for name in ("recall", "ndcg") for k in ks]
    first = next(iter(results))
    targets = int(results[first]["users"])
    width = max(26, *(len(f"{name}, item level") + 2 for name in results))
    lines = [", ".join([f"{split} split", f"{targets:,} targets", "all items ranked", *notes])]
    for way, (title, hidden) in _WAYS.items():
        if hide_history not in (None, way):
            continue
        head = "".join(f"{_short(column):>9}" for column in columns)
        lines.append(f"{title:<{width}}{head}{'MRR':>9}{'coverage':>10}")
        for name, row in results.items():
            for label, prefix in (("item level", hidden), ("SID level", f"{hidden}sid_")):
                if f"{prefix}mrr" not in row:
                    continue
                cells = "".join(f"{row[prefix + column]:>9.4f}" for column in columns)
                cover = f"{row[prefix + 'coverage']:>10.4f}" if label == "item level" else ""
                line = f"{f'{name}, {label}':<{width}}{cells}{row[prefix + 'mrr']:>9.4f}{cover}"
                lines.append(line)
    lines.append(f"{first}: {results[first]['users_per_s']:,.0f} users/s")
    return "\n".join(lines)


def _short(column: str) -> str:
    name, _, k = column.partition("@")
    return f"{'R' if name == 'recall' else 'N'}@{k}"


def write_metrics(
    run: str | os.PathLike[str],
    split: str,
    results: Results,
    settings: EvaluationSettings,
    ranker: Ranker,
) -> None:
    """Write ``metrics.json`` of a run, keeping what it holds of other splits.

    Args:
        run: The run's folder.
        split: Which split the results are of.
        results: Metrics by ranker, that of the run and those to compare it with.
        settings: How they came about.
        ranker: That of the run.
    """
    file = Path(run) / "metrics.json"
    known = read_signed(file) if file.is_file() else {}
    rows = {name: dict(row) for name, row in results.items()}
    known[split] = {"settings": _described(settings, ranker), **rows}
    write_json_atomic(file, signed(known))


def check_metrics(run: str | os.PathLike[str]) -> None:
    """Refuse a run whose ``metrics.json``, if it has any, is not as it was written.

    Raises:
        ArtifactError: If it is another.
    """
    if (file := Path(run) / "metrics.json").is_file():
        read_signed(file)


def known_results(
    run: str | os.PathLike[str], split: str, settings: EvaluationSettings, ranker: Ranker
) -> dict[str, dict[str, float]]:
    """Read what ``metrics.json`` holds of these settings and of the run as it is now.

    Args:
        run: The run's folder.
        split: Which split the results shall be of.
        settings: How they shall have come about.
        ranker: That of the run.

    Returns:
        Metrics by ranker, of those that have all lengths of ``settings.ks``.

    Raises:
        ArtifactError: If the file holds something else, or is not as it was written.
    """
    file = Path(run) / "metrics.json"
    pointers = [Path(run) / name for name in RunDirectory(run).pointers()]
    if not file.is_file() or any(p.stat().st_mtime > file.stat().st_mtime for p in pointers):
        return {}
    known: dict[str, Any] = read_signed(file).get(split, {})
    if not isinstance(known, dict) or not all(isinstance(row, dict) for row in known.values()):
        raise ArtifactError(
            f"metrics.json must hold rows of metrics for {split}, got something else in {file}; it "
            "was edited, delete it and evaluate again"
        )
    if known.pop("settings", None) != _described(settings, ranker):
        return {}
    wanted = {f"{hidden}recall@{k}" for k in settings.ks for _, hidden in _WAYS.values()}
    return {name: row for name, row in known.items() if wanted <= set(row)}


def _described(settings: EvaluationSettings, ranker: Ranker) -> dict[str, Any]:
    """Say what a run's results depend on."""
    how: dict[str, Any] = {"max_history": min(settings.max_history, ranker.max_history)}
    if isinstance(ranker, SearchingRanker):
        how["num_beams"] = ranker.num_beams
    return how

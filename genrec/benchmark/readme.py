"""The short tables of a benchmark that a README shows, kept between two lines of it."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genrec.atomic import atomic_file
from genrec.errors import ConfigError, MissingPathError
from genrec.evaluation.bootstrap import PairedDifference, paired_bootstrap
from genrec.evaluation.results import (
    HISTORIES,
    Ranks,
    ResultRow,
    markdown_line,
    mean_and_spread,
    short_p_value,
    short_share,
    with_spread,
)

__all__ = ["check_place", "short_tables", "write_between"]

_METRICS = {"R@5": "recall@5", "R@10": "recall@10", "N@5": "ndcg@5", "N@10": "ndcg@10"}


def short_tables(
    rows: Sequence[ResultRow],
    ranks: Mapping[str, Mapping[str, Ranks]],
    users: Ranks,
    split: str,
    *,
    about: str,
) -> str:
    """Write a benchmark in short: each model's item-level metrics, and the first against others.

    Args:
        rows: Runs on one data set, in the order of the table.
        ranks: By key of a row, then by ``hidden_`` or nothing and the split.
        users: User of each example, shape ``(E,)``.
        split: ``valid`` or ``test``.
        about: What was run on what, above the tables.

    Returns:
        Two Markdown tables, history not hidden and hidden in each.
    """
    models = list(dict.fromkeys(row.model for row in rows))
    titles = [f"{split} split", *_METRICS, "seeds", "time, all stages", "command"]
    lines = [markdown_line(*titles), markdown_line(*["---"] * len(titles))]
    for history, hidden in HISTORIES.items():
        lines.append(markdown_line(f"**history {history}**", *[""] * (len(titles) - 1)))
        columns = [mean_and_spread(rows, split, hidden + name) for name in _METRICS.values()]
        for model in models:
            mine = [row for row in rows if row.model == model]
            cells = [with_spread(*column[model]) for column in columns]
            rest = ["", "", ""]
            if not hidden:
                seconds = statistics.fmean(sum(row.seconds.values()) for row in mine)
                rest = [str(len(mine)), _duration(seconds), f"`{mine[0].command}`"]
            lines.append(markdown_line(model, *cells, *rest))
    parts = [about, "\n".join(lines)]
    if len(models) > 1:
        parts.append(_first_against_others(rows, ranks, users, split, models))
    return "\n\n".join(parts)


def _first_against_others(
    rows: Sequence[ResultRow],
    ranks: Mapping[str, Mapping[str, Ranks]],
    users: Ranks,
    split: str,
    models: Sequence[str],
) -> str:
    titles = ["minus", "R@10", "95 %", "p", "N@10", "95 %", "p"]
    lines = [markdown_line(models[0], *titles[1:]), markdown_line(*["---"] * len(titles))]
    for history, hidden in HISTORIES.items():
        lines.append(markdown_line(f"**history {history}**, minus", *[""] * (len(titles) - 1)))
        found = {
            model: np.stack([ranks[row.key][hidden + split] for row in rows if row.model == model])
            for model in models
        }
        for model in models[1:]:
            cells: list[str] = []
            for metric in ("recall@10", "ndcg@10"):
                pair = paired_bootstrap(found[models[0]], found[model], metric=metric, users=users)
                cells += _difference(pair)
            lines.append(markdown_line(model, *cells))
    return "\n".join(lines)


def _difference(pair: PairedDifference) -> list[str]:
    """Write a difference, its interval and its p-value."""
    numbers = (pair.difference, pair.low, pair.high)
    signs = ["-" if number < 0 else "+" for number in numbers]
    mean, low, high = (
        sign + short_share(abs(number)) for sign, number in zip(signs, numbers, strict=True)
    )
    return [mean, f"{low} to {high}", short_p_value(pair.p_value)]


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "below 1 s"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def check_place(path: Path, name: str) -> None:
    """Refuse a file that has no place for the tables of a benchmark.

    Args:
        path: A Markdown file.
        name: Of the benchmark.

    Raises:
        MissingPathError: If it is not there.
        ConfigError: If it lacks the two lines or has one of them twice, cannot be written to or
            is not UTF-8, or another benchmark's place lies between them.
    """
    _find(path, name)


def write_between(path: Path, name: str, text: str) -> None:
    """Put text between the two lines of a file that name a benchmark; the rest stays.

    Args:
        path: A Markdown file.
        name: Of the benchmark.
        text: What to put there.

    Raises:
        MissingPathError: If it is not there.
        ConfigError: If it lacks the two lines or has one of them twice, cannot be written to or
            is not UTF-8, or another benchmark's place lies between them.
    """
    whole, begin, end = _find(path, name)
    newline = "\r\n" if "\r\n" in whole else "\n"
    between = f"{newline}{text.replace(chr(10), newline)}{newline}{newline}"
    target = path.resolve()  # a link stays one
    mode = target.stat().st_mode
    with atomic_file(target) as temporary:
        # In bytes: no newline is made another.
        temporary.write_bytes(f"{whole[:begin]}{between}{whole[end:]}".encode())
    target.chmod(mode)


def _find(path: Path, name: str) -> tuple[str, int, int]:
    """Read a file, and say where the place for the tables begins and ends."""
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing"
        raise MissingPathError(f"--into must be a Markdown file, got {got} at {path}; create it")
    if not os.access(path, os.W_OK):
        raise ConfigError(f"--into must be a file to write to, got {path}; `chmod u+w` it")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            whole = file.read()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--into must be a file in UTF-8, got {path} with {error.reason}; save it as UTF-8"
        ) from error
    first, last = (f"<!-- {word} {name} -->" for word in ("benchmark", "end of benchmark"))
    begins, ends = (
        list(re.finditer(rf"^\ufeff?[ \t]*{re.escape(line)}[ \t]*(?:\r?\n|\Z)", whole, re.M))
        for line in (first, last)
    )
    if len(begins) != 1 or len(ends) != 1 or begins[0].end() > ends[0].start():
        raise ConfigError(
            f"--into must name a file with one line '{first}' and after it one '{last}', got "
            f"{len(begins)} and {len(ends)} of them in {path}; put each there once"
        )
    begin, end = begins[0].end(), ends[0].start()
    other = re.search(r"^[ \t]*<!-- (?:end of )?benchmark .*-->", whole[begin:end], re.M)
    if other is not None:
        raise ConfigError(
            f"--into must have nothing of other benchmarks between '{first}' and '{last}', got "
            f"'{other[0].strip()}' in {path}; move it out"
        )
    return whole, begin, end

"""The results file of a benchmark: a row a run, what it found for each user, tables of both.

Shape legend: S = seeds of a model, E = examples of a split.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from genrec.atomic import atomic_file
from genrec.errors import ArtifactError, DataError, MissingPathError
from genrec.evaluation.bootstrap import paired_bootstrap

__all__ = [
    "HISTORIES",
    "ResultRow",
    "ResultsFile",
    "markdown_line",
    "mean_and_spread",
    "pairs_table",
    "results_table",
    "short_p_value",
    "short_share",
    "with_spread",
]

Ranks = npt.NDArray[np.integer[Any]]

#: Words for people and the prefix of the metrics, as in every table.
HISTORIES = {"not hidden": "", "hidden": "hidden_"}
_LEVELS = {"item": "", "SID": "sid_"}


@dataclass(frozen=True)
class ResultRow:
    """What one run was and what came out.

    Attributes:
        model: What tables call it.
        seed: Seed of the run.
        data: Name of the prepared data set.
        data_fingerprint: Its digest.
        command: What repeats the run, as typed in a shell.
        commit: Of the checkout; None where there is none.
        threads: CPU threads that the run had.
        seconds: Wall time by stage, for example ``{"rqvae": 97.0, "decoder": 801.5}``, or
            ``{"fit": 0.4}`` where nothing is trained step by step.
        parameters: Weights of the model; 0 where it only counts.
        settings: Everything that the metrics depend on besides code and data; as JSON values.
        chosen: What was chosen on validation, for example ``{"ridge": 100.0}``.
        metrics: By split, then by name as in ``metrics.json``: ``recall@10``, with ``hidden_``
            in front where items of the history are left out, and ``sid_`` at SID level.
    """

    model: str
    seed: int
    data: str
    data_fingerprint: str
    command: str
    commit: str | None
    threads: int
    seconds: Mapping[str, float]
    parameters: int
    settings: Mapping[str, Any]
    chosen: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float]]

    @property
    def key(self) -> str:
        """What makes it the same run: a digest of model, seed, data and command, 16 digits."""
        same = json.dumps([self.model, self.seed, self.data_fingerprint, self.command])
        return hashlib.sha256(same.encode()).hexdigest()[:16]


class ResultsFile:
    """Rows as lines of JSON, and each run's ranks in a folder beside them.

    A row is there whole or not at all, several processes may add to one file, and rows are
    never changed: a benchmark that was cut off goes on with the runs whose key is not there.

    Args:
        path: The file, for example ``out/benchmark/beauty.jsonl``; it need not exist yet. Ranks
            lie in ``beauty.ranks/``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.ranks_folder = self.path.with_suffix(".ranks")

    def rows(self) -> list[ResultRow]:
        """Read all rows, in the order in which they were added.

        Returns:
            The rows; none where there is no file.

        Raises:
            ArtifactError: If a line is no row.
        """
        return [self._row(number, line) for number, line in enumerate(self._lines(), start=1)]

    def append(self, row: ResultRow, ranks: Mapping[str, Ranks] | None = None) -> None:
        """Add a row, and the ranks behind it first.

        Args:
            row: The run.
            ranks: By name, for example ``test`` and ``hidden_test``: rank of each example's
                target, shape ``(E,)``, -1 where it was not found.

        Raises:
            DataError: If the file has that run already.
        """
        line = json.dumps(asdict(row), allow_nan=False, ensure_ascii=False)
        arrays: dict[str, Any] = {k: v.astype(np.int32) for k, v in (ranks or {}).items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            if any(other.key == row.key for other in self.rows()):
                raise DataError(
                    f"results must hold each run once, got {row.model} with seed {row.seed} again "
                    f"for {self.path}; delete its line or use another file"
                )
            if arrays:
                with atomic_file(self._ranks_file(row)) as temporary, temporary.open("wb") as file:
                    np.savez_compressed(file, **arrays)
            with atomic_file(self.path) as temporary:
                temporary.write_text("\n".join([*self._lines(), line, ""]), encoding="utf-8")

    def ranks(self, row: ResultRow) -> dict[str, Ranks]:
        """Read the ranks of a run.

        Args:
            row: One of :meth:`rows`.

        Returns:
            What was added with it.

        Raises:
            MissingPathError: If it was added without.
        """
        file = self._ranks_file(row)
        if not file.is_file():
            raise MissingPathError(
                f"ranks of {row.model} with seed {row.seed} must be kept beside the results, got "
                f"no {file}; delete its line and run it again"
            )
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)

    def _ranks_file(self, row: ResultRow) -> Path:
        return self.ranks_folder / f"{row.key}.npz"

    def _lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        return [line for line in self.path.read_text(encoding="utf-8").split("\n") if line]

    def _row(self, number: int, line: str) -> ResultRow:
        names = {field.name for field in fields(ResultRow)}
        try:
            found = json.loads(line)
            return ResultRow(**{name: found[name] for name in names})
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"results must be a row of JSON a line, got line {number} of {self.path} with "
                f"{error!r}; delete the line"
            ) from error


def mean_and_spread(
    rows: Iterable[ResultRow], split: str, metric: str
) -> dict[str, tuple[float, float]]:
    """Average a metric over the seeds of each model.

    Args:
        rows: Runs on one data set.
        split: ``valid`` or ``test``.
        metric: Name as in :attr:`ResultRow.metrics`.

    Returns:
        By model, in the order of the rows: mean, and standard deviation over seeds (of the
        sample; NaN with one seed). Models without the metric are left out.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        value = row.metrics.get(split, {}).get(metric)
        if value is not None:
            values.setdefault(row.model, []).append(value)
    return {
        model: (statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else float("nan"))
        for model, v in values.items()
    }


def results_table(rows: Sequence[ResultRow], split: str, *, ks: Sequence[int] = (5, 10)) -> str:
    """Write the models of a data set as two Markdown tables: history not hidden, and hidden.

    Args:
        rows: Runs on one data set.
        split: ``valid`` or ``test``.
        ks: Lengths of the result list.

    Returns:
        In each table a line for each model at item level and, where it has one, at SID level:
        mean and standard deviation over seeds, seconds (mean, all stages together), parameters,
        and the command of the first of its runs.

    Raises:
        DataError: If the rows are of several data sets, which no table may mix.
    """
    prints = sorted({f"{row.data} {row.data_fingerprint}" for row in rows})
    if len(prints) > 1:
        raise DataError(
            f"a table must be of one data set, got {', '.join(prints)}; choose the rows of one"
        )
    blocks = []
    for history, hidden in HISTORIES.items():
        levels = [_level_lines(rows, split, ks, level, hidden + p) for level, p in _LEVELS.items()]
        blocks.append("\n".join([f"History {history}", "", *_head(ks), *itertools.chain(*levels)]))
    return "\n\n".join(blocks)


def _head(ks: Sequence[int]) -> list[str]:
    """Write the two lines that begin a table of models."""
    titles = [f"{letter}@{k}" for letter in "RN" for k in ks]
    titles = ["model", "level", *titles, "seeds", "seconds", "parameters", "command"]
    return [markdown_line(*titles), markdown_line(*["---"] * len(titles))]


def _level_lines(
    rows: Sequence[ResultRow], split: str, ks: Sequence[int], level: str, prefix: str
) -> list[str]:
    """Write a line for each model that has all metrics with this prefix."""
    names = [f"{prefix}{name}@{k}" for name in ("recall", "ndcg") for k in ks]
    columns = [mean_and_spread(rows, split, name) for name in names]
    lines = []
    for model in dict.fromkeys(row.model for row in rows):
        if not all(model in column for column in columns):
            continue
        mine = [row for row in rows if row.model == model]
        cells = [with_spread(*column[model]) for column in columns]
        seconds = statistics.fmean(sum(row.seconds.values()) for row in mine)
        shown = f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}"
        size = f"{max(row.parameters for row in mine):,}"
        command = f"`{mine[0].command}`"
        lines.append(markdown_line(model, level, *cells, str(len(mine)), shown, size, command))
    return lines


def pairs_table(
    ranks: Mapping[str, Ranks], *, metric: str = "ndcg@10", users: Ranks | None = None
) -> str:
    """Write the paired bootstrap of each pair of models as a Markdown table.

    Args:
        ranks: By model, shape ``(E,)`` or ``(S, E)``, of the same examples.
        metric: ``recall@K``, ``ndcg@K`` or ``mrr``.
        users: User of each example, shape ``(E,)``; None where each has a user of its own.

    Returns:
        A line for each pair: difference, 95 % interval and p-value.
    """
    lines = [markdown_line("first", "second", f"difference in {metric}", "95 % interval", "p")]
    lines.append(markdown_line(*["---"] * 5))
    for first, second in itertools.combinations(ranks, 2):
        pair = paired_bootstrap(ranks[first], ranks[second], metric=metric, users=users)
        interval = f"{pair.low:+.4f} to {pair.high:+.4f}"
        cells = (f"{pair.difference:+.4f}", interval, short_p_value(pair.p_value))
        lines.append(markdown_line(first, second, *cells))
    return "\n".join(lines)


def markdown_line(*cells: str) -> str:
    """Write a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def short_share(value: float, digits: int = 4) -> str:
    """Write a share without the zero in front of the point."""
    return f"{value:.{digits}f}".removeprefix("0")


def short_p_value(value: float) -> str:
    """Write a p-value with three digits, or that it is smaller."""
    return "< .001" if value < 0.001 else short_share(value, 3)


def with_spread(mean: float, spread: float) -> str:
    """Write a mean, and its standard deviation where there is one."""
    return short_share(mean) if np.isnan(spread) else f"{short_share(mean)} ± {short_share(spread)}"

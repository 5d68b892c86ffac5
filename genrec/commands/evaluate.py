"""``genrec evaluate``: how good the recommendations of runs are, in one table."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.commands import add_command
from genrec.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from genrec.data.prepared import PreparedDataset
    from genrec.rankers import Ranker
    from genrec.trained import Trained

__all__ = ["EvaluateArguments", "app_command", "evaluate_runs"]

#: What messages of the library call otherwise than the options here.
_OPTIONS = {"num_beams": "--beams", "split to evaluate": "--split", "top_k_eval_list": "-k"}


def evaluate_runs(
    paths: Sequence[Path],
    *,
    split: str = "test",
    num_beams: int | None = None,
    hide_history: bool | None = None,
    ks: Sequence[int] | None = None,
    with_baselines: bool = True,
    data: PreparedDataset | None = None,
    limit: int | None = None,
    reuse: bool = False,
) -> dict[str, dict[str, float]]:
    """Evaluate finished runs, print one table and write ``metrics.json`` into each run.

    Args:
        paths: The runs' folders, whatever they trained, all on one data set.
        split: ``valid`` or ``test``.
        num_beams: Beams of those that search; those of each run when None.
        hide_history: Print only the rows with the history hidden, or not hidden; both when None.
        ks: Lengths to print, computed beside those of the runs; those of the first run when None.
        with_baselines: Evaluate popularity and co-occurrence too.
        data: The data set, or None to open the one that the first run was trained on.
        limit: Use only this many users, evenly spread, or None for all; nothing is written then.
        reuse: Take the numbers of each ``metrics.json`` where they still hold.

    Returns:
        Metrics by the names in the table, see
        :meth:`~genrec.evaluation.evaluator.Evaluator.run_both`.

    Raises:
        GenRecError: If a run is not there or damaged, or the runs have different data sets.
    """
    from dataclasses import replace

    from genrec.evaluation.compare import compare
    from genrec.evaluation.settings import EvaluationSettings
    from genrec.evaluation.tables import (
        check_metrics,
        format_table,
        known_results,
        write_metrics,
    )
    from genrec.rankers import baselines
    from genrec.runs import find_run, warn_if_stopped
    from genrec.trained import load_trained, open_data, was_trained_on
    from genrec.training.processes import start_accelerator

    accelerator = start_accelerator()
    device = accelerator.device
    paths = [find_run(path) for path in paths]
    runs = [load_trained(path, device=device, num_beams=num_beams) for path in paths]
    _check_same_data(paths, runs)
    for path in paths:
        check_metrics(path)  # which are written at the end
    if accelerator.is_main_process:
        for path in paths:
            warn_if_stopped(path)
    data = data if data is not None else open_data(runs[0])
    settings = [EvaluationSettings.from_options(run.options) for run in runs]
    shown = tuple(ks or settings[0].ks)
    lengths = tuple(sorted({*shown, *(k for own in settings for k in own.ks)}))
    # Each ranker takes no more than its own share of the longest history.
    common = replace(settings[0], ks=lengths, max_history=max(s.max_history for s in settings))
    names = _names(paths, runs)
    rankers: dict[str, Ranker] = {n: run.ranker for n, run in zip(names, runs, strict=True)}
    if len(runs) == 1 and runs[0].options.get("rescore"):
        # What the item head adds to generation is seen beside generation alone.
        alone = load_trained(paths[0], device=device, num_beams=num_beams, rescore=0.0).ranker
        rankers = {alone.name: alone, **rankers}
    simple = baselines(data, device=device) if with_baselines else {}
    known: dict[str, dict[str, float]] = {}
    if reuse and limit is None:
        for path, name, run in zip(paths, names, runs, strict=True):
            rows = known_results(path, split, common, run.ranker)
            own = {name: rows.pop(run.ranker.name)} if run.ranker.name in rows else {}
            # Another run may have changed since this one's table was written.
            kept = {*simple, *(rankers if len(runs) == 1 else ())}
            known |= own | {n: row for n, row in rows.items() if n in kept}
    results = compare(
        {**rankers, **simple}, data, split, common, accelerator, limit=limit, known=known
    )
    if accelerator.is_main_process:
        labels = _labels(paths, names, runs)
        notes = _notes({labels.get(name, name): ranker for name, ranker in rankers.items()})
        labelled = {labels.get(name, name): row for name, row in results.items()}
        print(format_table(labelled, split, ks=shown, hide_history=hide_history, notes=notes))
        if not was_trained_on(runs[0].meta, data):
            print(
                f"{data.path} is not what {paths[0]} was trained on, so metrics.json stays as it "
                "is; what is held out here may have been trained on",
                file=sys.stderr,
            )
        elif limit is None and results != known:
            for path, name, run in zip(paths, names, runs, strict=True):
                # The first run keeps the table; the others what they would have found alone.
                same = run.ranker.max_history >= common.max_history  # so that the same is hidden
                others = results if path == paths[0] else simple if same else {}
                rows = {other: results[other] for other in others if other != name}
                write_metrics(
                    path, split, {run.ranker.name: results[name], **rows}, common, run.ranker
                )
    accelerator.wait_for_everyone()
    return results


def _check_same_data(paths: Sequence[Path], runs: Sequence[Trained]) -> None:
    from genrec.trained import find_other_log

    other = find_other_log([run.meta for run in runs])
    if other is not None:
        raise ArtifactError(
            f"{runs[other].ranker.name} must have been trained on the data set of the run "
            f"{paths[0]}, {runs[0].meta.get('prepared')}, got {paths[other]} of another; train it "
            "on that one"
        )


def _names(paths: Sequence[Path], runs: Sequence[Trained]) -> list[str]:
    """Name the rows of the results; runs of one kind are told apart by their folders."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(
            f"runs must be named once each, got {', '.join(map(str, paths))}; leave one out"
        )
    names = [run.ranker.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} {path}"
        for name, path in zip(names, paths, strict=True)
    ]


def _labels(paths: Sequence[Path], names: Sequence[str], runs: Sequence[Trained]) -> dict[str, str]:
    """Name the rows for people: of several runs each by what tells its folder from the others'."""
    if len(paths) == 1:
        return {}
    folders = [path.resolve() for path in paths]
    common = os.path.commonpath(folders)
    return {
        name: f"{run.ranker.name} {os.path.relpath(folder, common)}"
        for name, run, folder in zip(names, runs, folders, strict=True)
    }


def _notes(rankers: dict[str, Any]) -> list[str]:
    """Say with how many beams and of which histories the rows came about."""
    from genrec.rankers import SearchingRanker

    beams = {n: r.num_beams for n, r in rankers.items() if isinstance(r, SearchingRanker)}
    lengths = {name: ranker.max_history for name, ranker in rankers.items()}
    found = [(beams, "beams"), (lengths, "history items")]
    return [
        f"{next(iter(values.values()))} {what}"
        if len(set(values.values())) == 1
        else " and ".join(f"{value} {what} of {name}" for name, value in values.items())
        for values, what in found
        if values
    ]


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """What ``genrec evaluate`` is told."""

    run_dirs: Annotated[
        list[Path], typer.Argument(help="Runs of any training but stage one, on one data set.")
    ]
    split: Annotated[str, typer.Option(help="valid or test.")] = "test"
    beams: Annotated[int | None, typer.Option(min=1, help="Beams. [those of each run]")] = None
    exclude_history: Annotated[
        bool | None,
        typer.Option(
            "--exclude-history/--keep-history",
            help="Print only the rows where items of the history are left out, or are not. [both]",
        ),
    ] = None
    k: Annotated[
        list[int] | None,
        typer.Option("-k", min=1, help="Length of the list; may be repeated. [those of the run]"),
    ] = None
    baselines: Annotated[bool, typer.Option(help="Evaluate popularity and co-occurrence too.")] = (
        True
    )
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Print the numbers at hand where they still hold.")
    ] = False
    data: Annotated[
        Path | None, typer.Option(help="Prepared data set. [that of the first run]")
    ] = None


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: EvaluateArguments) -> None:
        from genrec.data.prepared import PreparedDataset
        from genrec.entry import settle_process
        from genrec.training.processes import together

        settle_process()
        with together():
            evaluate_runs(
                told.run_dirs,
                split=told.split,
                num_beams=told.beams,
                hide_history=told.exclude_history,
                ks=told.k,
                with_baselines=told.baselines,
                reuse=told.reuse,
                data=None if told.data is None else PreparedDataset.load(told.data),
            )

    about = "Rank the held-out items of a data set; writes metrics.json into each run."
    add_command(app, "evaluate", EvaluateArguments, work, about=about, options=_OPTIONS)

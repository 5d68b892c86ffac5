"""A benchmark from its settings to its tables: one row a run, added as soon as it is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from genrec.atomic import atomic_file
from genrec.benchmark.fitted import fit_best
from genrec.benchmark.jobs import Job, plan_jobs, shell_line
from genrec.benchmark.readme import check_place, short_tables, write_between
from genrec.benchmark.report import describe, format_report
from genrec.benchmark.settings import BenchmarkSettings
from genrec.benchmark.trainings import obtain
from genrec.data.prepared import PreparedDataset, is_prepared
from genrec.data.processed import load_or_prepare
from genrec.data.sequence_dataset import SeqData
from genrec.errors import ConfigError, DataError
from genrec.evaluation.evaluator import Evaluator
from genrec.evaluation.results import Ranks, ResultRow, ResultsFile
from genrec.evaluation.settings import DEFAULT_KS, EvaluationSettings, OneProcess
from genrec.rankers import Ranker
from genrec.trained import load_trained
from genrec.training.processes import start_accelerator
from genrec.training.session import current_commit

__all__ = ["run_benchmark"]


def run_benchmark(
    settings: BenchmarkSettings,
    *,
    command: Sequence[str],
    only: Sequence[str] = (),
    use: Sequence[Path] = (),
    into: tuple[Path, str] | None = None,
) -> Path:
    """Run what is not in the results yet, then write and print the tables of all there is.

    Runs go one after the other in this process. Stopped at any time, the next call skips the
    rows that are there and goes on with the training that was cut off.

    Args:
        settings: What to compare.
        command: Words that start this benchmark on these data, for the tables.
        only: Models to run; all when empty. The tables show all models that have rows.
        use: Finished runs that may be taken instead of training.
        into: A Markdown file that gets the short tables too, and the name of their place in it;
            see :func:`~genrec.benchmark.readme.write_between`.

    Returns:
        The file with the tables, ``results.md``; ``validation.md`` where the test split is not
        read.

    Raises:
        GenRecError: If a setting, a path or the data is not as it should be.
        KeyboardInterrupt: If it was stopped from outside.
    """
    accelerator = start_accelerator()
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"benchmark must run in one process, got {accelerator.num_processes}; start it with "
            "`genrec benchmark`, without a launcher"
        )
    if into is not None:
        if not settings.test:
            raise ConfigError(
                "--into writes tables of the test split, got benchmark.test=False; leave one out"
            )
        check_place(*into)
    jobs = plan_jobs(settings, command)
    wanted = {job.model for job in plan_jobs(settings, command, only)}
    data = _open_data(settings)
    for split in settings.splits:
        if len(SeqData(data, split, max_history=settings.max_history)) == 0:
            raise DataError(
                f"{split} needs users with at least 3 interactions, got none in {data.path}; use "
                "more data or another split rule"
            )
    name = "results" if settings.test else "validation"
    results = ResultsFile(Path(settings.out) / f"{name}.jsonl")
    known = {row.key: row for row in results.rows()}
    blanks = [_blank_rows(job, data) for job in jobs]
    _check_known(known, [blank for group in blanks for blank in group])
    for job, group in zip(jobs, blanks, strict=True):
        missing = [blank for blank in group if blank.key not in known]
        if job.model in wanted and missing:
            for row, ranks in _answers(job, missing, data, settings, accelerator.device, use):
                results.append(row, ranks)
                found = row.metrics["valid"]["ndcg@10"]
                print(f"{row.model}, seed {row.seed}: validation NDCG@10 {found:.4f}", flush=True)
    by_key = {row.key: row for row in results.rows()}
    rows = [by_key[blank.key] for group in blanks for blank in group if blank.key in by_key]
    report = format_report(results, rows, data, settings.splits[-1], shell_line(command))
    target = results.path.with_suffix(".md")
    with atomic_file(target) as temporary:
        temporary.write_text(report, encoding="utf-8")
    print(report)
    if into is not None and rows:
        about = f"`{shell_line(command)}`: {describe(rows, data, settings.splits[-1])}"
        every = {row.key: results.ranks(row) for row in rows}
        users = SeqData(data, settings.splits[-1], max_history=1).users
        short = short_tables(rows, every, users, settings.splits[-1], about=about)
        write_between(*into, short)
        print(f"tables: {into[0]}")
    return target


def _open_data(settings: BenchmarkSettings) -> PreparedDataset:
    """Open the data set, prepared where it is not yet."""
    folder = settings.dataset_folder
    if folder is not None and is_prepared(folder):
        return PreparedDataset.load(folder)
    if settings.dataset is None:
        raise ConfigError(
            f"dataset must say what {folder} holds, got none; set for example "
            "benchmark.dataset='amazon', or give a prepared data set"
        )
    return load_or_prepare(
        settings.dataset,
        folder,
        split=settings.dataset_split,
        encoder_model_name=settings.encoder,
        force=settings.force_dataset_process,
        processed_dir=settings.processed_dir,
    )


def _blank_rows(job: Job, data: PreparedDataset) -> list[ResultRow]:
    """Make the rows of a job as far as they are known before it has run."""
    shared: dict[str, Any] = {
        "seed": job.seed,
        "data": data.meta["name"],
        "data_fingerprint": data.fingerprint,
        "command": job.command,
        "commit": current_commit(),
        "threads": torch.get_num_threads(),
        "seconds": {},
        "parameters": 0,
        "metrics": {},
        "chosen": {},
    }
    return [
        ResultRow(model=name, settings={**job.settings, "evaluation": dict(how)}, **shared)
        for name, how in job.rows.items()
    ]


def _check_known(known: Mapping[str, ResultRow], blanks: Sequence[ResultRow]) -> None:
    """Refuse rows of other settings, which a table must not mix with the new ones."""
    for blank in blanks:
        row = known.get(blank.key)
        if row is not None and row.settings != blank.settings:
            raise ConfigError(
                f"results must be of the settings as they are now, got a row of {row.model}, seed "
                f"{row.seed}, with others; delete it, or set another benchmark.out"
            )


def _answers(
    job: Job,
    blanks: Sequence[ResultRow],
    data: PreparedDataset,
    settings: BenchmarkSettings,
    device: torch.device,
    use: Sequence[Path],
) -> Iterator[tuple[ResultRow, dict[str, Ranks]]]:
    """Train or fit a model, and evaluate it in each of its ways."""
    how = EvaluationSettings(ks=DEFAULT_KS, max_history=settings.max_history)
    if job.fitted is not None:

        def score(ranker: Ranker) -> float:
            metrics, _ = _evaluate(ranker, data, ("valid",), how, device)
            return metrics["valid"][settings.choose_by]

        grid = (settings.grid or {}).get(job.model, {})
        fit = fit_best(
            job.fitted, data, grid, score, max_history=settings.max_history, device=device
        )
        metrics, ranks = _evaluate(fit.ranker, data, settings.splits, how, device)
        row = replace(
            blanks[0],
            seconds={"fit": round(fit.seconds, 2)},
            parameters=fit.parameters,
            metrics=metrics,
            chosen=fit.chosen,
        )
        yield row, ranks
        return
    run = obtain(job, data.fingerprint, use)
    for blank in blanks:
        trained = load_trained(run.path, device=device, **blank.settings["evaluation"])
        how = replace(EvaluationSettings.from_options(trained.options), ks=DEFAULT_KS)
        metrics, ranks = _evaluate(trained.ranker, data, settings.splits, how, device)
        row = replace(
            blank,
            commit=run.meta.get("commit"),
            threads=run.meta.get("threads", blank.threads),
            seconds=run.seconds,
            parameters=run.meta["parameters"],
            metrics=metrics,
        )
        yield row, ranks


def _evaluate(
    ranker: Ranker,
    data: PreparedDataset,
    splits: Sequence[str],
    how: EvaluationSettings,
    device: torch.device,
) -> tuple[dict[str, dict[str, float]], dict[str, Ranks]]:
    """Evaluate with the history shown and hidden: metrics by split, ranks by prefix and split."""
    metrics: dict[str, dict[str, float]] = {}
    ranks: dict[str, Ranks] = {}
    for split in splits:
        evaluator = Evaluator(
            SeqData(data, split, max_history=min(how.max_history, ranker.max_history)),
            num_items=data.num_items,
            ks=how.ks,
            processes=OneProcess(device),
            budget=how.budget,
            max_rows=how.max_rows,
        )
        metrics[split], found = evaluator.run_both_with_ranks(ranker)
        ranks |= {f"{hidden}{split}": places for hidden, places in found.items()}
    return metrics, ranks

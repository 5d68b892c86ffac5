"""The report: one page, without a network, about one or several runs."""

from __future__ import annotations

import importlib.resources
import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genrec.atomic import atomic_file
from genrec.data.prepared import PreparedDataset
from genrec.errors import ConfigError
from genrec.reporting.diagnose import Finding, diagnose_run
from genrec.reporting.headline import ideas, say_headline
from genrec.reporting.id_cards import id_card, page_data
from genrec.reporting.id_view import IdView, view_ids
from genrec.reporting.plots import need_plots
from genrec.reporting.quality import Quality, measure_quality
from genrec.reporting.recommended import UserSample, sample_users
from genrec.reporting.run_card import data_facts, differing_settings, run_facts, training_plots
from genrec.reporting.subject import (
    Missing,
    Subject,
    attempt,
    check_same_data,
    find_stage_one,
    open_subject,
)
from genrec.trained import Trained, open_data
from genrec.version import __version__

if TYPE_CHECKING:  # it comes with the extra that draws
    from markupsafe import Markup

__all__ = ["Told", "build_report", "write_report"]

Runs = Sequence[tuple[str, Trained]]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a report is told.

    Attributes:
        split: Split of the table of metrics, ``valid`` or ``test``.
        users: Validation users that the diagnosis looks at, >= 1.
        choose: From the data set to the rows of users to show recommendations for.
        data: The data set, or None for that of the first run.
        device: Where to compute.
    """

    split: str = "test"
    users: int = 2000
    choose: Callable[[PreparedDataset], Sequence[int]] = lambda data: ()
    data: PreparedDataset | None = None
    device: torch.device | str = "cpu"


def write_report(
    paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], told: Told
) -> Path:
    """Write the report of runs; an older file is replaced when all is written.

    Args:
        paths: The runs' folders.
        out: The file.
        told: What else it is told.

    Returns:
        The file.

    Raises:
        GenRecError: If a run is not there or damaged, the runs have different data sets, or
            ``out`` cannot be written.
    """
    target = Path(out)
    above = next(place for place in target.absolute().parents if place.exists())
    if target.is_dir():
        raise ConfigError(f"--out must be a file, got the folder {out}; name a file in it")
    if target.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(
            f"--out must end in .html, got {out}; name for example {target.with_suffix('.html')}"
        )
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise _unwritable(out, f"{above} takes no files")
    text = build_report(paths, told)
    try:
        with atomic_file(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(out, error) from error
    return target


def _unwritable(out: str | os.PathLike[str], why: object) -> ConfigError:
    return ConfigError(f"--out must be a place to write to, got {out}: {why}; name another")


def build_report(paths: Sequence[str | os.PathLike[str]], told: Told) -> str:
    """Make the page.

    Args:
        paths: The runs' folders, of any training, all on one data set.
        told: What else it is told.

    Returns:
        HTML that needs no other file.

    Raises:
        GenRecError: If a run is not there or damaged, or the runs have different data sets.
    """
    need_plots()
    given = [open_subject(path, device=told.device) for path in paths]
    if len({subject.path.resolve() for subject in given}) < len(given):
        raise ConfigError(
            f"RUNS must be named once each, got {', '.join(map(str, paths))}; leave one out"
        )
    check_same_data(given)
    recommending = _named([subject for subject in given if subject.trained is not None])
    runs = [(s.name, s.trained) for s in recommending if s.trained is not None]
    makers, unknown = _stage_ones(given, recommending)
    subjects = [*makers, *recommending]
    data = told.data if told.data is not None else attempt(open_data, given[0])
    if isinstance(data, Missing):
        print(f"warning: what needs the data set is left out: {data.why}", file=sys.stderr)
    quality = _quality(runs, data, told)
    views = _views(subjects, data)
    samples = _samples(runs, data, told)
    return _render(
        {
            "version": __version__,
            "written": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "head": say_headline(subjects, quality.standing, data),
            "quality": quality,
            "diagnoses": _diagnoses(makers, quality),
            "unknown_stage_one": unknown,
            "ideas": ideas(runs, data),
            "samples": samples,
            "titles": _titles(samples, data),
            "views": [id_card(view) for view in views],
            "subjects": [_card(subject) for subject in subjects],
            "differing": differing_settings(recommending),
            "runs": [name for name, _ in runs],
            "data": data if isinstance(data, Missing) else _data_card(data),
            "page_data": page_data(views),
        }
    )


def _named(subjects: Sequence[Subject]) -> list[Subject]:
    """Name runs by what they are; those of one kind are told apart by their folders."""
    kinds: dict[str, list[Path]] = {}
    names = []
    for subject in subjects:
        kind = subject.meta.get("model", "tokenizer")
        trained = subject.trained
        names.append(f"stage one, {kind}" if trained is None else trained.ranker.name)
        kinds.setdefault(names[-1], []).append(subject.path.resolve())
    named = []
    for subject, name in zip(subjects, names, strict=True):
        if len(alike := kinds[name]) > 1:
            # What differs of the folders is enough.
            shared = os.path.commonpath([path.parent for path in alike])
            name = f"{name} {subject.path.resolve().relative_to(shared)}"
        named.append(replace(subject, name=name))
    return named


def _stage_ones(
    given: Sequence[Subject], recommending: Sequence[Subject]
) -> tuple[list[Subject], dict[str, str]]:
    """Find the stage-one runs: those given, and those that made the IDs of the others.

    Returns them, and by name why that of a run which has IDs is not known.
    """
    found = {s.path.resolve(): s for s in given if s.trained is None}
    unknown = {}
    for subject in recommending:
        place = attempt(find_stage_one, subject)
        if not isinstance(place, Missing):
            found.setdefault(place.resolve(), open_subject(place))
        elif subject.table is not None:
            unknown[subject.name] = place.why
    return _named(list(found.values())), unknown


def _quality(runs: Runs, data: PreparedDataset | Missing, told: Told) -> Quality:
    if not runs:
        return Quality(Missing("no run that recommends was given, only stage one"))
    if isinstance(data, Missing):
        return Quality(data)
    return measure_quality(runs, data, split=told.split, users=told.users)


def _views(subjects: Sequence[Subject], data: PreparedDataset | Missing) -> list[IdView]:
    """Look at each different table of IDs once, by a run that recommends where there is one."""
    tables: dict[tuple[str, str], list[Subject]] = {}
    for subject in subjects:
        if subject.table is not None:
            key = (subject.table.fingerprint, subject.table.items_fingerprint)
            tables.setdefault(key, []).append(subject)
    known = None if isinstance(data, Missing) else data
    return [
        view_ids(group[-1], known, names=[s.name for s in group], key=f"ids-{number}")
        for number, group in enumerate(tables.values(), start=1)
    ]


def _diagnoses(
    makers: Sequence[Subject], quality: Quality
) -> list[tuple[str, Sequence[Finding] | Missing]]:
    """List the findings of both stages."""
    found: list[tuple[str, Sequence[Finding] | Missing]] = [
        (subject.name, attempt(diagnose_run, subject.path)) for subject in makers
    ]
    for one in quality.diagnosed:
        known = one.found
        found.append((one.name, known if isinstance(known, Missing) else known.findings))
    return found


def _samples(runs: Runs, data: PreparedDataset | Missing, told: Told) -> list[UserSample] | Missing:
    """Recommend to some users."""
    if not runs:
        return Missing("no run that recommends was given, only stage one")
    if isinstance(data, Missing):
        return data
    users = told.choose(data)
    if len(users) == 0:
        return Missing("no user was asked for, or none has a held-out item")
    return sample_users(runs, data, users)


def _titles(samples: list[UserSample] | Missing, data: PreparedDataset | Missing) -> dict[int, str]:
    """Name all items that samples show; by their keys where they have no title."""
    if isinstance(samples, Missing) or isinstance(data, Missing):
        return {}
    rows = {row for sample in samples for row in sample.rows()}
    return {row: data.item_titles[row] or data.item_keys[row] for row in rows}


def _card(subject: Subject) -> dict[str, Any]:
    plots, words = training_plots(subject)
    return {
        "name": subject.name,
        "folder": str(subject.path),
        "facts": run_facts(subject),
        "settings": sorted((name, str(value)) for name, value in subject.settings.items()),
        "plots": plots,
        "words": words,
    }


def _data_card(data: PreparedDataset) -> dict[str, Any]:
    steps = data.meta.get("card", {}).get("steps", [])
    return {"name": data.meta.get("name"), "facts": data_facts(data.meta), "steps": steps}


def _render(context: Mapping[str, Any]) -> str:
    """Fill the page; every text that came from outside is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("genrec.reporting", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": "{:,}".format,
        "items": _items,
        "percent": _percent,
        "code": _code,
        "sentence": _sentence,
    }
    environment.globals["next_number"] = itertools.count(1).__next__
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    page = importlib.resources.files("genrec.reporting") / "page"
    inlined = {
        name: (page / f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")
    }
    return environment.get_template("report.html").render(**context, **inlined) + "\n"


def _items(count: int) -> str:
    return f"{count:,} item{'' if count == 1 else 's'}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\u00a0%"


def _sentence(text: str) -> str:
    """Begin with a capital letter."""
    return text[:1].upper() + text[1:]


def _code(text: str) -> Markup:
    """Escape a text, and let what stands between backticks be code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    marked = [f"<code>{escape(p)}</code>" if n % 2 else escape(p) for n, p in enumerate(parts)]
    return Markup("".join(marked))

"""What a run was told and how its training went: facts in words, settings, curves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from genrec.reporting.plots import Line, Plot, line_plot
from genrec.reporting.subject import Series, Subject

__all__ = ["data_facts", "differing_settings", "duration", "run_facts", "training_plots"]

#: Curves of one picture beyond those of a run's own colour.
_COLOURS = ("run-1", "run-2", "run-3", "run-4", "run-5", "run-6")
_DASHES = ("solid", "dashed", "dotted")


def duration(seconds: float) -> str:
    """Write a time for a person: ``9.4 s``, ``12 min 5 s``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def run_facts(subject: Subject) -> list[tuple[str, str]]:
    """List what a run was, as names and words; what it does not say is left out."""
    meta = subject.meta
    facts: list[tuple[str, Any]] = [("model", meta.get("model"))]
    if (count := meta.get("parameters")) is not None:
        facts.append(("parameters", f"{count:,}"))
    if command := meta.get("command"):
        first, *rest = str(command).split(" ")
        facts.append(("command", " ".join([PurePath(first).name, *rest])))
    device = [str(meta.get("device", ""))]
    for name, one, many in (
        ("num_processes", "process", "processes"),
        ("threads", "thread", "threads"),
    ):
        if value := meta.get(name):
            device.append(f"{value} {one if value == 1 else many}")
    if meta.get("mixed_precision") not in (None, "no"):
        device.append(str(meta["mixed_precision"]))
    facts.append(("device", ", ".join(part for part in device if part)))
    if "train_seconds" in meta:
        steps = f" for {meta['steps']:,} steps" if meta.get("steps") else ""
        facts.append(("training took", f"{duration(float(meta['train_seconds']))}{steps}"))
    facts.append(("seed", meta.get("seed")))
    versions = [f"genrec {meta['genrec']}"] if "genrec" in meta else []
    versions += [f"commit {meta['commit']}"] if meta.get("commit") else ["no commit known"]
    versions += [f"{name} {meta[name]}" for name in ("torch", "python") if name in meta]
    facts.append(("version", ", ".join(versions)))
    facts.append(("text encoder", meta.get("encoder")))
    facts.append(("folder", subject.path))
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def differing_settings(subjects: Sequence[Subject]) -> list[tuple[str, list[str]]]:
    """List the settings in which runs differ: name, and the value of each; ``-`` for none."""
    names = sorted({name for subject in subjects for name in subject.settings})
    rows = []
    for name in names:
        values = [str(subject.settings.get(name, "-")) for subject in subjects]
        if len(set(values)) > 1:
            rows.append((name, values))
    return rows


def data_facts(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List what a data set is, from its ``meta.json``."""
    card = meta.get("card", {})
    facts: list[tuple[str, Any]] = [
        ("source", meta.get("source")),
        ("users", f"{meta['num_users']:,}"),
        ("items", f"{meta['num_items']:,}"),
        ("interactions", f"{meta['num_interactions']:,}"),
    ]
    if "density" in card:
        facts.append(("density", f"{100 * card['density']:.3g} %"))
    if lengths := card.get("history_length"):
        words = ", ".join(f"{name} {value:g}" for name, value in lengths.items())
        facts.append(("history length", words))
    if parts := card.get("interactions_by_part"):
        facts.append(("parts", ", ".join(f"{name} {count:,}" for name, count in parts.items())))
    if span := card.get("time_span"):
        facts.append(("time", " to ".join(map(str, span))))
    facts += [("order", card.get("order")), ("split", meta.get("split_rule"))]
    facts += [("text encoder", f"{meta.get('encoder')}, {meta.get('embedding_dim')} numbers")]
    if "items_without_text" in card:
        facts.append(("items without text", f"{card['items_without_text']:,}"))
    for what in ("repaired", "rejected"):
        if what in card:
            rows = sum(int(entry["rows"]) for entry in card[what])
            facts.append((f"{what} rows", f"{rows:,}"))
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def training_plots(subject: Subject) -> tuple[list[Plot], list[str]]:
    """Draw how a training went.

    Args:
        subject: The run.

    Returns:
        The plots, and in words what was logged once only.
    """
    logged = subject.logged
    plots, words = [], []
    losses = ("train/loss", "train/reconstruction_loss", "train/rqvae_loss", "valid/loss")
    wanted: list[tuple[str, list[tuple[str, Series]], bool, bool]] = [
        ("Loss", [(_name(n), logged[n]) for n in losses if n in logged], False, False)
    ]
    levels = _matching(logged, r"train/loss_(level_\d+|items)")
    wanted.append(("Loss in training, part by part", levels, False, False))
    recalls = _matching(logged, r"valid/recall@\d+")
    wanted.append(("Recall on validation", recalls, True, True))
    shares = [(words, logged[n]) for n, words in _SHARES.items() if n in logged]
    wanted.append(("Variance explained by codes", shares, True, False))
    perplexity = _matching(logged, r"eval/perplexity_\d+")
    wanted.append(("Perplexity of each level", perplexity, False, True))
    collide = [("collisions", logged[n]) for n in ("eval/collision_rate",) if n in logged]
    wanted.append(("Items that share an ID, before repair", collide, True, True))
    for title, curves, percent, zero in wanted:
        drawn = [(name, points) for name, points in curves if len(points) > 1]
        once = [(name, points[0]) for name, points in curves if len(points) == 1]
        if drawn:
            lines = [
                Line(
                    name,
                    [step for step, _ in points],
                    [value for _, value in points],
                    _COLOURS[number % len(_COLOURS)],
                    _DASHES[number % len(_DASHES)],
                )
                for number, (name, points) in enumerate(drawn)
            ]
            plots.append(line_plot(title, lines, x_label="step", percent=percent, from_zero=zero))
        if once:
            values = ", ".join(f"{name} {_figure(value, percent)}" for name, (_, value) in once)
            words.append(f"{title}, at step {once[0][1][0]:,} only: {values}.")
    return plots, words


_SHARES = {"eval/r2": "with codes (R2)", "eval/r2_unquantized": "without codes"}
_NAMES = {
    "train/loss": "training, all parts",
    "train/reconstruction_loss": "reconstruction",
    "train/rqvae_loss": "quantisation",
    "valid/loss": "validation",
    "train/loss_items": "item head",
}


def _name(name: str) -> str:
    """Name a curve for a legend."""
    if name in _NAMES:
        return _NAMES[name]
    last = name.rpartition("/")[2]
    if found := re.fullmatch(r"(?:loss_level|perplexity)_(\d+)", last):
        return f"code {found[1]}"
    return last.replace("recall", "Recall")


def _matching(logged: Mapping[str, Series], pattern: str) -> list[tuple[str, Series]]:
    """Pick curves by name, numbers in their own order."""
    names = [name for name in logged if re.fullmatch(pattern, name)]
    names.sort(key=lambda name: int((re.findall(r"\d+", name) or ["99"])[-1]))
    return [(_name(name), logged[name]) for name in names]


def _figure(value: float, percent: bool) -> str:
    if not math.isfinite(value):
        return "not finite"
    return f"{100 * value:.1f}\u00a0%" if percent else f"{value:.3g}"

"""The data card: what came in, what each filter took, what came out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DataCard", "format_card", "history_quantiles", "time_span"]

#: More than this share of a source is not lost by a few bad lines.
_MANY_LOST = 0.05
#: With fewer different texts than this share of the items, texts say little of them.
_FEW_TEXTS, _FEW_ITEMS = 0.5, 20


class DataCard:
    """Collect what happens to a data set on its way from files to arrays.

    Args:
        name: Short name of the data set.
        source: Where it came from.
    """

    def __init__(self, name: str, source: str) -> None:
        self._facts: dict[str, Any] = {"name": name, "source": source}
        self._steps: list[dict[str, Any]] = []

    def step(self, name: str, *, interactions: int, users: int, items: int) -> None:
        """Note the counts after a step; ``items`` are those that have an interaction."""
        before = self._steps[-1]["interactions"] if self._steps else interactions
        self._steps.append(
            {
                "step": name,
                "interactions": interactions,
                "users": users,
                "items": items,
                "dropped": before - interactions,
            }
        )

    def last_counts(self) -> dict[str, int]:
        """Give the counts after the last step."""
        return {name: self._steps[-1][name] for name in ("interactions", "users", "items")}

    def note(self, **facts: Any) -> None:
        """Note facts that ``json`` can write, by name; a later value replaces an earlier one."""
        self._facts.update(facts)

    def as_dict(self) -> dict[str, Any]:
        """Give the whole card, ready for ``json``."""
        return {**self._facts, "steps": list(self._steps)}


def history_quantiles(lengths: npt.NDArray[np.integer[Any]]) -> dict[str, float]:
    """Describe lengths of histories ``(U,)``: quartiles, tails and mean; empty for no user."""
    if len(lengths) == 0:
        return {}
    marks = {"min": 0, "25%": 25, "median": 50, "75%": 75, "90%": 90, "99%": 99, "max": 100}
    values = np.percentile(lengths, list(marks.values()))
    result = {mark: float(value) for mark, value in zip(marks, values, strict=True)}
    return {**result, "mean": round(float(lengths.mean()), 3)}


def time_span(first: int, last: int, ticks_per_s: int) -> list[str]:
    """Write two times in words: ISO dates in UTC, or the numbers where they are no dates."""
    result = []
    for ticks in (first, last):
        try:
            moment = datetime.fromtimestamp(ticks / ticks_per_s, tz=timezone.utc)
            result.append(moment.strftime("%Y-%m-%d %H:%M:%S UTC"))
        except (OverflowError, ValueError, OSError):
            result.append(str(ticks))
    return result


def format_card(card: Mapping[str, Any]) -> str:
    """Lay out for a terminal what :meth:`DataCard.as_dict` gave."""
    lines = [f"{card['name']}: {card['source']}", ""]
    lines.append(f"{'':44} {'interactions':>13} {'users':>10} {'items':>10} {'dropped':>11}")
    for step in card["steps"]:
        lines.append(
            f"{step['step'][:44]:44} {step['interactions']:>13,} {step['users']:>10,} "
            f"{step['items']:>10,} {step['dropped']:>11,}"
        )
    lines.append("")
    for key, value in card.items():
        if key in ("name", "source", "steps", "rejected", "repaired"):
            continue
        label = key.replace("_", " ")
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
        elif isinstance(value, list):
            value = (
                " to ".join(map(str, value)) if key == "time_span" else "; ".join(map(str, value))
            )
        lines.append(f"{label}: {_plain(value) or 'none'}")
    for what in ("repaired", "rejected"):
        entries = card.get(what, [])
        if what == "rejected" or entries:
            lines.append(f"{what} rows: {sum(entry['rows'] for entry in entries):,}")
        lines.extend(_example_line(entry) for entry in entries)
    if all(str(moment).startswith("1970-") for moment in card.get("time_span") or [None]):
        lines.append(
            "warning: all times lie in 1970: numbers were taken as seconds, so that their order "
            "counts; name --time-unit or --time-format if they are something else"
        )
    texts, items = card.get("different_texts"), card["steps"][-1]["items"] if card["steps"] else 0
    if texts is not None and items > _FEW_ITEMS and texts < _FEW_TEXTS * items:
        lines.append(
            f"warning: {texts:,} different texts for {items:,} items: what tells items apart is in "
            "other columns, if anywhere; name these with --text-column"
        )
    lost = sum(entry["rows"] for entry in card.get("rejected", []))
    read = lost + (card["steps"][0]["interactions"] if card["steps"] else 0)
    if lost > _MANY_LOST * read:
        lines.append(
            f"warning: {100 * lost / read:.0f} % of the rows were rejected, for the reasons above; "
            "where a column holds two forms, write it in one"
        )
    return "\n".join(lines)


def _example_line(entry: Mapping[str, Any]) -> str:
    where = ", ".join(map(str, entry["first_lines"]))
    more = ", ..." if entry["rows"] > len(entry["first_lines"]) else ""
    at = f" (line {where}{more})" if where else ""
    return f"  {entry['rows']:,} of {entry['file']}: {entry['reason']}{at}"


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

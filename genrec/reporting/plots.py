"""Plots as inline SVG whose colours and letters are those of the page around them.

Matplotlib draws with stand-in colours, which are then replaced by variables of the style sheet,
so that one picture serves a light and a dark page.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.errors import ConfigError, install_line

__all__ = ["Bars", "Line", "Plot", "bar_plot", "line_plot", "need_plots"]

#: Variables of the style sheet; each has a stand-in colour.
COLOURS = ("run-1", "run-2", "run-3", "run-4", "run-5", "run-6", "base-1", "base-2", "ink", "rule")
_STAND_INS = {name: f"#0c00{number:02x}" for number, name in enumerate(COLOURS, start=1)}
_WIDTH, _HEIGHT = 348.0, 224.0  # points, which are pixels of the picture before it is scaled
_DASHES: dict[str, Any] = {"solid": "-", "dashed": (0, (5, 3)), "dotted": (0, (1.5, 2.5))}


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        name: For the legend.
        x: Shape ``(P,)``.
        y: Shape ``(P,)``; NaN leaves a gap.
        colour: One of :data:`COLOURS`.
        dash: ``solid``, ``dashed`` or ``dotted``.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = "run-1"
    dash: str = "solid"


@dataclass(frozen=True)
class Bars:
    """A row of bars, one a category; None leaves one out."""

    name: str
    values: Sequence[float | None]
    colour: str = "run-1"


@dataclass(frozen=True)
class Plot:
    """A picture with what stands around it.

    Attributes:
        title: What it shows.
        svg: The picture; :meth:`numbered` makes it ready to stand in a page.
        alt: The same in words, for who cannot see it.
        legend: ``(name, colour, dash)``; empty where there is one curve only.
    """

    title: str
    svg: str
    alt: str
    legend: tuple[tuple[str, str, str], ...] = ()

    def numbered(self, number: int) -> str:
        """Return the picture with ids that no other number has: those of a page must differ."""
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>plot-{number}-", self.svg)


def need_plots() -> None:
    """Refuse to go on without the extra that draws.

    Raises:
        ConfigError: If matplotlib or Jinja is not installed.
    """
    for name in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"{name} must be installed for a report, got no such package; "
                f"{install_line('report')}"
            )


def line_plot(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    percent: bool = False,
    from_zero: bool = False,
    ticks: Sequence[float] | None = None,
) -> Plot:
    """Draw curves over one axis.

    Args:
        title: What they show.
        lines: The curves; points are marked where there are few.
        x_label: Below the axis.
        percent: Write values as percent.
        from_zero: Let the axis of values begin at 0.
        ticks: Marks of the horizontal axis; chosen when None.

    Returns:
        The plot.
    """

    def draw(axes: Any) -> None:
        for line in lines:
            few = len(line.x) <= 12
            axes.plot(
                line.x,
                line.y,
                color=_STAND_INS[line.colour],
                linestyle=_DASHES[line.dash],
                marker="o" if few else None,
                markersize=4,
                linewidth=1.8,
                clip_on=not few,
            )
        if ticks is not None:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        else:
            axes.xaxis.set_major_locator(_locator(5))
            axes.xaxis.set_major_formatter(_short_number)
        axes.yaxis.set_major_locator(_locator(5))
        if from_zero:
            axes.set_ylim(bottom=0)
        if percent:
            axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel(x_label)

    parts = [_in_words(line, percent) for line in lines]
    alt = f"{title}, by {x_label}: {'; '.join(parts)}."
    legend = tuple((line.name, line.colour, line.dash) for line in lines)
    return Plot(title, _svg(draw), alt, legend if len(lines) > 1 else ())


def bar_plot(
    title: str,
    categories: Sequence[str],
    rows: Sequence[Bars],
    *,
    x_label: str,
    percent: bool = False,
) -> Plot:
    """Draw bars side by side for each category.

    Args:
        title: What they show.
        categories: Names below the axis; a line break is kept.
        rows: Values, one a category.
        x_label: Below the axis.
        percent: Write values as percent.

    Returns:
        The plot.
    """
    width = 0.8 / max(len(rows), 1)

    def draw(axes: Any) -> None:
        places = np.arange(len(categories))
        for number, row in enumerate(rows):
            heights = [np.nan if value is None else value for value in row.values]
            shift = (number - (len(rows) - 1) / 2) * width
            colour = _STAND_INS[row.colour]
            axes.bar(places + shift, heights, width * 0.88, color=colour, linewidth=0)
        axes.set_xticks(places, categories)
        axes.yaxis.set_major_locator(_locator(5))
        axes.set_ylim(bottom=0)
        if percent:
            axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel(x_label)

    words = []
    for row in rows:
        named = zip(categories, row.values, strict=True)
        values = [f"{' '.join(c.split())}: {_value(v, percent)}" for c, v in named if v is not None]
        words.append(f"{row.name}: {', '.join(values)}")
    alt = f"{title}, by {x_label}. {'; '.join(words)}."
    legend = tuple((row.name, row.colour, "bar") for row in rows)
    return Plot(title, _svg(draw), alt, legend if len(rows) > 1 else ())


def _svg(draw: Callable[[Any], None]) -> str:
    """Draw one pair of axes."""
    import matplotlib
    from matplotlib.figure import Figure

    ink, rule = _STAND_INS["ink"], _STAND_INS["rule"]
    style: Any = {
        "svg.fonttype": "none",  # letters stay letters, in the font of the page
        "svg.hashsalt": "genrec",  # equal input gives equal text
        "font.size": 12,
        "text.color": ink,
        "axes.labelcolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.edgecolor": rule,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": rule,
        "grid.linewidth": 0.8,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "figure.constrained_layout.use": True,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72))
        axes = figure.subplots()
        draw(axes)
        file = io.StringIO()
        empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", transparent=True, metadata=empty)
    return _embed(file.getvalue())


def _embed(text: str) -> str:
    """Fit a file of matplotlib into a page: no head, no idle ids, colours of the page."""
    text = text[text.index("<svg") :]
    # What matplotlib styles here would hold for the whole page.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", text)
    text = re.sub(r"font(?:-family)?: [^;\"]*(;|(?=\"))", _font_size, text)
    for name, colour in _STAND_INS.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text
    )
    return re.sub(r"\s*\n\s*", "\n", text)


def _font_size(found: re.Match[str]) -> str:
    """Keep the size of a font; its family is the page's."""
    size = re.search(r"[\d.]+px", found.group())
    return f"font-size: {size.group()};" if size else ""


def _locator(bins: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(bins)


def _percent(value: float, _: int) -> str:
    return f"{100 * value:.6g} %"


def _short_number(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"


def _value(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:.3g}"


def _in_words(line: Line, percent: bool) -> str:
    """Say where a curve begins and ends."""
    values: npt.NDArray[np.float64] = np.asarray(line.y, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) == 0:
        return f"{line.name} has no finite value"
    first, last = int(known[0]), int(known[-1])
    begin = f"{_value(values[first], percent)} at {line.x[first]:g}"
    if first == last:
        return f"{line.name} {begin}"
    return f"{line.name} from {begin} to {_value(values[last], percent)} at {line.x[last]:g}"

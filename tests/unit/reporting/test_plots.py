from __future__ import annotations

import importlib.util
import math
import re
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="plots need matplotlib: extra report")

from genrec.errors import ConfigError
from genrec.reporting.plots import Bars, Line, bar_plot, line_plot, need_plots


def curves(title: str = "Recall", name: str = "model"):
    lines = [
        Line(name, [1, 5, 10], [0.1, 0.2, 0.4]),
        Line("counting", [1, 5, 10], [0.05, math.nan, 0.1], "base-1", "dashed"),
    ]
    return line_plot(title, lines, x_label="K", percent=True, from_zero=True, ticks=[1, 5, 10])


def bars():
    rows = [Bars("a", [0.25, None]), Bars("b", [0.5, 0.125], "base-2")]
    return bar_plot("Recall by <kind> & $x$", ["1-2", "3 & <more>"], rows, x_label="kind")


@pytest.mark.parametrize("plot", [curves(), bars()], ids=["lines", "bars"])
def test_a_picture_takes_colours_and_letters_from_the_page(plot):
    root = ElementTree.fromstring(plot.svg.replace("xlink:href", "href"))
    assert root.tag == "svg"
    assert root.get("viewBox") == "0 0 348 224"
    assert "width" not in root.attrib
    assert re.findall("#[0-9a-f]{6}|font-family|<style|<metadata|DejaVu", plot.svg) == []
    used = set(re.findall(r"var\(--([\w-]+)\)", plot.svg))
    assert {"run-1", "ink", "rule"} < used
    texts = [text.text for text in root.iter("text")]
    assert "K" in texts or "3 & <more>" in texts


def test_pictures_of_one_page_share_no_id():
    pictures = [curves().numbered(1), curves().numbered(2), bars().numbered(3)]
    ids = [set(re.findall(r'\bid="([^"]+)"', picture)) for picture in pictures]
    linked = [set(re.findall(r'(?:href="#|url\(#)([^")]+)', picture)) for picture in pictures]
    assert linked == ids
    assert ids[0]
    assert ids[0] & ids[1] == set()


def test_equal_input_gives_equal_text():
    assert curves() == curves()
    assert curves().svg != bars().svg


def test_words_and_legend_say_what_is_drawn():
    plot = curves(name="a <b>")
    assert plot.alt == (
        "Recall, by K: a <b> from 10.0 % at 1 to 40.0 % at 10; counting from 5.0 % at 1 to "
        "10.0 % at 10."
    )
    assert plot.legend == (("a <b>", "run-1", "solid"), ("counting", "base-1", "dashed"))
    assert bars().alt == (
        "Recall by <kind> & $x$, by kind. a: 1-2: 0.25; b: 1-2: 0.5, 3 & <more>: 0.125."
    )
    alone = line_plot("Loss", [Line("loss", [1, 2], [math.nan, math.nan])], x_label="step")
    assert alone.legend == ()
    assert "loss has no finite value" in alone.alt


def test_without_the_extra_one_line_names_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"jinja2 must be installed.*pip install .*\[report\]"):
        need_plots()

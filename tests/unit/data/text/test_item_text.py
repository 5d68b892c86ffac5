from __future__ import annotations

import pytest

from genrec.data.text.item_text import clean_text, join_path, parse_template, render_text, shorten
from genrec.errors import ConfigError


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("WEN&reg; by Chaz Dean", "WEN® by Chaz Dean"),
        ("a &amp;amp; b", "a & b"),
        ("<b>bold</b> and<br/>break", "bold and break"),
        ("size < 5 and > 3", "size < 5 and > 3"),
        ("<!-- hidden --> seen", "seen"),
        ("tab\tnew\r\nline\x00nul\u200bzero", "tab new line nul zero"),
        ("nothing", "nothing"),
        ("&notanentity; stays", "¬anentity; stays"),  # what a browser shows, too
        ("", ""),
    ],
)
def test_clean_text(dirty, clean):
    assert clean_text(dirty) == clean


def test_join_path_leaves_out_what_is_empty():
    assert join_path(["Beauty", None, "", "Nails & Hands"]) == "Beauty > Nails & Hands"
    assert join_path([]) == ""


def test_template_leaves_out_segments_with_an_empty_field():
    segments = parse_template(
        "Title: {title}; Brand: {brand} ({price});", ["title", "brand", "price"]
    )
    full = {"title": "Soap", "brand": "Dove", "price": "3"}
    assert render_text(segments, full) == "Title: Soap; Brand: Dove (3)"
    assert render_text(segments, {**full, "price": None}) == "Title: Soap"
    assert render_text(segments, {"title": ""}) == ""


def test_values_are_not_read_as_templates():
    assert (
        render_text(parse_template("{title}", ["title"]), {"title": "{brand}; x"}) == "{brand}; x"
    )


def test_names_of_fields_are_plain_text():
    names = ["a.b", "c:d", "e!r", "Product Name", "0"]
    segments = parse_template("; ".join(f"{{{name}}}" for name in names), names)
    assert render_text(segments, {name: name.upper() for name in names}) == (
        "A.B; C:D; E!R; PRODUCT NAME; 0"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Title: {titel}", r"name fields that the items have, got 'titel'; did you mean title\?"),
        ("Title: {title", "close every brace"),
        ("Title", "must name at least one field, got 'Title'"),
        ("{title.__class__}", r"got 'title\.__class__'"),
        ("{}", "got ''"),
        ("{{title}}", "close every brace"),
        ("title}", "close every brace"),
    ],
)
def test_template_errors(template, message):
    with pytest.raises(ConfigError, match=message):
        parse_template(template, ["title", "brand"])


def test_shorten():
    assert shorten("short") == "short"
    long = "word " * 40
    assert shorten(long, 20) == "word word word word…"
    assert shorten("x" * 30, 10) == "x" * 9 + "…"
    assert len(shorten(long, 50)) <= 50

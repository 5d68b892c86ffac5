"""From the fields of an item to the one line of text that is embedded."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

from genrec.errors import ConfigError, did_you_mean

__all__ = [
    "Segment",
    "clean_text",
    "join_path",
    "parse_template",
    "render_text",
    "shorten",
    "template_of",
]

_TAG = re.compile(r"<(?:/?[a-zA-Z][^<>]*|!--.*?--)>", re.DOTALL)
_FIELD = re.compile(r"\{([^{}]*)\}")
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\ufeff]")

#: Plain texts and names of fields in turn, beginning and ending with a text.
Segment = list[str]


def clean_text(text: str) -> str:
    """Take HTML out of a text and make its white space plain.

    Entities are undone twice, because the Amazon releases hold texts that were escaped twice
    (``&amp;amp;``).

    Args:
        text: Text of a shop's page.

    Returns:
        Text without tags, entities, control characters or runs of blanks.

    Example:
        >>> clean_text("Fair &amp;amp; White<br/>  Cream")
        'Fair & White Cream'
    """
    if "&" in text:
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = _TAG.sub(" ", text)
    if not text.isprintable():
        text = _INVISIBLE.sub(" ", text)
    return " ".join(text.split())


def join_path(names: Sequence[object]) -> str:
    """Join the names of a category path, empty ones left out: ``"Beauty > Makeup > Nails"``."""
    return " > ".join(str(name) for name in names if name)


def template_of(fields: Sequence[str], *, title: str | None = None) -> str:
    """Write a template of all fields, labelled by their names; ``title`` is called Title."""
    # The signs that a template is made of cannot be part of a label.
    labels = [re.sub(r"[_\-.;{}]+", " ", name).strip().capitalize() for name in fields]
    return "; ".join(
        f"{'Title' if name == title else label}: {{{name}}}"
        for label, name in zip(labels, fields, strict=True)
    )


def parse_template(template: str, fields: Sequence[str]) -> list[Segment]:
    """Read a text template: segments separated by ``;``, each with fields in braces.

    Args:
        template: For example ``"Title: {title}; Brand: {brand}"``.
        fields: Names that items have.

    Returns:
        The segments, each as plain texts and names of fields in turn.

    Raises:
        ConfigError: If a field is unknown, a brace is alone, or there is no field at all.
    """
    segments = []
    for part in template.split(";"):
        segment = _FIELD.split(part.strip())  # text, name, text, name, ..., text
        if any(sign in text for text in segment[::2] for sign in "{}"):
            raise ConfigError(
                f"text template must be segments like 'Title: {{title}}', got {part.strip()!r}; "
                "close every brace"
            )
        for name in segment[1::2]:
            if name not in fields:
                raise ConfigError(
                    f"text template must name fields that the items have, got {name!r}; "
                    f"{did_you_mean(name, fields)}"
                )
        segments.append(segment)
    if not any(len(segment) > 1 for segment in segments):
        raise ConfigError(
            f"text template must name at least one field, got {template!r}; "
            f"for example 'Title: {{{fields[0] if fields else 'title'}}}'"
        )
    return segments


def render_text(segments: Sequence[Segment], fields: Mapping[str, str | None]) -> str:
    """Fill a template for one item; a segment with an empty or missing field is left out.

    ``segments`` come from :func:`parse_template`. Empty when nothing is known of the item.
    """
    parts = []
    for segment in segments:
        values = [fields.get(name) for name in segment[1::2]]
        if values and all(values):
            filled = segment.copy()
            filled[1::2] = [value for value in values if value]
            parts.append("".join(filled))
    return "; ".join(parts)


def shorten(text: str, limit: int = 100) -> str:
    """Cut a text to ``limit`` characters for showing, at a blank where there is one."""
    if len(text) <= limit:
        return text
    head, blank, _ = text[:limit].rpartition(" ")
    return (head if blank and len(head) > limit // 2 else text[: limit - 1]) + "…"

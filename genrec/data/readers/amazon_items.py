"""What the items of every Amazon release have in common: fields and template."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from genrec.data.files.json_lines import read_objects
from genrec.data.files.rejected import RejectedRows
from genrec.data.tables import ITEM
from genrec.data.text.item_text import join_path

__all__ = ["AMAZON_TEMPLATE", "item_fields", "read_items"]

AMAZON_TEMPLATE = "Title: {title}; Brand: {brand}; Categories: {categories}"


def read_items(
    meta: Path,
    rejected: RejectedRows,
    *,
    key: str,
    wanted: Collection[str],
    drop_unknown_brand: bool,
) -> pl.DataFrame:
    """Read :func:`item_fields` of the wanted items, ids in ``key``, as columns of text."""
    rows = [
        {ITEM: record[key], **item_fields(record, drop_unknown_brand=drop_unknown_brand)}
        for _, record in read_objects(meta, rejected, key=key, wanted=wanted)
    ]
    return pl.DataFrame(rows, schema=dict.fromkeys((ITEM, *item_fields({})), pl.String))


def item_fields(
    record: Mapping[str, Any], *, drop_unknown_brand: bool = True
) -> dict[str, str | None]:
    """Take the text fields out of a metadata record of any release, as they are.

    ``title``, ``brand`` (``Unknown`` is none with ``drop_unknown_brand``), ``categories``,
    ``price`` and ``description``; None where the record says nothing.
    """
    brand = _text(record.get("brand")) or _text(record.get("store"))
    if brand is not None and drop_unknown_brand and brand.casefold() == "unknown":
        brand = None
    categories = record.get("categories") or record.get("category") or []
    if not isinstance(categories, (list, tuple)):
        categories = [categories]
    elif categories and isinstance(categories[0], (list, tuple)):
        categories = categories[0]  # 2014 lists several paths; the first is the main one
    title = _text(record.get("title"))
    if title is not None and "getTime()" in title:
        title = None  # the 2018 release took a script of the page for some titles
    return {
        "title": title,
        "brand": brand,
        "categories": join_path(categories) or None,
        "price": _text(record.get("price")),
        "description": _text(record.get("description")),
    }


def _text(value: object) -> str | None:
    """Read a field that may be a string, a number, a list of strings or absent."""
    if value is None:
        return None
    parts = value if isinstance(value, list) else [value]
    return " ".join(str(part) for part in parts if part is not None).strip() or None

"""The synthetic shop that the project ships: two tables whose items have Amazon's fields."""

from __future__ import annotations

import re
from dataclasses import replace

from genrec.data.readers import own_tables
from genrec.data.readers.amazon_items import AMAZON_TEMPLATE
from genrec.data.readers.reader import Reader, Request
from genrec.data.tables import RawTables

__all__ = ["READER"]


def _read(request: Request) -> RawTables:
    raw = own_tables.READER.read(request)
    # The recipe may be given tables of somebody else, whose items have other fields.
    ours = set(re.findall(r"{(\w+)}", AMAZON_TEMPLATE)) <= set(raw.items.columns)
    if not ours or request.options.get("text_template"):
        return raw
    name = request.options.get("name") or "sample"
    return replace(raw, name=name, text_template=AMAZON_TEMPLATE)


# Its files are tables like any other's, so that a folder of them is taken for such.
READER = Reader(
    kinds=("sample",),
    options=own_tables.READER.options,
    matches=lambda folder, split: None,
    find=own_tables.READER.find,
    read=_read,
)

"""The synthetic shop that the project ships: two tables whose items have Amazon's fields."""

from __future__ import annotations

from dataclasses import replace

from genrec.data.readers import own_tables
from genrec.data.readers.amazon_items import AMAZON_TEMPLATE
from genrec.data.readers.reader import Reader, Request
from genrec.data.tables import RawTables

__all__ = ["READER"]


def _read(request: Request) -> RawTables:
    options = {"name": "sample", "text_template": AMAZON_TEMPLATE, **request.options}
    return own_tables.READER.read(replace(request, options=options))


# Its files are tables like any other's, so that a folder of them is taken for such.
READER = Reader(
    kinds=("sample",),
    options=own_tables.READER.options,
    matches=lambda folder, split: None,
    find=own_tables.READER.find,
    read=_read,
)

"""The ``.index.json`` format that LC-Rec, LETTER and MiniOneRec exchange semantic IDs in.

One JSON object: item to tokens, ``{"0": ["<a_236>", "<b_231>", "<c_226>"], ...}``. A token is a
prefix that names the level and a code.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.atomic import atomic_file
from genrec.errors import ConfigError, DataError, MissingPathError

__all__ = ["read_index_json", "write_index_json"]

_BLOCK_ITEMS = 65_536
_TOKEN = re.compile(r"<(.+)_(\d+)>")


def write_index_json(
    path: str | os.PathLike[str],
    ids: npt.NDArray[np.integer[Any]],
    *,
    names: Sequence[str] | None = None,
) -> None:
    """Write an ID table, one item after another.

    Args:
        path: The file.
        ids: Codes, shape ``(N, L)``, at most 26 levels.
        names: What to call each item, ``N``; its row number by default.
    """
    num_items, num_levels = ids.shape
    letters = string.ascii_lowercase[:num_levels]
    template = "[" + ", ".join(f'"<{letter}_%d>"' for letter in letters) + "]"
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("{")
        for start in range(0, num_items, _BLOCK_ITEMS):
            rows = ids[start : start + _BLOCK_ITEMS].tolist()
            for item, row in enumerate(rows, start):
                name = str(item) if names is None else names[item]
                key = json.dumps(name, ensure_ascii=False)
                file.write(f"{',' if item else ''}\n{key}: {template % tuple(row)}")
        file.write("\n}\n")


def read_index_json(
    path: str | os.PathLike[str],
    *,
    item_keys: Sequence[str] | None = None,
    keyed_by: str = "auto",
) -> tuple[npt.NDArray[np.int32], list[str]]:
    """Read an ID table that any project wrote in this format.

    Args:
        path: The file.
        item_keys: The catalogue's own item ids in row order; the table is put in that order.
        keyed_by: What the file's names are: ``"row"`` (row numbers from 0), ``"key"`` (entries
            of ``item_keys``), or ``"auto"``: rows where the names are exactly the numbers
            ``0 .. N - 1``, else keys.

    Returns:
        ``(ids (N, L) int32, level prefixes)``.

    Raises:
        MissingPathError: If there is no such file.
        DataError: If the file is not of this format, or an item has no ID.
        ConfigError: If ``keyed_by`` is unknown, or both readings are possible.
    """
    if keyed_by not in ("auto", "row", "key"):
        raise ConfigError(f"keyed_by must be auto, row or key, got {keyed_by!r}; use auto")
    file = Path(path)
    if not file.is_file():
        raise MissingPathError(f"index file must exist, got {file}; check the path")
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise DataError(
            f"index file must be JSON, got {file} with {error}; export it again"
        ) from error
    if not isinstance(table, dict) or not table:
        raise DataError(
            f'index file must be one object {{"0": ["<a_1>", ...], ...}}, got {file} with '
            f"{'none' if isinstance(table, dict) else type(table).__name__}; export it again"
        )
    names = _row_order(file, table, item_keys, keyed_by)
    ids, prefixes = _parse(file, table, names)
    return ids, prefixes


def _row_order(
    file: Path, table: dict[str, Any], item_keys: Sequence[str] | None, keyed_by: str
) -> list[str]:
    """List the file's names in the order of the catalogue's rows."""
    keys = None if item_keys is None else list(item_keys)
    numbers = [str(row) for row in range(len(table) if keys is None else len(keys))]
    if keyed_by == "key" and keys is None:
        raise ConfigError(
            "keyed_by='key' must come with item_keys, got none; give the catalogue's item keys"
        )
    by_row = keyed_by == "row" or keys is None
    if keyed_by == "auto" and keys is not None:
        by_row = len(table) == len(numbers) and all(number in table for number in numbers)
        if by_row and keys != numbers and all(key in table for key in keys):
            raise ConfigError(
                f"names in {file} must be row numbers or item keys, got names that are both; "
                "say keyed_by='row' or keyed_by='key'"
            )
    wanted = numbers if by_row else keys
    assert wanted is not None
    missing = [name for name in wanted if name not in table]
    if missing:
        known = set(wanted)
        foreign = sum(name not in known for name in table)
        what = "row numbers" if by_row else "item keys"
        raise DataError(
            f"index file must hold an ID for each of the {len(wanted)} items by their {what}, "
            f"got {file} with {len(missing)} missing (first: {', '.join(missing[:3])}) and "
            f"{foreign} unknown; use the file of this catalogue, or drop those items from it"
        )
    return wanted


def _parse(
    file: Path, table: dict[str, Any], names: list[str]
) -> tuple[npt.NDArray[np.int32], list[str]]:
    """Turn token lists into a table of codes, one prefix a level."""
    first = table[names[0]]
    num_levels = len(first) if isinstance(first, list) else 0
    for name in names:
        tokens = table[name]
        if not isinstance(tokens, list) or len(tokens) != num_levels or num_levels == 0:
            raise DataError(
                f"every item in {file} must have a list of {num_levels or 'some'} tokens, got "
                f"{tokens!r} for item {name}; export it again with one length"
            )
    flat = list(itertools.chain.from_iterable(table[name] for name in names))
    codes = np.empty(len(flat), dtype=np.int32)
    prefixes: list[str] = []
    seen: dict[str, tuple[str, int]] = {}  # tokens repeat: parse each once
    for position, token in enumerate(flat):
        entry = seen.get(token) if isinstance(token, str) else None
        if entry is None:
            match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
            if match is None or len(match[2]) > 9:
                raise DataError(
                    f"a token must look like <a_12>, got {token!r} for item "
                    f"{names[position // num_levels]} in {file}; export it again"
                )
            entry = seen[token] = (match[1], int(match[2]))
        level = position % num_levels
        if position < num_levels:
            prefixes.append(entry[0])
        elif entry[0] != prefixes[level]:
            raise DataError(
                f"tokens of level {level + 1} must share one prefix, got {prefixes[level]!r} and "
                f"{entry[0]!r} for item {names[position // num_levels]} in {file}; "
                "export it again with one prefix a level"
            )
        codes[position] = entry[1]
    return codes.reshape(len(names), num_levels), prefixes

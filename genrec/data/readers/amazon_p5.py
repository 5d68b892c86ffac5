"""Amazon 2014 in the layout of the P5 release (beauty, sports, toys).

A split's folder holds ``sequential_data.txt`` (a user a line: user id, then item ids in time
order, all from 1), ``datamaps.json`` (the shop's keys of these ids) and ``meta.json.gz`` (one
item a line, JSON or a Python literal).

Source:
    McAuley et al. 2015, https://arxiv.org/abs/1506.04757 (the reviews); Geng et al. 2022,
    https://arxiv.org/abs/2203.13366 (the layout).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.data.fetch.releases import P5_FILES
from genrec.data.files.rejected import RejectedRows
from genrec.data.readers.amazon_items import AMAZON_TEMPLATE, read_items
from genrec.data.readers.reader import Reader, Request
from genrec.data.tables import ITEM, USER, RawTables
from genrec.errors import DataError, MissingPathError, did_you_mean

__all__ = ["P5_SPLITS", "READER", "find_p5_folder", "read_p5"]

P5_SPLITS = ("beauty", "sports", "toys", "yelp")


def find_p5_folder(root: str | os.PathLike[str], split: str | None) -> Path:
    """Find a split's folder below the root of a release.

    Args:
        root: The release (``<root>/<split>`` or ``<root>/raw/<split>``), or the split's folder.
        split: ``beauty``, ``sports`` or ``toys``; None takes ``root`` itself.

    Returns:
        The folder with the three files.

    Raises:
        MissingPathError: If there is no such folder, or a file of it is missing.
    """
    base = Path(root)
    if not base.is_dir():
        raise MissingPathError(
            f"dataset folder must exist, got {base}; set train.dataset_folder to the folder of "
            "the P5 release"
        )
    folders = [base / split, base / "raw" / split] if split else []
    # A folder of another split would pass for this one if only its files were looked at.
    if split is None or base.name == split or base.name not in P5_SPLITS:
        folders.append(base)
    for folder in folders:
        if (folder / P5_FILES[0]).is_file():
            missing = [name for name in P5_FILES if not (folder / name).is_file()]
            if missing:
                raise MissingPathError(
                    f"P5 folder must hold {', '.join(P5_FILES)}, got {folder} without "
                    f"{', '.join(missing)}; copy the whole folder of the release"
                )
            return folder
    if split is None:
        raise MissingPathError(
            f"P5 folder must hold {P5_FILES[0]}, got {base} without it; name a split with --split"
        )
    present = {
        child.name
        for place in (base, base / "raw")
        if place.is_dir()
        for child in place.iterdir()
        if (child / P5_FILES[0]).is_file()
    }
    known = present or set(P5_SPLITS)
    raise MissingPathError(
        f"dataset split must be a folder with {P5_FILES[0]} below {base}, got {split!r}; "
        f"{did_you_mean(split, known)}"
    )


def read_p5(
    root: str | os.PathLike[str],
    split: str | None = None,
    *,
    drop_unknown_brand: bool = True,
) -> RawTables:
    """Read a split of the P5 release.

    Args:
        root: See :func:`find_p5_folder`.
        split: See :func:`find_p5_folder`.
        drop_unknown_brand: Treat the brand ``Unknown`` as no brand.

    Returns:
        The tables; ids keep the order of the release, so that item ``i`` from 0 is ``i + 1``
        of ``datamaps.json``.

    Raises:
        DataError: If the files contradict each other.
    """
    folder = find_p5_folder(root, split)
    user_keys = _read_map(folder / "datamaps.json", "user2id")
    item_keys = _read_map(folder / "datamaps.json", "item2id")
    rejected = RejectedRows()
    users, items = _read_sequences(
        folder / "sequential_data.txt", len(user_keys), len(item_keys), rejected
    )
    users_by_id = pl.Series(USER, user_keys, dtype=pl.String)
    items_by_id = pl.Series(ITEM, item_keys, dtype=pl.String)
    name = split or folder.name
    return RawTables(
        name=f"amazon-{name}",
        source=f"Amazon 2014 {name}, 5-core, P5 layout",
        interactions=pl.DataFrame(
            {USER: users_by_id.gather(users), ITEM: items_by_id.gather(items)}
        ),
        items=read_items(
            folder / "meta.json.gz",
            rejected,
            key="asin",
            wanted=set(item_keys),
            drop_unknown_brand=drop_unknown_brand,
        ),
        text_template=AMAZON_TEMPLATE,
        rejected=rejected,
        user_order=users_by_id,
        item_order=items_by_id,
    )


def _read_map(path: Path, name: str) -> list[str]:
    """Read the keys of users or items in the order of their ids, which run from 1."""
    try:
        maps = json.loads(path.read_text(encoding="utf-8"))
        pairs = sorted((int(number), str(key)) for key, number in maps[name].items())
    except (ValueError, KeyError, AttributeError, RecursionError, TypeError) as error:
        raise DataError(
            f"datamaps.json must map keys to ids under {name!r}, got {path} "
            f"({type(error).__name__}: {error}); use the file of the release"
        ) from None
    if [number for number, _ in pairs] != list(range(1, len(pairs) + 1)):
        raise DataError(
            f"{name} must number its {len(pairs)} keys from 1 without gaps, got "
            f"{pairs[0][0] if pairs else None} to {pairs[-1][0] if pairs else None} in {path}; "
            "use the file of the release"
        )
    return [key for _, key in pairs]


def _read_sequences(
    path: Path, num_users: int, num_items: int, rejected: RejectedRows
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Read user and item index (from 0) of every interaction, users in the order of their ids."""
    histories: dict[int, list[int]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                user, *items = map(int, line.split())
            except ValueError:
                raise DataError(
                    f"line must hold a user id and item ids, got line {number} of {path}; "
                    "use the file of the release"
                ) from None
            bad = [item for item in items if not 1 <= item <= num_items]
            if not 1 <= user <= num_users or bad:
                what = f"item {bad[0]}" if bad else f"user {user}"
                raise DataError(
                    f"ids must lie in 1..{num_users} (users) and 1..{num_items} (items) of "
                    f"datamaps.json, got {what} in line {number} of {path}; use files of one split"
                )
            if user in histories:
                raise DataError(
                    f"a user must have one line, got user {user} again in line {number} of {path}; "
                    "use the file of the release"
                )
            if not items:
                rejected.add(path.name, "a user without items", line=number)
            histories[user] = items
    lengths = [len(histories.get(user, ())) for user in range(1, num_users + 1)]
    flat = [item - 1 for user in sorted(histories) for item in histories[user]]
    users: Any = np.repeat(np.arange(num_users), lengths)
    return users, np.array(flat, dtype=np.int64)


def _matches(folder: Path, split: str | None) -> str | None:
    """Tell the P5 layout from the others; a wrong split of it is still the P5 layout."""
    names = {split, *P5_SPLITS} if split else set(P5_SPLITS)
    places = [folder, *(folder / part / name for part in ("", "raw") for name in names)]
    return "amazon" if any((place / P5_FILES[0]).is_file() for place in places) else None


def _find(request: Request) -> tuple[Path, ...]:
    folder = find_p5_folder(request.folder, request.split)
    return tuple(folder / name for name in P5_FILES)


READER = Reader(
    kinds=("amazon",),
    options=("drop_unknown_brand",),
    matches=_matches,
    find=_find,
    read=lambda request: read_p5(request.folder, request.split, **request.options),
)

"""Amazon reviews of 2014, 2018 and 2023: reviews and metadata of a category, and the P5 layout.

What a folder may hold, plain or packed with gzip:

* 2014: ``reviews_<Category>_5.json`` and ``meta_<Category>.json`` (Python literals)
* 2018: ``<Category>_5.json`` and ``meta_<Category>.json``
* 2023: ``<Category>.jsonl`` and ``meta_<Category>.jsonl``
* the three files of :mod:`genrec.data.readers.amazon_p5`

Source:
    McAuley et al. 2015, https://arxiv.org/abs/1506.04757; Ni et al. 2019,
    https://aclanthology.org/D19-1018/; Hou et al. 2024, https://arxiv.org/abs/2403.03952.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec.data.fetch.releases import AMAZON_CATEGORIES
from genrec.data.files.columns import Column
from genrec.data.files.json_lines import read_json_columns, sample_objects
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.times import TimeReader
from genrec.data.readers.amazon_items import AMAZON_TEMPLATE, read_items
from genrec.data.readers.reader import Reader, Request, finds
from genrec.data.tables import ITEM, RATING, TIME, USER, RawTables
from genrec.errors import DataError, MissingPathError, did_you_mean

__all__ = ["READER", "AmazonFiles", "find_amazon", "read_amazon"]

_REVIEWS = re.compile(
    r"^(?:reviews_)?(?P<category>[A-Z]\w*?)(?P<core>_5)?\.(?:json|jsonl)(?:\.gz)?$"
)
_META = "meta_{}.{}"
#: Fewest reviews of a user and of an item where a release is not 5-core already.
_CORE = 5


@dataclass(frozen=True)
class AmazonFiles:
    """The files of one category.

    Attributes:
        category: For example ``"Toys_and_Games"``.
        reviews: One review a line.
        meta: One item a line.
        is_core: Whether the reviews are 5-core already.
    """

    category: str
    reviews: Path
    meta: Path
    is_core: bool


@dataclass(frozen=True)
class _Release:
    """Field names of a release."""

    year: int
    user: str
    item: str
    rating: str
    time: str


_OLD = _Release(2014, "reviewerID", "asin", "overall", "unixReviewTime")
_NEW = _Release(2023, "user_id", "parent_asin", "rating", "timestamp")


def find_amazon(root: str | os.PathLike[str], split: str | None) -> AmazonFiles:
    """Find the reviews and the metadata of a category.

    Args:
        root: Folder with the files, or with a folder ``<split>`` or ``raw`` that has them.
        split: Category, for example ``beauty`` or ``Video_Games``; None takes the only one.

    Returns:
        The files.

    Raises:
        MissingPathError: If there are none, or none of that category, or no metadata.
        DataError: If no category is named and there are several.
    """
    base = Path(root)
    places = [base / split, base / "raw" / split] if split else []
    found: dict[str, AmazonFiles] = {}
    for folder in (*places, base, base / "raw"):
        if folder.is_dir():
            for category, files in _categories(folder).items():
                found.setdefault(category, files)
    if not found:
        raise MissingPathError(
            f"Amazon folder must hold reviews (reviews_<Category>_5.json.gz, <Category>_5.json.gz "
            f"or <Category>.jsonl.gz) or a P5 split, got {base} without; put the files there"
        )
    if split is None:
        if len(found) > 1:
            raise DataError(
                f"one category must be named where there are several, got {', '.join(found)} in "
                f"{base}; name one with --split"
            )
        chosen = next(iter(found.values()))
    else:
        wanted = AMAZON_CATEGORIES.get(split.lower(), split).lower()
        match = next((name for name in found if name.lower() == wanted), None)
        if match is None:
            raise MissingPathError(
                f"dataset split must be a category with reviews in {base}, got {split!r}; "
                f"{did_you_mean(split, found)}"
            )
        chosen = found[match]
    if not chosen.meta.is_file():
        raise MissingPathError(
            f"reviews must come with their metadata, got {chosen.reviews.name} without "
            f"{chosen.meta.name}; put it beside the reviews"
        )
    return chosen


def read_amazon(
    root: str | os.PathLike[str],
    split: str | None = None,
    *,
    drop_unknown_brand: bool = True,
) -> RawTables:
    """Read a category of the releases of 2014, 2018 or 2023.

    Args:
        root: See :func:`find_amazon`.
        split: See :func:`find_amazon`.
        drop_unknown_brand: Treat the brand ``Unknown`` as no brand.

    Returns:
        The tables.

    Raises:
        DataError: If the reviews are of no known release.
    """
    files = find_amazon(root, split)
    rejected = RejectedRows()
    samples = sample_objects(files.reviews)
    release = _release_of(files.reviews, samples)
    time = TimeReader.guess([str(record.get(release.time, "")) for record in samples])
    columns = [
        Column(USER, release.user, "key"),
        Column(ITEM, release.item, "key"),
        Column(TIME, release.time, "time"),
        Column(RATING, release.rating, "rating", required=False),
    ]
    reviews = read_json_columns(files.reviews, columns, rejected=rejected, time=time)
    return RawTables(
        name=f"amazon-{files.category.lower().replace('_', '-')}",
        source=f"{_describe(release, files)} {files.category}",
        interactions=reviews,
        items=read_items(
            files.meta,
            rejected,
            key=release.item,
            wanted=set(reviews[ITEM].unique().to_list()),
            drop_unknown_brand=drop_unknown_brand,
        ),
        text_template=AMAZON_TEMPLATE,
        rejected=rejected,
        ticks_per_s=time.ticks_per_s,
        min_interactions=0 if files.is_core else _CORE,
    )


def _categories(folder: Path) -> dict[str, AmazonFiles]:
    """List the categories whose reviews lie in a folder; 5-core reviews come first."""
    found: dict[str, AmazonFiles] = {}
    for path in sorted(folder.iterdir()):
        match = _REVIEWS.match(path.name)
        if match is None or not path.is_file():
            continue
        category = match["category"]
        metas = [
            folder / _META.format(category, suffix)
            for suffix in ("json.gz", "json", "jsonl.gz", "jsonl")
        ]
        meta = next((meta for meta in metas if meta.is_file()), metas[0])
        files = AmazonFiles(category, path, meta, match["core"] is not None)
        if category not in found or (files.is_core and not found[category].is_core):
            found[category] = files
    return found


def _release_of(path: Path, samples: list[dict[str, Any]]) -> _Release:
    for release in (_NEW, _OLD):
        if any(release.user in record and release.item in record for record in samples):
            return release
    keys = ", ".join(samples[0]) if samples else "no object at all"
    raise DataError(
        f"reviews must have {_OLD.user} and {_OLD.item} (2014, 2018) or {_NEW.user} and "
        f"{_NEW.item} (2023), got {keys} in {path}; use the file of the release"
    )


def _describe(release: _Release, files: AmazonFiles) -> str:
    if release is _NEW:
        year = "2023"
    else:
        year = "2014" if files.reviews.name.startswith("reviews_") else "2018"
    return f"Amazon {year}{', 5-core,' if files.is_core else ''}"


def _find(request: Request) -> tuple[Path, ...]:
    files = find_amazon(request.folder, request.split)
    return files.reviews, files.meta


READER = Reader(
    kinds=("amazon",),
    options=("drop_unknown_brand",),
    matches=lambda folder, split: "amazon" if finds(find_amazon, folder, split) else None,
    find=_find,
    read=lambda request: read_amazon(request.folder, request.split, **request.options),
)

"""MovieLens 100K, 1M, 20M, 25M, 32M and latest-small, in the layouts of their releases.

Source:
    Harper and Konstan 2015, https://doi.org/10.1145/2827872; files and licences at
    https://grouplens.org/datasets/movielens/.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from genrec.data.files.columns import Column, final_schema
from genrec.data.files.delimited import Dialect, read_delimited
from genrec.data.files.rejected import RejectedRows
from genrec.data.files.times import TimeReader
from genrec.data.readers.reader import Reader
from genrec.data.tables import ITEM, RATING, TIME, USER, RawTables
from genrec.errors import MissingPathError

__all__ = ["MOVIELENS_TEMPLATE", "READER", "find_movielens", "parse_title", "read_movielens"]

MOVIELENS_TEMPLATE = "Title: {name}; Year: {year}; Genres: {genres}; Tags: {tags}"

_YEAR = re.compile(r"^(.*\S)\s*\((\d{4})(?:[-–]\d{0,4})?\)\s*$", re.DOTALL)
_ARTICLE = re.compile(
    r"^(?P<name>[^()]+), (?P<article>The|A|An|Le|La|Les|L'|El|Los|Las|Il|Das|Der|Die|Den|Det)$"
)


@dataclass(frozen=True)
class _Layout:
    """File names of a release and how they separate values."""

    ratings: str
    movies: str
    ratings_dialect: Dialect
    tags: str | None = None


_COLUMNS = ("userId", "movieId", "rating", "timestamp")
_LAYOUTS = {
    "csv": _Layout("ratings.csv", "movies.csv", Dialect(), "tags.csv"),
    "dat": _Layout("ratings.dat", "movies.dat", Dialect("::", _COLUMNS, quoted=False)),
    "100k": _Layout("u.data", "u.item", Dialect("\t", _COLUMNS, quoted=False)),
}
_LAYOUT_OF = {"ml-100k": "100k", "ml-1m": "dat"}
_CSV_RELEASES = ("ml-20m", "ml-25m", "ml-32m", "ml-latest-small")
#: Columns of ``u.item`` after the id, title, dates and address, where there is no ``u.genre``.
_GENRES_100K = (
    "unknown,Action,Adventure,Animation,Children's,Comedy,Crime,Documentary,Drama,Fantasy,"
    "Film-Noir,Horror,Musical,Mystery,Romance,Sci-Fi,Thriller,War,Western"
)


def find_movielens(
    root: str | os.PathLike[str], release: str, *, items_only: bool = False
) -> tuple[Path, ...]:
    """Find the files of a release.

    Args:
        root: The release's folder, or the folder that holds it.
        release: For example ``"ml-1m"``.
        items_only: Do without the ratings.

    Returns:
        Movies, then ratings, then tags where there are tags.

    Raises:
        MissingPathError: If a file is not there.
    """
    base = Path(root)
    layout = _LAYOUTS[_LAYOUT_OF.get(release, "csv")]
    for folder in (base, base / release, base / "raw" / release):
        if (folder / layout.ratings).is_file() or (folder / layout.movies).is_file():
            break
    else:
        folder = base
    wanted = [layout.movies] if items_only else [layout.movies, layout.ratings]
    for name in wanted:
        if not (folder / name).is_file():
            raise MissingPathError(
                f"{release} must hold {' and '.join(reversed(wanted))}, got {folder} without "
                f"{name}; unpack the whole release there"
            )
    files = [folder / name for name in wanted]
    if layout.tags and (folder / layout.tags).is_file():
        files.append(folder / layout.tags)
    return tuple(files)


def read_movielens(
    root: str | os.PathLike[str],
    release: str,
    *,
    tags_per_movie: int = 10,
    items_only: bool = False,
) -> RawTables:
    """Read a release.

    Args:
        root: See :func:`find_movielens`.
        release: For example ``"ml-32m"``.
        tags_per_movie: Most frequent tags of a movie to put into its text; 0 takes none.
        items_only: Leave the ratings out.

    Returns:
        The tables; items are named by ``movieId``.

    Raises:
        MissingPathError: If a file is not there.
        DataError: If a file does not hold what it should.
    """
    files = find_movielens(root, release, items_only=items_only)
    layout = _LAYOUTS[_LAYOUT_OF.get(release, "csv")]
    rejected = RejectedRows()
    movies_path, *others = files
    columns = [
        Column(USER, "userId", "number_key"),
        Column(ITEM, "movieId", "number_key"),
        Column(RATING, "rating", "rating"),
        Column(TIME, "timestamp", "time"),
    ]
    if items_only:
        ratings = pl.DataFrame(schema=final_schema(columns))
    else:
        path = others.pop(0)
        ratings = read_delimited(
            path,
            columns,
            rejected=rejected,
            dialect=layout.ratings_dialect,
            time=TimeReader(),
        )
    movies = _read_movies(movies_path, rejected)
    if others and tags_per_movie > 0:
        tags = _read_tags(others[0], tags_per_movie, rejected)
        movies = movies.join(tags, on=ITEM, how="left", maintain_order="left")
    else:
        movies = movies.with_columns(pl.lit(None, pl.String).alias("tags"))
    return RawTables(
        name=release,
        source=f"MovieLens {release.removeprefix('ml-')}",
        interactions=ratings,
        items=movies,
        text_template=MOVIELENS_TEMPLATE,
        rejected=rejected,
        items_only=items_only,
    )


def parse_title(title: str) -> tuple[str, str | None]:
    """Split a title of a release into name and year; put a trailing article first.

    Example:
        >>> parse_title("Matrix, The (1999)")
        ('The Matrix', '1999')
    """
    name, year = " ".join(title.split()), None
    if match := _YEAR.match(name):
        name, year = match[1], match[2]
    if match := _ARTICLE.match(name):
        blank = "" if match["article"].endswith("'") else " "
        name = f"{match['article']}{blank}{match['name']}"
    return name, year


def _read_movies(path: Path, rejected: RejectedRows) -> pl.DataFrame:
    """Read the movies of any release: id, name, year, genres, and a title to show."""
    if path.name == "u.item":
        genre_names = _genre_names(path.with_name("u.genre"))
        heads = ("movieId", "title", "released", "video", "address")
        # The release is Latin-1; later copies of it are UTF-8.
        names, dialect = (*heads, *genre_names), Dialect("|", (*heads, *genre_names), False)
    else:
        genre_names, names = [], ("movieId", "title", "genres")
        dialect = Dialect("::", names, quoted=False) if path.suffix == ".dat" else Dialect()
    texts = [Column(name, name, "text", required=False) for name in names[1:]]
    frame = read_delimited(
        path, [Column(ITEM, "movieId", "number_key"), *texts], rejected=rejected, dialect=dialect
    )
    if genre_names:
        flags = zip(*(frame[name] for name in genre_names), strict=True)
        genres = [
            "|".join(g for g, f in zip(genre_names, row, strict=True) if f == "1") for row in flags
        ]
    else:
        genres = frame["genres"].to_list()
    parsed = [parse_title(title or "") for title in frame["title"]]
    return pl.DataFrame(
        {
            ITEM: frame[ITEM],
            "title": [f"{name} ({year})" if year else name or None for name, year in parsed],
            "name": [name or None for name, _ in parsed],
            "year": [year for _, year in parsed],
            "genres": [_genres(text) for text in genres],
        },
        schema={ITEM: pl.Int32, **dict.fromkeys(("title", "name", "year", "genres"), pl.String)},
    )


def _genres(text: str | None) -> str | None:
    names = [name.strip() for name in (text or "").split("|")]
    known = [name for name in names if name not in ("", "unknown", "(no genres listed)")]
    return ", ".join(known) or None


def _genre_names(path: Path) -> list[str]:
    """Read the names of the genre columns of the 100K release."""
    if not path.is_file():
        return _GENRES_100K.split(",")
    lines = [line.partition("|") for line in path.read_text(encoding="latin-1").splitlines()]
    return [name for name, _, number in lines if name and number.strip().isdigit()]


def _read_tags(path: Path, count: int, rejected: RejectedRows) -> pl.DataFrame:
    """Join each movie's most frequent tags; equally frequent ones by the alphabet."""
    columns = [Column(ITEM, "movieId", "number_key"), Column("tag", "tag", "text", required=False)]
    tags = read_delimited(path, columns, rejected=rejected)
    return (
        tags.lazy()
        .with_columns(pl.col("tag").str.to_lowercase().str.strip_chars())
        .drop_nulls("tag")
        .group_by(ITEM, "tag")
        .agg(pl.len().alias("count"))
        .sort(ITEM, "count", "tag", descending=[False, True, False])
        .group_by(ITEM, maintain_order=True)
        .agg(pl.col("tag").head(count).str.join(", ").alias("tags"))
        .collect()
    )


def _matches(folder: Path, split: str | None) -> str | None:
    """Tell the release by its files, and those with the same files by the folder's name."""
    for file, release in (("u.data", "ml-100k"), ("ratings.dat", "ml-1m")):
        if (folder / file).is_file():
            return release
    if not ((folder / "ratings.csv").is_file() and (folder / "movies.csv").is_file()):
        return None
    name = folder.resolve().name
    return name if name in _CSV_RELEASES else "ml-latest-small"


READER = Reader(
    kinds=(*_LAYOUT_OF, *_CSV_RELEASES),
    options=("tags_per_movie", "items_only"),
    matches=_matches,
    find=lambda request: find_movielens(
        request.folder, request.kind, items_only=bool(request.options.get("items_only"))
    ),
    read=lambda request: read_movielens(request.folder, request.kind, **request.options),
)

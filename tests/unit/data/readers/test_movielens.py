"""Small fixtures in the exact layout of each release, flaws included."""

from __future__ import annotations

import pytest

from genrec.data.prepare import prepare
from genrec.data.readers.movielens import find_movielens, parse_title, read_movielens
from genrec.data.text.encoders import make_encoder
from genrec.errors import DataError, MissingPathError

CSV_MOVIES = (
    "movieId,title,genres\r\n"
    "1,Toy Story (1995),Adventure|Animation|Children\r\n"
    '11,"American President, The (1995)",Comedy|Drama\r\n'
    '40,"He said ""no"" (2001)",(no genres listed)\r\n'
    "99,Unrated,Drama\r\n"
)
CSV_RATINGS = (
    "userId,movieId,rating,timestamp\n"
    "1,11,4.0,964982703\n"
    "1,1,4.5,964981247\n"
    "2,40,0.5,964981247\n"
    "2,500,3.0,964981250\n"  # no metadata
    "2,1,5.0,964981250\n"
)
CSV_TAGS = (
    "userId,movieId,tag,timestamp\n"
    '2,1,pixar,1\n3,1,Pixar,2\n3,1,fun,3\n4,1,"toys, many",4\n5,11, ,5\n6,11,president,6\n'
)


def write_csv(folder, *, ratings=CSV_RATINGS, movies=CSV_MOVIES, tags=CSV_TAGS):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("ratings", ratings), ("movies", movies), ("tags", tags)):
        if text is not None:
            (folder / f"{name}.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def prepared(raw, tmp_path):
    return prepare(raw, tmp_path / "out", encoder=make_encoder("tfidf"))


@pytest.mark.parametrize("release", ["ml-latest-small", "ml-20m", "ml-25m", "ml-32m"])
def test_csv_releases(tmp_path, release):
    write_csv(tmp_path / release)
    data = prepared(read_movielens(tmp_path, release), tmp_path)
    assert list(data.item_keys) == ["1", "11", "40", "500"]  # by number, no id shifted
    assert data.sequence_items.tolist() == [0, 1, 2, 0, 3]
    assert list(data.item_texts) == [
        "Title: Toy Story; Year: 1995; Genres: Adventure, Animation, Children; "
        "Tags: pixar, fun, toys, many",
        "Title: The American President; Year: 1995; Genres: Comedy, Drama; Tags: president",
        'Title: He said "no"; Year: 2001',
        "",
    ]
    assert list(data.item_titles) == [
        "Toy Story (1995)", "The American President (1995)", 'He said "no" (2001)', "500",
    ]  # fmt: skip
    card = data.meta["card"]
    assert card["items_without_metadata"] == 1
    assert card["metadata_rows_of_other_items"] == 1
    assert card["rejected"] == []


def test_number_of_tags(tmp_path):
    write_csv(tmp_path)
    raw = read_movielens(tmp_path, "ml-32m", tags_per_movie=1)
    assert raw.items["tags"].to_list() == ["pixar", "president", None, None]
    assert read_movielens(tmp_path, "ml-32m", tags_per_movie=0).items["tags"].null_count() == 4
    (tmp_path / "tags.csv").unlink()
    assert read_movielens(tmp_path, "ml-32m").items["tags"].null_count() == 4


def test_flawed_rows_are_counted(tmp_path):
    ratings = CSV_RATINGS + "x,1,3.0,5\n3,,3.0,5\n3,1,3.0\n3,1,3.0,5,6\n3,1,3.0,9\n"
    write_csv(tmp_path, ratings=ratings, tags=None)
    raw = read_movielens(tmp_path, "ml-latest-small")
    assert len(raw.interactions) == 6
    assert {entry["reason"]: entry["first_lines"] for entry in raw.rejected.as_list()} == {
        "userId is no integer": [7],
        "no movieId": [8],
        "no timestamp": [9],
        "more than 4 fields": [10],
    }


def test_1m(tmp_path):
    (tmp_path / "ratings.dat").write_text(
        "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::5\n"
    )
    (tmp_path / "movies.dat").write_bytes(
        "661::James and the Giant Peach (1996)::Animation|Children's\n"
        "1193::One Flew: Over the \u00c9toile (1975)::Drama\n".encode("latin-1")
    )
    raw = read_movielens(tmp_path, "ml-1m")
    data = prepared(raw, tmp_path)
    assert list(data.item_keys) == ["661", "1193"]
    assert data.sequence_items.tolist() == [1, 0, 1]
    assert list(data.item_texts) == [
        "Title: James and the Giant Peach; Year: 1996; Genres: Animation, Children's",
        "Title: One Flew: Over the Étoile; Year: 1975; Genres: Drama",
    ]
    assert data.meta["card"]["repaired"][0]["reason"] == "not utf-8, read as Windows-1252"


@pytest.mark.parametrize("with_genre_file", [True, False])
def test_100k(tmp_path, with_genre_file):
    (tmp_path / "u.data").write_text(
        "196\t242\t3\t881250949\n22\t377\t1\t878887116\n196\t377\t1\t5\n"
    )
    flags = ["0"] * 19
    comedy, drama = flags.copy(), flags.copy()
    comedy[5], drama[8], drama[0] = "1", "1", "1"  # "unknown" is no genre
    lines = [
        "|".join(["242", "Kolya (1996)", "24-Jan-1997", "", "http://x", *comedy]),
        "|".join(["377", "Caf\u00e9 Flesh, Le (1982)", "", "", "", *drama]),
    ]
    (tmp_path / "u.item").write_bytes("\n".join(lines).encode("latin-1"))
    if with_genre_file:
        names = "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama"
        names += " Fantasy Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
        text = "\n".join(f"{name}|{number}" for number, name in enumerate(names.split()))
        (tmp_path / "u.genre").write_text(text + "\n\n")
    data = prepared(read_movielens(tmp_path, "ml-100k"), tmp_path)
    assert list(data.item_texts) == [
        "Title: Kolya; Year: 1996; Genres: Comedy",
        "Title: Le Café Flesh; Year: 1982; Genres: Drama",
    ]
    assert list(data.user_keys) == ["22", "196"]
    assert data.sequence_items.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("title", "name", "year"),
    [
        ("Toy Story (1995)", "Toy Story", "1995"),
        ("Matrix, The (1999)", "The Matrix", "1999"),
        ("Doulos, Le (1962) ", "Le Doulos", "1962"),
        ("Avventura, L' (1960)", "L'Avventura", "1960"),
        ("City of Lost Children, The (Cité des enfants perdus, La) (1995)",
         "City of Lost Children, The (Cité des enfants perdus, La)", "1995"),
        ("Fawlty Towers (1975-1979)", "Fawlty Towers", "1975"),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey", "1968"),
        ("Babylon 5", "Babylon 5", None),
        ("", "", None),
    ],
)  # fmt: skip
def test_titles(title, name, year):
    assert parse_title(title) == (name, year)


@pytest.mark.parametrize("release", ["ml-100k", "ml-1m", "ml-32m"])
def test_missing_files(tmp_path, release):
    with pytest.raises(MissingPathError, match=f"{release} must hold .*unpack the whole release"):
        find_movielens(tmp_path, release)


def test_empty_files(tmp_path):
    write_csv(tmp_path, ratings="", tags=None)
    with pytest.raises(DataError, match=r"header line, got an empty file .*ratings\.csv"):
        read_movielens(tmp_path, "ml-32m")
    write_csv(tmp_path, ratings="userId,movieId,rating,timestamp\n", tags=None)
    with pytest.raises(DataError, match="must have interactions, got none in MovieLens 32m"):
        prepared(read_movielens(tmp_path, "ml-32m"), tmp_path)

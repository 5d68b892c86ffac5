from __future__ import annotations

import gzip
import json
from datetime import datetime, timezone

import numpy as np
import polars as pl
import pytest

from genrec.data.card import format_card
from genrec.data.options import PrepareOptions
from genrec.data.prepare import prepare
from genrec.data.readers.own_tables import find_tables, read_tables
from genrec.data.readers.table_columns import TableColumns
from genrec.data.text.encoders import make_encoder
from genrec.errors import ConfigError, DataError, MissingPathError

LOG = pl.DataFrame(
    {
        "user_id": ["u1", "u1", "u2", "u2", "u2"],
        "item_id": ["b", "a", "c", "a", "b"],
        "rating": [5.0, 1.0, 3.0, 4.0, None],
        "timestamp": [1_600_000_300, 1_600_000_200, 1_600_000_100, 1_600_000_400, 1_600_000_500],
    }
)
ITEMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c"],
        "title": ["Apple, green", 'Bread "dark"', "Corn"],
        "description": ["sour &amp; <i>fresh</i>", None, "yellow"],
        "price": [1.5, 2.5, 3.5],
    }
)
HISTORY = [0, 1, 2, 0, 1]
TEXTS = [
    "Title: Apple, green; Description: sour & fresh",
    'Title: Bread "dark"',
    "Title: Corn; Description: yellow",
]


def store(frame, path):
    """Write a table in the format that its ending says."""
    plain = path.name.removesuffix(".gz")
    if plain.endswith(".parquet"):
        frame.write_parquet(path)
        return path
    if plain.endswith((".csv", ".tsv")):
        data = frame.write_csv(separator="\t" if plain.endswith(".tsv") else ",").encode()
    else:
        data = frame.write_ndjson().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(items, log, **options):
    return read_tables(items=items, interactions=log, name="shop", **options)


def prepared(raw, tmp_path, encoder="tfidf"):
    return prepare(raw, tmp_path / "out", encoder=make_encoder(encoder))


ENDINGS = ["csv", "tsv", "jsonl", "ndjson", "json", "parquet", "csv.gz", "tsv.gz", "jsonl.gz"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_formats(tmp_path, ending):
    items = store(ITEMS, tmp_path / f"items.{ending}")
    log = store(LOG, tmp_path / f"interactions.{ending}")
    assert find_tables(tmp_path) == (items, log)
    data = prepared(read(items, log), tmp_path)
    assert list(data.item_keys) == ["a", "b", "c"]
    assert data.sequence_items.tolist() == HISTORY
    assert list(data.item_texts) == TEXTS
    card = data.meta["card"]
    assert card["time_span"] == ["2020-09-13 12:28:20 UTC", "2020-09-13 12:35:00 UTC"]
    assert card["columns"]["user"] == "user_id (guessed)"
    assert card["columns"]["text"] == "title, description (guessed)"
    assert card["rejected"] == []


def test_columns_by_setting(tmp_path):
    log = store(
        LOG.rename({"user_id": "who", "item_id": "what", "timestamp": "when"}), tmp_path / "l.csv"
    )
    items = store(ITEMS.rename({"item_id": "no", "title": "label"}), tmp_path / "i.csv")
    columns = TableColumns(
        user="who", item="what", time="when", rating="rating", item_key="no",
        title="label", text=("description", "label"),
    )  # fmt: skip
    data = prepared(read(items, log, columns=columns), tmp_path)
    assert data.sequence_items.tolist() == HISTORY
    assert data.item_texts[0] == "Description: sour & fresh; Label: Apple, green"
    assert data.item_titles[0] == "Apple, green"
    assert "guessed" not in str(data.meta["card"]["columns"])


def test_a_column_may_be_left_unread(tmp_path):
    log, items = store(LOG, tmp_path / "l.csv"), store(ITEMS, tmp_path / "i.csv")
    raw = read(items, log, columns=TableColumns(time="", rating=""))
    assert raw.interactions.columns == ["user_key", "item_key"]
    assert prepared(raw, tmp_path).sequence_items.tolist() == [1, 0, 2, 0, 1]  # the file's order


SECONDS = [1_600_000_300, 1_600_000_200, 1_600_000_100, 1_600_000_400, 1_600_000_500]


@pytest.mark.parametrize(
    "times",
    [
        [time * 1_000 for time in SECONDS],
        [time + 0.5 for time in SECONDS],
        [f"{datetime.fromtimestamp(time, timezone.utc):%Y-%m-%d %H:%M:%S}" for time in SECONDS],
        [datetime.fromtimestamp(time, timezone.utc).isoformat() for time in SECONDS],
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_times(tmp_path, times, ending):
    log = store(LOG.with_columns(pl.Series("timestamp", times)), tmp_path / f"l.{ending}")
    raw = read(store(ITEMS, tmp_path / "i.csv"), log)
    assert raw.ticks_per_s in (1_000, 1_000_000)  # the finer where fractions may be
    data = prepared(raw, tmp_path)
    assert data.sequence_items.tolist() == HISTORY
    assert data.meta["card"]["time_span"][0] == "2020-09-13 12:28:20 UTC"


def test_parquet_with_times_numbers_and_nulls(tmp_path):
    moments = [datetime(2020, 9, 13, 12, k, tzinfo=timezone.utc) for k in (3, 2, 1, 4, 5)]
    log = LOG.with_columns(
        pl.Series("timestamp", moments),
        pl.Series("user_id", [1, 1, 2, None, 2]),
        pl.Series("item_id", [20.0, 10.0, 30.0, 10.0, 20.0]),  # integers as pandas keeps them
    )
    items = ITEMS.with_columns(pl.Series("item_id", [10, 20, 30]))
    data = prepared(
        read(store(items, tmp_path / "i.parquet"), store(log, tmp_path / "l.parquet")), tmp_path
    )
    assert list(data.item_keys) == ["10", "20", "30"]
    assert data.sequence_items.tolist() == [0, 1, 2, 1]
    assert data.meta["card"]["rejected"] == [
        {"file": "l.parquet", "reason": "no user_id", "rows": 1, "first_lines": [4]}
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_vector_column(tmp_path, ending):
    vectors = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    frame = ITEMS.select("item_id").with_columns(pl.Series("emb", vectors))
    if ending == "csv":
        frame = frame.with_columns(pl.Series("emb", ["[1, 2]", "3 4", "5,6"]))
    items = store(frame, tmp_path / f"i.{ending}")
    raw = read(items, store(LOG, tmp_path / "l.csv"), columns=TableColumns(vector="emb"))
    data = prepared(raw, tmp_path)
    assert data.item_embeddings.tolist() == vectors
    assert list(data.item_texts) == ["", "", ""]
    assert data.item_titles[0] == "a"


def test_vectors_that_do_not_fit(tmp_path):
    log = store(LOG, tmp_path / "l.csv")
    lines = ['{"item_id": "a", "v": [1, 2]}', '{"item_id": "b", "v": [1]}']
    (tmp_path / "i.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"all have one width, got \[1, 2\] in 'v'"):
        read(tmp_path / "i.jsonl", log, columns=TableColumns(vector="v"))
    lines[1] = '{"item_id": "b", "v": "wide"}'
    (tmp_path / "i.jsonl").write_text("\n".join(lines))
    raw = read(tmp_path / "i.jsonl", log, columns=TableColumns(vector="v"))
    assert raw.rejected.as_list()[0]["first_lines"] == [2]
    with pytest.raises(DataError, match="a vector, got none for 2 items, the first 'b'"):
        prepared(raw, tmp_path)


def test_lists_of_words_are_text(tmp_path):
    lines = [{"id": "a", "name": "Apple", "tags": ["red", "sweet"]}, {"id": "b", "tags": None}]
    (tmp_path / "i.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = prepared(read(tmp_path / "i.jsonl", store(LOG, tmp_path / "l.csv")), tmp_path)
    assert data.item_texts[0] == "Name: Apple; Tags: red, sweet"
    assert data.item_titles[0] == "Apple"


@pytest.mark.parametrize(
    ("separator", "ending"), [(";", "csv"), ("|", "csv"), (",", "tsv"), ("\t", "txt")]
)
def test_separators_are_found(tmp_path, separator, ending):
    for frame, name in ((LOG, "l"), (ITEMS, "i")):
        frame.write_csv(tmp_path / f"{name}.{ending}", separator=separator)
    raw = read(tmp_path / f"i.{ending}", tmp_path / f"l.{ending}")
    assert prepared(raw, tmp_path).sequence_items.tolist() == HISTORY


def test_usual_names_are_found(tmp_path):
    log = LOG.rename(
        {"user_id": "Customer ID", "item_id": "ASIN", "timestamp": "Date", "rating": "Stars"}
    )
    items = ITEMS.rename({"item_id": "Asin", "title": "Product Name"})
    raw = read(store(items, tmp_path / "i.csv"), store(log, tmp_path / "l.csv"))
    taken = {
        role: name.removesuffix(" (guessed)")
        for role, name in raw.notes(raw.text_template)["columns"].items()
    }
    assert taken == {
        "user": "Customer ID", "item": "ASIN", "time": "Date", "rating": "Stars",
        "item_key": "Asin", "text": "Product Name, description", "title": "Product Name",
    }  # fmt: skip


def test_text_is_found_where_no_name_is_usual(tmp_path):
    items = ITEMS.select("item_id", pl.col("title").alias("bezeichnung"), "price")
    raw = read(store(items, tmp_path / "i.csv"), store(LOG, tmp_path / "l.csv"))
    assert prepared(raw, tmp_path).item_texts[2] == "Bezeichnung: Corn"


def test_flaws_are_counted(tmp_path):
    (tmp_path / "l.csv").write_text("user,item,time\nu1,a,5\n,a,6\nu1,b,soon\nu1,c,7,8\nu2,a,9\n")
    (tmp_path / "i.csv").write_text(
        "item,title\na,Apple\n,Nameless\nb,Bread,extra\nc,Corn\nc,Corn cob\n"
    )
    data = prepared(read(tmp_path / "i.csv", tmp_path / "l.csv"), tmp_path)
    assert data.num_interactions == 2
    found = {(e["file"], e["reason"]): e["first_lines"] for e in data.meta["card"]["rejected"]}
    assert found == {
        ("l.csv", "no user"): [3],
        ("l.csv", "time is no time"): [4],
        ("l.csv", "more than 3 fields"): [5],
        ("i.csv", "no item"): [3],
        ("i.csv", "more than 2 fields"): [4],
    }


@pytest.mark.parametrize(
    ("log", "items", "columns", "message"),
    [
        (
            "a,b\n",
            "item,title\n",
            {},
            r"column for the user, the item, got a, b in .*l\.csv; name them, for example "
            r"genrec prepare .* --out data/processed/\S+ --user-column a --item-column b$",
        ),
        (
            "user,b\n",
            "item,title\n",
            {},
            r"the item, got user, b in .* --item-column b$",
        ),
        (
            "user,item\n",
            "x,title\n",
            {},
            r"column for the item key, got x, title .*--item-key-column",
        ),
        (
            "user,item\n",
            "item,price\na,1\n",
            {},
            "items must have text or a vector, got item, price",
        ),
        ("user,item\n", "item,title\n", {"user": "usr"}, r"got 'usr' for .*; did you mean user\?"),
        ("user,item\n", "item,title\n", {"text": ("titel",)}, r"got 'titel' .*did you mean title"),
        (
            "user,item\n",
            "item,title\n",
            {"vector": "v"},
            "vector column must be one of the table's",
        ),
        (
            "user,item,time\nu,a,01/02/03\n",
            "item,title\n",
            {},
            "dates of a usual form, got '01/02/03'",
        ),
        ("user,item,time\nu,a,1\n", "item,title\n", {"time_unit": "h"}, "must be s, ms, us or ns"),
    ],
)
def test_columns_that_cannot_be_found(tmp_path, log, items, columns, message):
    (tmp_path / "l.csv").write_text(log)
    (tmp_path / "i.csv").write_text(items)
    with pytest.raises((DataError, ConfigError), match=message):
        read(tmp_path / "i.csv", tmp_path / "l.csv", columns=TableColumns(**columns))


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_text_of_wide_letters(tmp_path, encoding, ending):
    """Excel's "Unicode text", and what databases write, with a mark of the order or without."""
    log, items = tmp_path / f"l.{ending}", tmp_path / f"i.{ending}"
    if ending == "txt":
        log.write_bytes("user\titem\tdate\nJürgen\t例\t01.02.2024\n".encode(encoding))
        items.write_bytes("item\ttitle\n例\tKäse für 3 €\n".encode(encoding))
    else:
        text = '{"user": "Jürgen", "item": "例", "date": "01.02.2024"}\n'
        log.write_bytes(text.encode(encoding))
        items.write_bytes('{"item": "例", "title": "Käse für 3 €"}\n'.encode(encoding))
    raw = read(items, log)
    assert raw.items["title"].to_list() == ["Käse für 3 €"]
    assert raw.interactions["user_key"].to_list() == ["Jürgen"]
    assert raw.interactions["item_key"].to_list() == ["例"]
    assert raw.rejected.total == 0


def test_what_is_no_text_is_one_line(tmp_path):
    log, items = store(LOG, tmp_path / "l.csv"), tmp_path / "i.csv"
    items.write_bytes(b"item,title\n" + bytes(range(8)) * 40 + bytes(99))
    with pytest.raises(DataError, match=r"must be text, got NUL bytes in .*i\.csv; .*--encoding"):
        read(items, log)
    items.write_bytes(b"item,title\n" + b"".join(b"%d,a b\n" % n for n in range(9)) + b"x,a\0b\n")
    assert len(read(items, log).items) == 10  # a stray one harms nothing but its own row
    with pytest.raises(ConfigError, match=r"got 'utf-16-le'; leave it out"):
        read(items, log, encoding="utf-16-le")


def test_files_that_cannot_be_read(tmp_path):
    log = store(LOG, tmp_path / "l.csv")
    with pytest.raises(MissingPathError, match="table must exist, got"):
        read(tmp_path / "none.csv", log)
    for name, content, message in (
        ("i.xlsx", b"x", r"must end in one of .*, got .*i\.xlsx; convert it"),
        ("i.parquet", b"not parquet", "Parquet file must be readable, got"),
        ("i.jsonl", b"", "one JSON object a line, got none in"),
        ("i.json", b'\xef\xbb\xbf[\n{"item": "a"},\n{"item": "b"}]', "a line, got a list in"),
        ("i.jsonl", b' [{"item": "a"}, {"item": "b"}]', "a line, got a list in"),
        ("i.csv", b"", "header line, got an empty file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            read(tmp_path / name, log)
    with pytest.raises(MissingPathError, match=r"must hold items\.csv .*--items"):
        find_tables(tmp_path)


def test_events_of_one_millisecond_stay_in_order(tmp_path):
    """A history follows the microseconds, not the order of the file."""
    moments = [datetime(2024, 3, 1, 10, 0, 0, micro, timezone.utc) for micro in (3, 2, 1, 4, 5)]
    for unit in ("us", "ns"):
        column = pl.Series("timestamp", moments, dtype=pl.Datetime(unit, "UTC"))
        log = store(LOG.with_columns(column), tmp_path / f"{unit}.parquet")
        data = prepared(read(store(ITEMS, tmp_path / "i.csv"), log), tmp_path)
        assert data.sequence_items.tolist() == HISTORY
        assert data.meta["card"]["time_span"][0] == "2024-03-01 10:00:00 UTC"


def test_unit_by_setting(tmp_path):
    log = store(LOG.with_columns(pl.col("timestamp") // 100), tmp_path / "l.csv")
    raw = read(store(ITEMS, tmp_path / "i.csv"), log, columns=TableColumns(time_unit="ms"))
    assert raw.ticks_per_s == 1_000


def test_keys_of_vectors_in_a_file(tmp_path):
    np.save(tmp_path / "v.npy", np.array([[3.0, 4.0], [1.0, 2.0], [5.0, 6.0], [0.0, 0.0]]))
    (tmp_path / "v.keys.txt").write_text("b\na\nc\nunused\n")
    raw = read(store(ITEMS, tmp_path / "i.csv"), store(LOG, tmp_path / "l.csv"))
    data = prepared(raw, tmp_path, str(tmp_path / "v.npy"))
    assert data.item_embeddings.tolist() == [[1, 2], [3, 4], [5, 6]]


EXCEL_LOG = (
    "Kundennummer;Artikelnummer;Bewertung;Bestelldatum;Filiale\n"
    "7;1;4,5;31.12.2024 14:05;Köln\n7;2;3,5;01.01.2025 09:00;Bonn\n7;3;5;30.12.2024 08:15;Köln\n"
    "8;1;gut;02.01.2025 10:00;Bonn\n8;2;4,5;03.01.2025 10:00;Köln\n"
)
EXCEL_ITEMS = (
    "Artikelnummer;Bezeichnung;Preis\n1;Kännchen bis 5 €;3,20\n2;Tasse;4,10\n3;Gabel;2,00\n"
)


@pytest.fixture
def excel(tmp_path):
    """Two tables as a German spreadsheet saves them."""
    for name, text in (("log.csv", EXCEL_LOG), ("items.csv", EXCEL_ITEMS)):
        (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode("cp1252"))
    return tmp_path / "items.csv", tmp_path / "log.csv"


def test_tables_of_a_german_spreadsheet(excel, tmp_path):
    raw = read(*excel)
    options = PrepareOptions(min_rating=4)
    data = prepare(raw, tmp_path / "out", encoder=make_encoder("tfidf"), options=options)
    assert list(data.user_keys) == ["7", "8"]
    assert data.sequence_items.tolist() == [2, 0, 1]  # 3,5 is less than 4, and 4,5 is not
    assert list(data.item_keys) == ["1", "2", "3"]
    assert data.item_texts[0] == "Bezeichnung: Kännchen bis 5 €"
    card = data.meta["card"]
    assert card["time_span"] == ["2024-12-30 08:15:00 UTC", "2025-01-03 10:00:00 UTC"]
    assert card["columns"]["time"] == "Bestelldatum (guessed)"
    assert card["columns_not_used"] == {"items.csv": "Preis", "log.csv": "Filiale"}
    assert [(e["reason"], e["first_lines"]) for e in card["rejected"]] == [
        ("Bewertung is no number", [5])
    ]
    assert "columns not used: items.csv Preis, log.csv Filiale" in format_card(card)
    assert "1 of items.csv: not utf-8, read as Windows-1252 (line 2)" in format_card(card)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        (["4,5", "3", ",5"], [4.5, 3.0, 0.5]),
        (["4.5", "3", "5"], [4.5, 3.0, 5.0]),
        (["4.5", "4,5", "5"], [4.5, 5.0]),  # a column has one sign: the other is a mistake
        (["3.5", "4,5", "1.234,5", "2,0", "5"], [4.5, 1234.5, 2.0, 5.0]),
    ],
)
def test_decimal_commas(tmp_path, ending, ratings, expected):
    log = LOG.head(len(ratings)).with_columns(pl.Series("rating", ratings))
    raw = read(store(ITEMS, tmp_path / "i.csv"), store(log, tmp_path / f"l.{ending}"))
    assert raw.interactions["rating"].to_list() == expected
    rejected = raw.rejected.as_list()
    assert sum(entry["rows"] for entry in rejected) == len(ratings) - len(expected)
    if rejected:
        assert rejected[0]["reason"] == "rating is no number"
        wrong = 0 if len(ratings) > 3 else 1
        assert rejected[0]["first_lines"] == [wrong + (2 if ending == "csv" else 1)]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_of_dates_is_not_ignored_without_a_question(tmp_path, ending):
    days = [f"2024-12-{day:02d}" for day in (3, 2, 1, 4, 5)]
    log = LOG.drop("timestamp").with_columns(pl.Series("Liefertag", days))
    if ending == "parquet":
        log = log.with_columns(pl.col("Liefertag").str.to_date())
    items, path = store(ITEMS, tmp_path / "i.csv"), store(log, tmp_path / f"l.{ending}")
    with pytest.raises(
        DataError,
        match=r"the time, got user_id, item_id, rating, Liefertag in .*; name them \(--time-column "
        r"'' if it is not the time\), for example .* --time-column Liefertag$",
    ):
        read(items, path)
    assert prepared(read(items, path, columns=TableColumns(time="Liefertag")), tmp_path)
    left = read(items, path, columns=TableColumns(time=""))
    assert left.notes(left.text_template)["columns_not_used"][path.name] == "Liefertag"


def test_all_that_is_missing_is_asked_at_once(tmp_path):
    (tmp_path / "l.csv").write_text("wer,was genau,wann\nu,a,31.12.2024\n")
    (tmp_path / "i.csv").write_text("nr,title\na,Apple\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "i.csv", tmp_path / "l.csv")
    message = str(caught.value)
    assert "column for the user, the item, the item key, the time" in message
    assert f"wer, was genau, wann in {tmp_path / 'l.csv'}; nr, title in" in message
    command = message.partition("for example ")[2].partition(" (--time")[0]
    assert command.startswith(f"genrec prepare {tmp_path} --interactions l.csv --items i.csv ")
    assert "--time-column wann --user-column wer --item-column 'was genau'" in command
    assert "--item-key-column nr" in command


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("Käufer", "Artikel-Nr.", "Zeitstempel", "Sterne"), "Artikel-Nr."),
        (("Client ID", "Référence produit", "Date d'achat", "Note"), "ID produit"),
        (("Usuario", "Artículo", "Fecha", "Calificación"), "ID artículo"),
        (("Utente", "Codice prodotto", "Data", "Valutazione"), "Prodotto"),
        (("Utilizador", "Código produto", "Data da compra", "Avaliação"), "ID produto"),
        (("Klantnummer", "Artikelcode", "Besteldatum", "Beoordeling"), "Artikelcode"),
        (("Klient", "ID produktu", "Data zamówienia", "Ocena"), "Produkt ID"),
    ],
)
def test_names_of_other_languages(tmp_path, names, key):
    usual = ("user_id", "item_id", "timestamp", "rating")
    log = LOG.with_columns(pl.Series("timestamp", [f"0{k}.12.2024" for k in (3, 2, 1, 4, 5)]))
    log = log.rename(dict(zip(usual, names, strict=True)))
    items = ITEMS.rename({"item_id": key})
    raw = read(store(items, tmp_path / "i.csv"), store(log, tmp_path / "l.csv"))
    assert prepared(raw, tmp_path).sequence_items.tolist() == HISTORY
    assert raw.notes(raw.text_template)["columns"]["rating"] == f"{names[3]} (guessed)"


def test_a_note_in_words_is_no_rating_and_data_no_time(tmp_path):
    (tmp_path / "l.csv").write_text("user,item,note,data\nu,a,nice,x\nu,b,too big,y\n")
    raw = read(store(ITEMS, tmp_path / "i.csv"), tmp_path / "l.csv")
    assert raw.interactions.columns == ["user_key", "item_key"]
    assert raw.notes(raw.text_template)["columns_not_used"]["l.csv"] == "note, data"


def test_the_only_column_that_both_tables_have_is_the_item(tmp_path):
    items = tmp_path / "articles.csv"
    log = tmp_path / "ventes.csv"
    items.write_text("référence;désignation;prix\nA1;Tasse rouge;3\nA2;Tasse bleue;4\n")
    log.write_text("client;référence;date\nanne;A1;2024-03-01\nanne;A2;2024-03-02\n")
    raw = read(items, log)
    assert raw.interactions["item_key"].to_list() == ["A1", "A2"]
    assert raw.notes(raw.text_template)["columns"]["item"] == "référence (guessed)"
    # Two of them, or a day that both have, say nothing.
    log.write_text("client;référence;prix;date\nanne;A1;3;2024-03-01\n")
    with pytest.raises(DataError, match="must have a column for the item, the item key, got"):
        read(items, log)
    items.write_text("nr;désignation;date\nA1;Tasse rouge;2024-03-01\n")
    log.write_text("client;stück;date\nanne;A1;2024-03-01\n")
    with pytest.raises(DataError, match="must have a column for the item, the item key, got"):
        read(items, log)

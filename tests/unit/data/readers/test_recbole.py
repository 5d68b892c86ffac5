from __future__ import annotations

import pytest

from genrec.data.prepare import prepare
from genrec.data.readers.recbole import find_recbole, read_recbole
from genrec.data.text.encoders import make_encoder
from genrec.errors import DataError, MissingPathError

INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "196\t242\t3\t881250949\n186\t302\t3\t891717742.5\n196\t302\t1\t881250948\n22\t999\t1\tx\n"
)
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tprice:float\n"
    '242\tKolya "K" &amp; Co\t1996\tComedy Drama\t3.5\n302\tL.A. Confidential\t\tCrime\t4\n'
)


def write(folder, name="ml", inter=INTER, item=ITEM):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.inter").write_text(inter)
    if item is not None:
        (folder / f"{name}.item").write_text(item)


def test_atomic_files(tmp_path):
    write(tmp_path)
    raw = read_recbole(tmp_path)
    assert raw.source == "RecBole files ml.inter and ml.item"
    data = prepare(raw, tmp_path / "out", encoder=make_encoder("tfidf"))
    assert list(data.user_keys) == ["186", "196"]
    assert list(data.item_keys) == ["242", "302"]
    assert data.sequence_items.tolist() == [1, 1, 0]
    assert list(data.item_texts) == [
        'Title: Kolya "K" & Co; Release year: 1996; Class: Comedy Drama',
        "Title: L.A. Confidential; Class: Crime",
    ]
    assert data.item_titles[1] == "L.A. Confidential"
    card = data.meta["card"]
    assert card["rejected"][0]["reason"] == "timestamp:float is no time"
    assert card["rejected"][0]["first_lines"] == [5]
    assert card["time_span"][1] == "1998-04-04 19:22:22 UTC"


def test_without_time_and_rating(tmp_path):
    write(tmp_path, inter="item_id:token\tuser_id:token\nb\tu\na\tu\nb\tv\n",
          item="item_id:token\ttitle:token_seq\na\tApple\nb\tBread\n")  # fmt: skip
    data = prepare(read_recbole(tmp_path), tmp_path / "out", encoder=make_encoder("tfidf"))
    assert data.sequence_items.tolist() == [1, 0, 1]
    assert data.meta["card"]["order"].startswith("no time")


def test_places(tmp_path):
    write(tmp_path / "a", "a")
    assert find_recbole(tmp_path, "a")[0] == tmp_path / "a" / "a.inter"
    write(tmp_path, "b")
    write(tmp_path, "c")
    assert find_recbole(tmp_path, "c")[1] == tmp_path / "c.item"
    with pytest.raises(DataError, match=r"one data set must be named .*, got b, c"):
        find_recbole(tmp_path)
    with pytest.raises(MissingPathError, match=r"must hold d\.inter"):
        find_recbole(tmp_path, "d")
    write(tmp_path / "bare", item=None)
    with pytest.raises(MissingPathError, match=r"ml\.inter without ml\.item"):
        find_recbole(tmp_path / "bare")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"inter": "uid:token\titem_id:token\n"}, "a column user_id:token, got uid:token"),
        ({"item": "iid:token\ttitle:token_seq\n"}, "a column item_id:token, got iid:token"),
        ({"item": "item_id:token\tprice:float\n"}, "a token or token_seq column to make text of"),
        ({"inter": ""}, "header line, got an empty file"),
    ],
)
def test_columns_that_are_missing(tmp_path, files, message):
    write(tmp_path, **files)
    with pytest.raises(DataError, match=message):
        read_recbole(tmp_path)

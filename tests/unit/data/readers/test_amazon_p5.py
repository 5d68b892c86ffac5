from __future__ import annotations

import gzip
import json

import pytest

from genrec.data.prepare import prepare
from genrec.data.readers.amazon_p5 import find_p5_folder, read_p5
from genrec.data.text.encoders import make_encoder
from genrec.errors import DataError, MissingPathError

SEQUENCES = "1 1 2 3 1\n3 4 2 1\n2 3\n"
META = [
    {
        "asin": "B1",
        "title": "Nail &amp; Polish",
        "brand": "OPI",
        "categories": [["Beauty", "Nails"]],
    },
    {"asin": "B2", "title": "Cr\u00e8me <b>rich</b>", "brand": "Unknown"},
    {"asin": "B3", "brand": "WEN&reg;", "categories": [["Beauty"], ["Other"]], "price": 9.5},
    {"asin": "ZZ", "title": "not in the set"},
]
KEYS = {
    "user2id": {"u1": "1", "u2": "2", "u3": "3"},
    "item2id": {f"B{i}": str(i) for i in range(1, 5)},
}


def write(folder, *, sequences=SEQUENCES, meta=None, keys=KEYS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sequential_data.txt").write_text(sequences)
    (folder / "datamaps.json").write_text(json.dumps(keys))
    lines = meta if meta is not None else [json.dumps(record) for record in META]
    (folder / "meta.json.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


@pytest.mark.parametrize("layout", ["beauty", "raw/beauty", "."])
def test_layouts(tmp_path, layout):
    folder = write(tmp_path / layout)
    assert find_p5_folder(tmp_path, "beauty").samefile(folder)
    raw = read_p5(tmp_path, "beauty")
    assert raw.interactions["item_key"].to_list() == [
        "B1",
        "B2",
        "B3",
        "B1",
        "B3",
        "B4",
        "B2",
        "B1",
    ]
    assert raw.interactions["user_key"].to_list() == ["u1"] * 4 + ["u2"] + ["u3"] * 3


def test_ids_and_order_of_the_release_survive(tmp_path):
    write(tmp_path / "beauty")
    prepared = prepare(read_p5(tmp_path, "beauty"), tmp_path / "out", encoder=make_encoder("tfidf"))
    assert list(prepared.item_keys) == ["B1", "B2", "B3", "B4"]
    assert list(prepared.user_keys) == ["u1", "u2", "u3"]
    assert prepared.sequence_items.tolist() == [0, 1, 2, 0, 2, 3, 1, 0]
    assert prepared.sequence_offsets.tolist() == [0, 4, 5, 8]
    assert prepared.train_ends.tolist() == [2, 5, 6]
    assert prepared.valid_ends.tolist() == [3, 5, 7]


def test_texts_are_cleaned_and_missing_metadata_shifts_nothing(tmp_path):
    write(tmp_path / "beauty")
    prepared = prepare(read_p5(tmp_path, "beauty"), tmp_path / "out", encoder=make_encoder("tfidf"))
    assert list(prepared.item_texts) == [
        "Title: Nail & Polish; Brand: OPI; Categories: Beauty > Nails",
        "Title: Crème rich",
        "Brand: WEN®; Categories: Beauty",
        "",
    ]
    assert prepared.item_titles[0] == "Nail & Polish"
    assert prepared.item_titles[3] == "B4"
    card = prepared.meta["card"]
    assert card["items_without_metadata"] == card["items_without_text"] == 1
    assert not prepared.item_embeddings[3].any()


def test_full_release_has_python_literals(tmp_path):
    lines = [repr(record) for record in META] + ["{'asin': __import__('os').getpid()}"]
    write(tmp_path / "beauty", meta=lines)
    raw = read_p5(tmp_path, "beauty")
    assert raw.items["title"].to_list() == ["Nail &amp; Polish", "Crème <b>rich</b>", None]
    assert raw.rejected.as_list() == [
        {
            "file": "meta.json.gz",
            "reason": "neither JSON nor a Python literal",
            "rows": 1,
            "first_lines": [5],
        }
    ]


def test_unknown_brand_by_setting(tmp_path):
    write(tmp_path / "beauty")
    kept = read_p5(tmp_path, "beauty", drop_unknown_brand=False)
    assert kept.items["brand"].to_list() == ["OPI", "Unknown", "WEN&reg;"]  # cleaned later on


def test_user_without_items_is_counted(tmp_path):
    write(tmp_path / "beauty", sequences="1 1 2\n2\n3 3 4\n")
    raw = read_p5(tmp_path, "beauty")
    assert raw.rejected.as_list()[0]["first_lines"] == [2]
    prepared = prepare(raw, tmp_path / "out", encoder=make_encoder("tfidf"))
    assert list(prepared.user_keys) == ["u1", "u3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequences": "1 1 x\n"}, "user id and item ids, got line 1 of"),
        ({"sequences": "1 1\n2 5\n"}, r"1\.\.4 \(items\) of datamaps.json, got item 5 in line 2"),
        ({"sequences": "1 0\n"}, "got item 0 in line 1"),
        ({"sequences": "4 1\n"}, "got user 4 in line 1"),
        ({"sequences": "1 1\n1 2\n"}, "one line, got user 1 again in line 2"),
        ({"keys": {"user2id": {}}}, "map keys to ids under 'item2id'"),
        ({"keys": {**KEYS, "item2id": {"a": "2"}}}, "from 1 without gaps, got 2 to 2"),
        ({"keys": {**KEYS, "user2id": {"a": "one"}}}, "under 'user2id'"),
    ],
)
def test_files_that_contradict_each_other(tmp_path, changes, message):
    write(tmp_path / "beauty", **changes)
    with pytest.raises(DataError, match=message):
        read_p5(tmp_path, "beauty")


def test_truncated_gzip(tmp_path):
    folder = write(tmp_path / "beauty")
    packed = (folder / "meta.json.gz").read_bytes()
    (folder / "meta.json.gz").write_bytes(packed[:-20])
    with pytest.raises(DataError, match=r"gzip file must be complete, got .*meta\.json\.gz"):
        read_p5(tmp_path, "beauty")


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(MissingPathError, match=r"dataset folder must exist, got .*/nowhere"):
        find_p5_folder(tmp_path / "nowhere", "beauty")
    write(tmp_path / "toys")
    with pytest.raises(MissingPathError, match=r"got 'toy'; did you mean toys\?"):
        find_p5_folder(tmp_path, "toy")
    with pytest.raises(MissingPathError, match=r"got 'sports'; allowed: toys"):
        find_p5_folder(tmp_path, "sports")
    with pytest.raises(MissingPathError, match="name a split"):
        find_p5_folder(tmp_path, None)
    with pytest.raises(MissingPathError, match="got 'beauty'"):
        find_p5_folder(tmp_path / "toys", "beauty")  # another split must not pass for it
    (tmp_path / "toys" / "datamaps.json").unlink()
    with pytest.raises(MissingPathError, match=r"must hold .*, got .* without datamaps\.json"):
        find_p5_folder(tmp_path, "toys")

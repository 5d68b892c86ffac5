"""Small fixtures in the exact layout of each release, flaws included."""

from __future__ import annotations

import gzip
import json

import pytest

from genrec.data.prepare import prepare
from genrec.data.readers.amazon import find_amazon, read_amazon
from genrec.data.text.encoders import make_encoder
from genrec.errors import DataError, MissingPathError


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def old_review(user, item, time, rating=5.0, **more):
    return {
        "reviewerID": user, "asin": item, "reviewerName": "J. \"X\" O'N", "helpful": [0, 1],
        "reviewText": "Très bien, <br/>good", "overall": rating, "summary": "s",
        "unixReviewTime": time, "reviewTime": "01 30, 2014", **more,
    }  # fmt: skip


def new_review(user, item, time, rating=5.0):
    return {
        "rating": rating, "title": "t", "text": "x", "images": [], "asin": f"{item}-red",
        "parent_asin": item, "user_id": user, "timestamp": time, "helpful_vote": 0,
        "verified_purchase": True,
    }  # fmt: skip


def prepared(raw, tmp_path, **options):
    return prepare(raw, tmp_path / "out", encoder=make_encoder("tfidf"), **options)


def test_2014(tmp_path):
    write(
        tmp_path / "reviews_Beauty_5.json.gz",
        [
            old_review("A2", "B1", 1391040000),
            old_review("A1", "B2", 1391040000, 2.0),
            old_review("A1", "B1", 1300000000),
            {"reviewerID": "A1", "overall": 3.0, "unixReviewTime": 5},
            old_review("A1", "B9", 1400000000),  # the item has no metadata
        ],
    )
    write(
        tmp_path / "meta_Beauty.json.gz",
        [
            "{'asin': 'B1', 'title': \"Kid's soap\", 'brand': 'Unknown', "
            "'categories': [['Beauty', 'Bath'], ['Gifts']], 'price': 9.99, 'salesRank': {}}",
            "{'asin': 'B2', 'title': 'WEN&reg; <b>Cream</b>', 'description': 'x', 'brand': 'Wen'}",
            "{'asin': 'B2', 'title': 'short'}",
            "{'asin': 'B7', 'title': 'not reviewed'}",
            "{'asin': 'B1', 'title': 'cut of",
        ],
    )
    raw = read_amazon(tmp_path, "beauty")
    assert raw.source == "Amazon 2014, 5-core, Beauty"
    assert raw.min_interactions == 0
    data = prepared(raw, tmp_path)
    assert list(data.item_keys) == ["B1", "B2", "B9"]
    assert data.sequence_items.tolist() == [0, 1, 2, 0]
    assert list(data.item_texts) == [
        "Title: Kid's soap; Categories: Beauty > Bath", "Title: WEN® Cream; Brand: Wen", "",
    ]  # fmt: skip
    card = data.meta["card"]
    assert card["time_span"][1] == "2014-05-13 16:53:20 UTC"
    assert card["repeated_metadata_rows"] == 1
    assert card["items_without_metadata"] == 1
    assert [(e["file"], e["reason"], e["first_lines"]) for e in card["rejected"]] == [
        ("reviews_Beauty_5.json.gz", "no asin", [4]),
        ("meta_Beauty.json.gz", "neither JSON nor a Python literal", [5]),
    ]


def test_2018(tmp_path):
    write(
        tmp_path / "All_Beauty_5.json",
        [
            old_review("A1", "B1", 1500000000, verified=True, style={"Size:": " L"}),
            old_review("A1", "B1", 1500000000, verified=True),  # the release repeats reviews
            old_review("A1", "B2", 1500000001),
        ],
    )
    write(
        tmp_path / "meta_All_Beauty.json",
        [
            {"asin": "B1", "title": "Soap", "brand": "Ona",
             "category": ["Beauty", "Bath &amp; Body"], "price": "$5.99", "rank": []},
            {"asin": "B2", "title": "var aPageStart = (new Date()).getTime();", "category": []},
        ],
    )  # fmt: skip
    raw = read_amazon(tmp_path, "All_Beauty")
    assert raw.source == "Amazon 2018, 5-core, All_Beauty"
    data = prepared(raw, tmp_path)
    assert list(data.item_texts) == [
        "Title: Soap; Brand: Ona; Categories: Beauty > Bath & Body",
        "",
    ]
    assert data.sequence_items.tolist() == [0, 1]
    assert data.meta["card"]["steps"][1]["dropped"] == 1


def test_2023(tmp_path):
    users = [f"AE{k:026d}" for k in range(6)]
    items = [f"B0{k:08d}" for k in range(5)]
    reviews = [
        new_review(user, item, 1588687728923 + 7 * k)
        for k, item in enumerate(reversed(items))
        for user in users
    ]
    write(
        tmp_path / "Video_Games.jsonl.gz", [*reviews, new_review("once", items[0], 1588687728000)]
    )
    write(
        tmp_path / "meta_Video_Games.jsonl.gz",
        [
            {"main_category": "Video Games", "title": f"Game {k}", "store": "Ona",
             "categories": ["Video Games", "PC"], "parent_asin": item, "price": None,
             "details": {"parent_asin": "no"}}
            for k, item in enumerate(items)
        ],
    )  # fmt: skip
    raw = read_amazon(tmp_path)
    assert raw.source == "Amazon 2023 Video_Games"
    data = prepared(raw, tmp_path)
    assert data.num_users == 6  # the whole release is cut to its 5-core, and that is counted
    assert data.meta["card"]["steps"][-1]["dropped"] == 1
    assert data.sequence_items[:5].tolist() == [4, 3, 2, 1, 0]
    assert data.item_texts[0] == "Title: Game 0; Brand: Ona; Categories: Video Games > PC"
    assert data.meta["card"]["time_span"][0].startswith("2020-05-05 14:08:48")


def test_categories_and_places(tmp_path):
    for folder, name in (
        ("raw", "reviews_Toys_and_Games_5"),
        (".", "Video_Games"),
        (".", "Video_Games_5"),
    ):
        write(tmp_path / folder / f"{name}.json", [old_review("A", "B", 1)])
    write(tmp_path / "raw" / "meta_Toys_and_Games.json", ["{'asin': 'B'}"])
    write(tmp_path / "meta_Video_Games.json", ["{'asin': 'B'}"])
    assert (
        find_amazon(tmp_path, "toys").reviews == tmp_path / "raw" / "reviews_Toys_and_Games_5.json"
    )
    chosen = find_amazon(tmp_path, "video_games")
    assert chosen.reviews.name == "Video_Games_5.json"  # the 5-core of the two
    assert chosen.is_core
    with pytest.raises(DataError, match=r"one category must be named .*, got Video_Games, Toys"):
        find_amazon(tmp_path, None)
    with pytest.raises(MissingPathError, match=r"got 'Video_Game'; did you mean Video_Games"):
        find_amazon(tmp_path, "Video_Game")
    (tmp_path / "meta_Video_Games.json").unlink()
    with pytest.raises(MissingPathError, match=r"Video_Games_5\.json without meta_Video_Games"):
        find_amazon(tmp_path, "Video_Games")


def test_no_reviews(tmp_path):
    with pytest.raises(MissingPathError, match="Amazon folder must hold reviews"):
        find_amazon(tmp_path, "beauty")
    write(tmp_path / "Beauty.jsonl", ['{"some": "thing"}'])
    write(tmp_path / "meta_Beauty.jsonl", [{"asin": "B"}])
    with pytest.raises(DataError, match=r"reviews must have reviewerID and asin .*, got some in"):
        read_amazon(tmp_path, "beauty")
    write(tmp_path / "Beauty.jsonl", [""])
    with pytest.raises(DataError, match="got no object at all in"):
        read_amazon(tmp_path, "beauty")

"""The loaders on real data: every count that the data's own description states."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.commands.prepare import prepare_source
from genrec.data.p5_amazon import P5AmazonItemDataset


def test_beauty_counts(beauty):
    lengths = np.diff(beauty.sequence_offsets)
    assert (beauty.num_users, beauty.num_items, beauty.num_interactions) == (
        22_363,
        12_101,
        198_502,
    )
    assert round(lengths.mean(), 2) == 8.88
    assert np.median(lengths) == 6
    # Every prefix of the training part with a target of it: the protocol's 131,413 pairs.
    assert int(np.maximum(beauty.train_ends - beauty.sequence_offsets[:-1] - 1, 0).sum()) == 131_413
    assert beauty.meta["card"]["rejected"] == []


def test_beauty_users_never_repeat_an_item(beauty):
    users = np.repeat(np.arange(beauty.num_users), np.diff(beauty.sequence_offsets))
    pairs = users * beauty.num_items + beauty.sequence_items
    assert len(np.unique(pairs)) == len(pairs)


def test_beauty_ids_are_those_of_the_release(beauty, shared_data):
    first = (shared_data / "amazon/beauty/sequential_data.txt").read_text().splitlines()[1].split()
    start, end = beauty.sequence_offsets[1:3]
    assert (beauty.sequence_items[start:end] + 1).tolist() == [int(item) for item in first[1:]]
    assert beauty.item_keys[0] == "B004756YJA"
    assert beauty.user_keys[0] == "A1YJEY40YUW4SE"
    assert beauty.item_embeddings.shape == (12_101, 384)
    assert beauty.item_embeddings.dtype == np.float16


def test_beauty_texts(beauty):
    without_title = [text for text in beauty.item_texts if "Title: " not in text]
    assert without_title == [
        "Brand: KONAD Nail Art; Categories: Beauty > Tools & Accessories > Nail Tools > "
        "Nail Art Equipment"
    ]
    assert not any("Brand: Unknown" in text for text in beauty.item_texts)
    assert not any("&amp;" in text or "&reg;" in text for text in beauty.item_texts)
    assert any("Brand: WEN® by Chaz Dean" in text for text in beauty.item_texts)
    assert beauty.meta["card"]["items_without_text"] == 0


def test_beauty_popularity_is_the_known_one(beauty):
    """Popularity's test Recall@10 is 0.0114: order and split are those of the literature."""
    parts = [
        beauty.sequence_items[a:b]
        for a, b in zip(beauty.sequence_offsets, beauty.train_ends, strict=False)
    ]
    counts = np.bincount(np.concatenate(parts), minlength=beauty.num_items)
    popular = np.argsort(-counts, kind="stable")[:10]
    recall = np.isin(beauty.sequence_items[beauty.valid_ends], popular).mean()
    assert round(float(recall), 4) == pytest.approx(0.0114, abs=0.0004)


def test_beauty_root_may_be_the_split_itself(beauty, shared_data, tmp_path):
    items = P5AmazonItemDataset(
        shared_data / "amazon" / "beauty",
        "beauty",
        encoder_model_name=str(shared_data / "embeddings" / "beauty.minilm-l6-384.npy"),
        processed_dir=tmp_path,
    )
    assert items.prepared.fingerprint == beauty.fingerprint


def test_movielens_latest_small(shared_data, tmp_path):
    """Five rated movies have no row in ``movies.csv``: they keep their ratings and ids."""
    source = shared_data / "movielens" / "ml-latest-small"
    data = prepare_source(str(source), tmp_path / "out", raw_dir=tmp_path)
    assert (data.num_users, data.num_items, data.num_interactions) == (610, 9_724, 100_836)
    card = data.meta["card"]
    assert card["items_without_metadata"] == 5
    assert card["rejected"] == []
    keys = list(data.item_keys)
    nameless = [keys.index(key) for key in ("6003", "26958", "32600", "64997", "168358")]
    assert {data.item_texts[item] for item in nameless} == {""}
    lines = (source / "ratings.csv").read_text().split()[1:]
    rated = np.array([int(line.split(",")[1]) for line in lines])
    counts = np.bincount(data.sequence_items, minlength=data.num_items)
    assert [counts[i] for i in nameless] == [(rated == int(keys[i])).sum() for i in nameless]
    assert counts[keys.index("1")] == (rated == 1).sum()
    assert data.item_titles[keys.index("1")] == "Toy Story (1995)"


def test_movielens_1m_movies_alone(shared_data, tmp_path):
    data = prepare_source(
        str(shared_data / "movielens" / "ml-1m"),
        tmp_path / "out",
        dataset="ml-1m",
        reader_options={"items_only": True},
        raw_dir=tmp_path,
    )
    assert (data.num_items, data.num_users, data.num_interactions) == (3_883, 0, 0)
    assert data.item_texts[0] == (
        "Title: Toy Story; Year: 1995; Genres: Animation, Children's, Comedy"
    )

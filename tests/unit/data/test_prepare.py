from __future__ import annotations

import collections
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.card import format_card
from genrec.data.files.rejected import RejectedRows
from genrec.data.options import PrepareOptions
from genrec.data.prepare import prepare
from genrec.data.tables import RawTables
from genrec.errors import ConfigError, DataError


class LengthEncoder:
    name = identity = "length"
    cacheable = False

    def encode(self, texts, *, item_keys=None):
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)


def tables(log, items, *, timed=True, rated=True, **more):
    columns = {"user_key": [row[0] for row in log], "item_key": [row[1] for row in log]}
    schema = {"user_key": pl.String, "item_key": pl.String}
    if timed:
        columns["time"], schema["time"] = [row[2] for row in log], pl.Int64
    if rated:
        columns["rating"], schema["rating"] = [row[3] for row in log], pl.Float32
    return RawTables(
        name="test",
        source="a test",
        interactions=pl.DataFrame(columns, schema=schema),
        items=pl.DataFrame(
            items,
            schema={"item_key": pl.String, "title": pl.String, "brand": pl.String},
            orient="row",
        ),
        text_template="Title: {title}; Brand: {brand}",
        **more,
    )


def run(raw, tmp_path, **options):
    return prepare(
        raw, tmp_path / "out", encoder=LengthEncoder(), options=PrepareOptions(**options)
    )


def histories(prepared):
    """Read the arrays back into the source's keys."""
    items, users = list(prepared.item_keys), list(prepared.user_keys)
    return {
        user: [items[i] for i in prepared.sequence_items[a:b]]
        for user, a, b in zip(
            users, prepared.sequence_offsets, prepared.sequence_offsets[1:], strict=False
        )
    }


LOG = [
    ("u1", "b", 30, 5.0),
    ("u1", "a", 10, 4.0),
    ("u1", "c", 20, 1.0),
    ("u2", "c", 10, None),
    ("u2", "c", 10, 3.0),
    ("u2", "a", 10, 3.0),
    ("u2", "c", 40, 3.0),
]
ITEMS = [
    ("a", "Apple &amp; Co", None),
    ("b", "Bread", "Ona"),
    ("c", "Corn", "Ulm"),
    ("c", "Corn", ""),
    ("z", "Unseen", "Ona"),
]


def test_the_way_by_hand(tmp_path):
    prepared = run(tables(LOG, ITEMS), tmp_path)
    assert histories(prepared) == {"u1": ["a", "c", "b"], "u2": ["a", "c", "c"]}
    assert list(prepared.item_texts) == [
        "Title: Apple & Co", "Title: Bread; Brand: Ona", "Title: Corn; Brand: Ulm",
    ]  # fmt: skip
    assert list(prepared.item_titles) == ["Apple & Co", "Bread", "Corn"]
    assert prepared.item_embeddings[:, 0].tolist() == [len(t) for t in prepared.item_texts]
    card = prepared.meta["card"]
    assert [(s["step"], s["interactions"], s["dropped"]) for s in card["steps"]] == [
        ("read", 7, 0), ("one of equal user, item and time", 6, 1),
    ]  # fmt: skip
    assert card["repeated_metadata_rows"] == 1
    assert card["metadata_rows_of_other_items"] == 1
    assert card["interactions_by_part"] == {"train": 2, "valid": 2, "test": 2}
    assert card["time_span"] == ["1970-01-01 00:00:10 UTC", "1970-01-01 00:00:40 UTC"]
    assert card["density"] == 1.0
    assert card["history_length"]["median"] == 3
    assert card["order"] == "by time; at the same time by item id"


def test_every_option(tmp_path):
    def kept(**options):
        return histories(run(tables(LOG, ITEMS), tmp_path, **options))

    assert kept(min_rating=3) == {"u1": ["a", "b"], "u2": ["a", "c", "c"]}
    assert kept(repeats="first") == {"u1": ["a", "c", "b"], "u2": ["a", "c"]}
    assert kept(ties="file") == {"u1": ["a", "c", "b"], "u2": ["c", "a", "c"]}
    assert kept(min_item_interactions=2) == {"u1": ["a", "c"], "u2": ["a", "c", "c"]}
    assert kept(min_user_interactions=3, repeats="last") == {"u1": ["a", "c", "b"]}
    unseen = run(tables(LOG, ITEMS), tmp_path, keep_unseen_items=True)
    assert list(unseen.item_keys) == ["a", "b", "c", "z"]
    assert unseen.meta["card"]["items_without_interactions"] == 1
    assert histories(unseen) == histories(run(tables(LOG, ITEMS), tmp_path))
    text = run(tables(LOG, ITEMS), tmp_path, text_template="{brand} {title}")
    assert list(text.item_texts) == ["", "Ona Bread", "Ulm Corn"]
    assert text.meta["card"]["items_without_text"] == 1
    cut = run(
        tables(LOG, ITEMS), tmp_path, split_rule="global-time", valid_share=0.2, test_share=0.2
    )
    # Times 10, 10, 10, 20, 30, 40: training before 30, validation before 40.
    assert (cut.train_ends - cut.sequence_offsets[:-1]).tolist() == [2, 2]
    assert (cut.valid_ends - cut.sequence_offsets[:-1]).tolist() == [3, 2]


def test_items_without_metadata_keep_their_interactions(tmp_path):
    prepared = run(tables(LOG, ITEMS[:2]), tmp_path)
    assert histories(prepared) == {"u1": ["a", "c", "b"], "u2": ["a", "c", "c"]}
    assert prepared.item_texts[2] == ""
    assert prepared.item_titles[2] == "c"
    assert prepared.meta["card"]["items_without_metadata"] == 1
    assert prepared.meta["card"]["share_of_items_without_text"] == pytest.approx(1 / 3, abs=1e-6)


def test_the_longest_text_of_an_item_wins_in_any_order(tmp_path):
    rows = [("a", "Tin", None), ("a", "Tin can", "Ona"), ("a", "Tea can", "Ona")]
    for order in (rows, rows[::-1], [rows[1], rows[0], rows[2]]):
        prepared = run(tables([("u", "a", 1, 1.0)], order), tmp_path)
        assert list(prepared.item_texts) == ["Title: Tea can; Brand: Ona"]
        assert prepared.item_titles[0] == "Tea can"


def test_vectors_of_the_source_follow_their_rows(tmp_path):
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    prepared = run(tables(LOG, ITEMS, vectors=vectors), tmp_path)
    assert prepared.item_embeddings.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert prepared.meta["encoder"] == "the source's own vectors"
    with pytest.raises(DataError, match=r"a vector, got none for 1 items, the first 'c'"):
        run(tables(LOG, ITEMS[:2], vectors=vectors[:2]), tmp_path)


def test_an_order_fixed_by_the_release_is_kept(tmp_path):
    raw = tables(
        LOG,
        ITEMS,
        user_order=pl.Series(["u3", "u2", "u1"]),
        item_order=pl.Series(["z", "c", "b", "a"]),
    )
    prepared = run(raw, tmp_path)
    assert list(prepared.item_keys) == ["z", "c", "b", "a"]
    assert list(prepared.user_keys) == ["u2", "u1"]
    assert histories(prepared) == {"u2": ["c", "a", "c"], "u1": ["a", "c", "b"]}
    filtered = run(raw, tmp_path, min_item_interactions=2)
    assert list(filtered.item_keys) == ["c", "a"]


def test_a_source_may_ask_for_a_core_and_options_overrule_it(tmp_path):
    raw = tables(LOG, ITEMS, min_interactions=2)
    assert list(run(raw, tmp_path).item_keys) == ["a", "c"]
    assert list(run(raw, tmp_path, min_item_interactions=0).item_keys) == ["a", "b", "c"]


def test_rows_without_a_rating_are_counted_apart(tmp_path):
    data = run(tables(LOG, ITEMS), tmp_path, min_rating=3)
    named = {step["step"]: step["interactions"] for step in data.meta["card"]["steps"]}
    assert named["read"] == 7
    assert named["with a rating, which min_rating needs"] == 6
    assert named["rating at least 3"] == 5


@pytest.mark.parametrize(
    ("raw", "options", "message"),
    [
        ({}, {"min_rating": 9}, "keep at least one interaction, got 0 of 7"),
        ({"rated": False}, {"min_rating": 3}, "interactions with a rating, got none"),
        ({"timed": False}, {"split_rule": "global-time"}, "interactions with a time, got none"),
        ({}, {"text_template": "{brnd}"}, r"got 'brnd'; did you mean brand\?"),
    ],
)
def test_options_that_the_source_cannot_meet(tmp_path, raw, options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        run(tables(LOG, ITEMS, **raw), tmp_path, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"split_rule": "leave-two-out"},
            "split_rule must be one of .*; did you mean leave-one-out",
        ),
        ({"repeats": "none"}, "repeats must be one of all, first, last, got 'none'"),
        ({"ties": "random"}, "ties must be one of item, file, got 'random'"),
        ({"min_user_interactions": -1}, "min_user_interactions must be >= 0, got -1"),
    ],
)
def test_options_that_do_not_exist(options, message):
    with pytest.raises(ConfigError, match=message):
        PrepareOptions(**options)


def test_ids_that_never_meet(tmp_path):
    with pytest.raises(DataError, match="use the same ids, got 'a' in the interactions and 'I-1'"):
        run(tables(LOG, [("I-1", "x", "y")]), tmp_path)


KEYS = st.sampled_from(["1", "2", "10", "a", "b", "é", "007"])
RATINGS = st.one_of(st.none(), st.integers(1, 5).map(float))


@settings(max_examples=40, deadline=None)
@given(
    log=st.lists(st.tuples(KEYS, KEYS, st.integers(0, 6), RATINGS), min_size=1, max_size=50),
    known=st.sets(KEYS, min_size=1),
    min_rating=st.sampled_from([None, 2.0, 4.0]),
    core=st.integers(0, 3),
    repeats=st.sampled_from(["all", "first", "last"]),
    seed=st.integers(0, 9),
)
def test_nothing_is_lost_or_invented_and_rows_may_be_shuffled(
    tmp_path_factory, log, known, min_rating, core, repeats, seed
):
    """Between raw rows and arrays lies what the card counts, and nothing else."""
    path = tmp_path_factory.mktemp("property")
    items = [(key, f"Item {key}", None) for key in sorted(known)]
    if not known & {item for _, item, _, _ in log}:
        items.append((log[0][1], "there", None))
    options = {
        "min_rating": min_rating,
        "min_user_interactions": core,
        "min_item_interactions": core,
        "repeats": repeats,
    }
    expected = [row for row in log if min_rating is None or (row[3] or 0) >= min_rating]
    expected = sorted({row[:3] for row in expected}, key=lambda row: row[2])
    survivors = reference_filters(expected, core, repeats)
    used = {item for _, item, _ in survivors}
    if not survivors or not used & {key for key, _, _ in items}:
        with pytest.raises(DataError):
            run(tables(log, items), path, **options)
        return
    prepared = run(tables(log, items), path, **options)
    card = prepared.meta["card"]
    got = collections.Counter(
        (user, item) for user, history in histories(prepared).items() for item in history
    )
    assert got == collections.Counter((user, item) for user, item, _ in survivors)
    # Each step accounts for the difference to the one before.
    steps = card["steps"]
    assert steps[0]["interactions"] == len(log)
    assert len(log) - sum(step["dropped"] for step in steps) == prepared.num_interactions
    assert steps[-1]["interactions"] == prepared.num_interactions == len(survivors)
    assert steps[-1]["users"] == prepared.num_users
    assert steps[-1]["items"] == prepared.num_items
    # Time order, and the stated rule at the same time.
    times = {(user, item): [] for user, item, _ in survivors}
    for user, item, time in survivors:
        times[user, item].append(time)
    number = {key: i for i, key in enumerate(prepared.item_keys)}
    for user, history in histories(prepared).items():
        rule = sorted(
            ((t, number[i]) for (u, i), ts in times.items() if u == user for t in ts)
        )  # fmt: skip
        assert [number[item] for item in history] == [item for _, item in rule]
    shuffled = random.Random(seed).sample(log, len(log))
    other = run(tables(shuffled, items[::-1]), path, **options)
    assert other.fingerprint == prepared.fingerprint


def reference_filters(rows, core, repeats):
    """The filters after the removal of duplicates, written plainly."""
    if repeats != "all":
        kept = {}
        # At the same time nothing repeats: duplicates are gone.
        for row in rows if repeats == "last" else rows[::-1]:
            kept[row[:2]] = row
        rows = list(kept.values())
    while core > 1:
        users = collections.Counter(user for user, _, _ in rows)
        items = collections.Counter(item for _, item, _ in rows)
        left = [row for row in rows if users[row[0]] >= core and items[row[1]] >= core]
        if len(left) == len(rows):
            break
        rows = left
    return rows


def test_card_in_words(tmp_path):
    rejected = RejectedRows()
    rejected.add_lines("log.csv", "time is no time", np.arange(3, 12))
    rejected.add("items.csv", "no item", line=7)
    rejected.repaired("items.csv", "not UTF-8, read as Latin-1", line=9)
    prepared = run(tables(LOG, ITEMS, rejected=rejected), tmp_path)
    text = format_card(prepared.meta["card"])
    assert "test: a test" in text
    assert "one of equal user, item and time" in text
    assert "rejected rows: 10" in text
    assert "  9 of log.csv: time is no time (line 3, 4, 5, 6, 7, ...)" in text
    assert "  1 of items.csv: no item (line 7)" in text
    assert "repaired rows: 1" in text
    assert "time span: 1970-01-01 00:00:10 UTC to 1970-01-01 00:00:40 UTC" in text
    assert "history length: min 3" in text


def test_other_files_are_never_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(
        ConfigError,
        match=r"or hold a prepared data set and nothing else, got .* with 'mine.txt'",
    ):
        run(tables(LOG, ITEMS), tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]

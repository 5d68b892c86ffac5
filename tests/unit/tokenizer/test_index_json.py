"""The exchange format, our own files and those of other projects."""

from __future__ import annotations

import json

import numpy as np
import pytest

from genrec.errors import ArtifactError, ConfigError, DataError, MissingPathError
from genrec.tokenizer.index_json import read_index_json, write_index_json
from genrec.tokenizer.semantic_id import SemanticIdTokenizer


def dump(path, table) -> str:
    path.write_text(json.dumps(table), encoding="utf-8")
    return str(path)


def test_file_is_what_other_projects_read(tmp_path):
    write_index_json(tmp_path / "x.index.json", np.array([[236, 231, 226], [0, 1, 2]]))
    assert json.loads((tmp_path / "x.index.json").read_text()) == {
        "0": ["<a_236>", "<b_231>", "<c_226>"],
        "1": ["<a_0>", "<b_1>", "<c_2>"],
    }


@pytest.mark.parametrize("num_levels", [1, 3, 5])
def test_round_trip(tmp_path, num_levels, monkeypatch):
    monkeypatch.setattr("genrec.tokenizer.index_json._BLOCK_ITEMS", 7)  # several blocks
    ids = np.random.default_rng(0).integers(0, 300, (40, num_levels))
    write_index_json(tmp_path / "x.json", ids)
    read, prefixes = read_index_json(tmp_path / "x.json")
    assert np.array_equal(read, ids)
    assert prefixes == list("abcde")[:num_levels]


def test_names_with_quotes_and_accents(tmp_path):
    names = ['crème "brûlée"', "new\nline", "日本"]
    ids = np.array([[1], [2], [3]])
    write_index_json(tmp_path / "x.json", ids, names=names)
    read, _ = read_index_json(tmp_path / "x.json", item_keys=names[::-1], keyed_by="key")
    assert read.tolist() == [[3], [2], [1]]


def test_foreign_prefixes_and_order_of_the_file(tmp_path):
    path = dump(
        tmp_path / "x.json",
        {
            "2": ["<level_one_5>", "<L2_0>", "<|c|_7>", "<x_0>"],
            "0": ["<level_one_1>", "<L2_3>", "<|c|_9>", "<x_0>"],
            "1": ["<level_one_1>", "<L2_3>", "<|c|_9>", "<x_1>"],
        },
    )
    ids, prefixes = read_index_json(path)
    assert ids.tolist() == [[1, 3, 9, 0], [1, 3, 9, 1], [5, 0, 7, 0]]
    assert prefixes == ["level_one", "L2", "|c|", "x"]


def test_item_keys_give_the_order(tmp_path):
    path = dump(tmp_path / "x.json", {"B01": ["<a_1>"], "B00": ["<a_0>"], "B02": ["<a_2>"]})
    ids, _ = read_index_json(path, item_keys=["B02", "B00", "B01"])
    assert ids.flatten().tolist() == [2, 0, 1]


def test_row_numbers_win_over_keys_that_are_something_else(tmp_path):
    path = dump(tmp_path / "x.json", {"0": ["<a_7>"], "1": ["<a_8>"]})
    ids, _ = read_index_json(path, item_keys=["B00", "B01"])
    assert ids.flatten().tolist() == [7, 8]


def test_names_that_are_rows_and_keys_at_once_need_a_word(tmp_path):
    path = dump(tmp_path / "x.json", {"0": ["<a_7>"], "1": ["<a_8>"]})
    with pytest.raises(ConfigError, match="names that are both; say keyed_by='row'"):
        read_index_json(path, item_keys=["1", "0"])
    assert read_index_json(path, item_keys=["1", "0"], keyed_by="row")[0].tolist() == [[7], [8]]
    assert read_index_json(path, item_keys=["1", "0"], keyed_by="key")[0].tolist() == [[8], [7]]
    assert read_index_json(path, item_keys=["0", "1"])[0].tolist() == [[7], [8]]


def test_missing_items_are_counted_and_named(tmp_path):
    path = dump(tmp_path / "x.json", {"B01": ["<a_1>"], "B09": ["<a_0>"]})
    with pytest.raises(
        DataError, match=r"each of the 3 items .* 2 missing \(first: B00, B02\) and 1 unknown"
    ):
        read_index_json(path, item_keys=["B00", "B01", "B02"])
    gap = dump(tmp_path / "gap.json", {"0": ["<a_1>"], "2": ["<a_1>"]})
    with pytest.raises(DataError, match=r"row numbers, .*1 missing \(first: 1\) and 1 unknown"):
        read_index_json(gap)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({}, "must be one object .* with none"),
        ([["<a_1>"]], "must be one object .* with list"),
        ({"0": "<a_1>"}, "list of some tokens, got '<a_1>' for item 0"),
        ({"0": []}, r"list of some tokens, got \[\] for item 0"),
        ({"0": ["<a_1>"], "1": ["<a_1>", "<b_1>"]}, "list of 1 tokens, got .* for item 1"),
        ({"0": ["<a_1>"], "1": ["a_1"]}, "must look like <a_12>, got 'a_1' for item 1"),
        ({"0": ["<a_-1>"]}, "must look like <a_12>, got '<a_-1>' for item 0"),
        ({"0": [12]}, "must look like <a_12>, got 12 for item 0"),
        ({"0": ["<a_99999999999>"]}, "must look like <a_12>, got '<a_99999999999>'"),
        (
            {"0": ["<a_1>", "<b_1>"], "1": ["<b_1>", "<a_1>"]},
            "level 1 must share one prefix, got 'a' and 'b' for item 1",
        ),
    ],
)
def test_files_of_another_format(tmp_path, table, match):
    with pytest.raises(DataError, match=match):
        read_index_json(dump(tmp_path / "x.json", table))


def test_unreadable_files(tmp_path):
    with pytest.raises(MissingPathError, match="index file must exist"):
        read_index_json(tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"0": ["<a_')
    with pytest.raises(DataError, match="index file must be JSON"):
        read_index_json(tmp_path / "cut.json")
    with pytest.raises(ConfigError, match="must be auto, row or key, got 'asin'"):
        read_index_json(tmp_path / "cut.json", keyed_by="asin")
    with pytest.raises(ConfigError, match="must come with item_keys"):
        read_index_json(dump(tmp_path / "x.json", {"0": ["<a_0>"]}), keyed_by="key")


def test_imported_table_feeds_stage_two(tmp_path):
    path = dump(tmp_path / "x.json", {"0": ["<a_3>", "<b_0>"], "1": ["<a_1>", "<b_9>"]})
    table = SemanticIdTokenizer.from_index_json(path, item_keys=["B00", "B01"])
    assert table.level_sizes == (4, 10)
    assert table.policy == "imported"
    assert not table.has_dedup_digit
    assert list(table.item_keys) == ["B00", "B01"]
    wider = SemanticIdTokenizer.from_index_json(path, level_sizes=(256, 256))
    assert wider.level_sizes == (256, 256)
    with pytest.raises(ArtifactError, match=r"level 2 must lie in \[0, 8\), got 0 to 9"):
        SemanticIdTokenizer.from_index_json(path, level_sizes=(8, 8))


def test_export_by_key_and_import_again(tmp_path):
    table = SemanticIdTokenizer([[3, 0], [1, 9]], level_sizes=(4, 10), item_keys=["x", "y"])
    table.export_index_json(tmp_path / "x.index.json", keyed_by="key")
    assert set(json.loads((tmp_path / "x.index.json").read_text())) == {"x", "y"}
    again = SemanticIdTokenizer.from_index_json(
        tmp_path / "x.index.json", item_keys=table.item_keys, level_sizes=table.level_sizes
    )
    assert again.fingerprint == table.fingerprint
    with pytest.raises(ConfigError, match="must be row or key, got 'title'"):
        table.export_index_json(tmp_path / "y.json", keyed_by="title")

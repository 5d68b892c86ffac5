"""The pieces of ``scripts/cold_start.py``: what is held out, and the rankers beside the model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "scripts"


@pytest.fixture(scope="module")
def cold():
    sys.path.insert(0, str(SCRIPTS))
    try:
        found = importlib.util.spec_from_file_location("cold_start", SCRIPTS / "cold_start.py")
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


@pytest.fixture
def data(tmp_path, write_data):
    vectors = np.array([[1, 0], [0, 1], [1, 0.1], [0, 0.9], [0.7, 0.7]], dtype=np.float32)
    sequences = [[0, 1, 2, 3], [2, 4, 0, 1], [1, 3, 3, 0]]
    return write_data(tmp_path / "data", [*"abcde"], vectors, sequences)


def test_held_out_items_leave_catalogue_and_histories(cold, data, tmp_path):
    warm = cold.without_items(data, np.array([1, 3]), tmp_path / "warm")
    assert list(warm.item_keys) == [*"ace"]
    assert warm.sequence_items.tolist() == [0, 1, 1, 2, 0, 0]
    assert warm.sequence_offsets.tolist() == [0, 2, 5, 6]
    # Who was asked about on test before is so still, unless his item is gone.
    assert warm.train_ends.tolist() == [1, 4, 5]
    assert warm.valid_ends.tolist() == [2, 5, 5]
    assert np.array_equal(warm.item_embeddings, data.item_embeddings[[0, 2, 4]])


def test_draws_repeat(cold):
    drawn = cold.draw(1000, 0.05, 0)
    assert len(drawn) == 50
    assert (np.diff(drawn) > 0).all()
    assert np.array_equal(drawn, cold.draw(1000, 0.05, 0))
    assert not np.array_equal(drawn, cold.draw(1000, 0.05, 1))


def test_popularity_knows_nothing_of_new_items(cold, data):
    rank = cold.by_popularity(data, np.array([1, 3]))
    assert rank([np.array([0])], None)[0].tolist() == [0, 2, 4, 1, 3]
    assert rank([np.array([0])] * 2, np.array([1, 3])).tolist() == [[1, 3]] * 2


def test_text_finds_the_nearest_of_the_newest(cold, data):
    histories = [np.array([1, 0]), np.array([0, 1])]
    last = cold.by_text(data, 1)(histories, None)
    assert last[:, 0].tolist() == [2, 3]
    assert last[:, -1].tolist() == [0, 1]  # the item itself stands last
    assert cold.by_text(data, 2)(histories, None)[0, 0] == 4
    assert cold.by_text(data, 1)(histories, np.array([1, 3]))[0].tolist() == [1, 3]

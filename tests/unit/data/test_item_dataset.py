from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.data.item_dataset import ItemData
from genrec.errors import ConfigError, DataError

ROWS = np.arange(40, dtype=np.float16).reshape(20, 2)


def test_all_items_as_float32():
    items = ItemData(ROWS)
    assert len(items) == 20
    assert items.dim == 2
    assert items[3].dtype == torch.float32
    assert items[3].tolist() == [6, 7]
    assert torch.equal(items.tensor(), torch.from_numpy(ROWS.astype(np.float32)))
    assert items.item_ids.tolist() == list(range(20))


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_gather_reads_many_rows(kind):
    items = ItemData(ROWS, train_test_split="train", val_ratio=0.25)
    rows = items.gather(kind([4, 0, 4]))
    assert torch.equal(rows, torch.stack([items[4], items[0], items[4]]))


def test_train_and_eval_share_the_items_out():
    parts = [ItemData(ROWS, train_test_split=p, val_ratio=0.2, seed=3) for p in ("train", "eval")]
    assert [len(part) for part in parts] == [16, 4]
    both = np.concatenate([part.item_ids for part in parts])
    assert sorted(both.tolist()) == list(range(20))
    again = ItemData(ROWS, train_test_split="eval", val_ratio=0.2, seed=3)
    other = ItemData(ROWS, train_test_split="eval", val_ratio=0.2, seed=4)
    assert np.array_equal(parts[1].item_ids, again.item_ids)
    assert not np.array_equal(parts[1].item_ids, other.item_ids)


def test_a_tiny_share_still_leaves_an_item_on_both_sides():
    assert len(ItemData(ROWS[:2], train_test_split="eval", val_ratio=0.01)) == 1
    assert len(ItemData(ROWS[:2], train_test_split="train", val_ratio=0.99)) == 1


def test_a_row_is_a_copy():
    rows = ROWS.astype(np.float32)
    ItemData(rows)[0][0] = 99.0
    ItemData(rows).gather([0])[0, 0] = 99.0
    assert rows[0, 0] == 0


def test_errors():
    with pytest.raises(ConfigError, match="must be all, train or eval, got 'test'"):
        ItemData(ROWS, train_test_split="test")
    with pytest.raises(ConfigError, match=r"val_ratio must lie between 0 and 1, got 1\.0"):
        ItemData(ROWS, train_test_split="eval", val_ratio=1.0)
    with pytest.raises(DataError, match=r"must have shape \(items, dim\), got \(20,\)"):
        ItemData(ROWS[:, 0])
    with pytest.raises(DataError, match="at least 2 to hold some out, got 1"):
        ItemData(ROWS[:1], train_test_split="eval")

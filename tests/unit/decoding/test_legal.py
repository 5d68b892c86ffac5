"""Restrictions: what is listed for whom, by hand and against sets."""

from __future__ import annotations

import pytest
import torch

from genrec.decoding.legal import ItemFilter, ItemSets, LegalSet, SharedAllowList, UserNodes
from genrec.errors import DataError

LISTED = torch.tensor([[3, 0, 3], [-1, -1, -1], [4, -1, 1]])


def test_lists_are_sets_of_each_user() -> None:
    sets = ItemSets(LISTED, 5)
    users, items = sets.pairs()
    pairs = list(zip(users.tolist(), items.tolist(), strict=True))
    assert pairs == [(0, 0), (0, 3), (2, 1), (2, 4)]
    asked = torch.arange(5).expand(3, -1)
    found = [[(user, item) in pairs for item in range(5)] for user in range(3)]
    assert sets.contains(asked).tolist() == found
    assert ItemFilter(sets=sets, keep=True).allows(asked).tolist() == found
    assert ItemFilter(sets=sets).allows(asked).tolist() == [[not x for x in row] for row in found]


@pytest.mark.parametrize("num_items", [6, 100_000])  # marks for all of them, and bisection
def test_few_items_and_many_are_looked_up_alike(num_items) -> None:
    listed = torch.randint(-1, num_items, (4, 5), generator=torch.Generator().manual_seed(0))
    listed[1] = -1
    asked = torch.cat([listed.clamp(min=0), torch.tensor([[0, num_items - 1]] * 4)], dim=1)
    sets = [set(row) - {-1} for row in listed.tolist()]
    found = [[item in sets[user] for item in row] for user, row in enumerate(asked.tolist())]
    assert ItemSets(listed, num_items).contains(asked).tolist() == found


@pytest.mark.parametrize("num_items", [5, 100_000])
@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (2, 0)])
def test_nothing_listed(shape, num_items) -> None:
    sets = ItemSets(torch.full(shape, -1), num_items)
    assert [len(part) for part in sets.pairs()] == [0, 0]
    asked = torch.zeros(shape[0], 2, dtype=torch.long)
    assert not sets.contains(asked).any()
    assert sets.contains(asked).shape == asked.shape
    assert ItemFilter(sets=sets).allows(asked).all()


def test_lists_are_checked() -> None:
    with pytest.raises(DataError, match=r"must have shape \(B, E\), got \(2,\); pad with -1"):
        ItemSets(torch.tensor([0, 1]), 5)
    with pytest.raises(DataError, match=r"must have shape \(B, E\), got \(1, 1, 1\)"):
        ItemSets(torch.zeros(1, 1, 1, dtype=torch.long), 5)
    with pytest.raises(DataError, match=r"item ids must lie in \[0, 5\), got 5; look them up"):
        ItemSets(torch.tensor([[5, -1]]), 5)
    assert ItemSets(torch.tensor([[4]]), 5).pairs()[1].tolist() == [4]


def test_a_place_without_an_item_counts_as_item_zero() -> None:
    asked = torch.tensor([[-1, 1]])
    assert ItemFilter(torch.tensor([True, False])).allows(asked).tolist() == [[True, False]]
    assert ItemFilter(torch.tensor([False, True])).allows(asked).tolist() == [[False, True]]
    only_first = ItemFilter(sets=ItemSets(torch.tensor([[0]]), 2), keep=True)
    assert only_first.allows(asked).tolist() == [[True, False]]


@pytest.mark.parametrize("keep", [True, False])
def test_states_of_users_in_any_shape(keep) -> None:
    keys = UserNodes.pack(torch.tensor([1, 0, 1, 1]), torch.tensor([2, 1, 0, 2]), 3)
    assert keys.tolist() == [1, 3, 5]
    nodes = UserNodes([torch.empty(0, dtype=torch.long), keys], (1, 3), keep=keep)
    flat = torch.tensor([[0, 1, 2], [0, 1, 2]])
    listed = torch.tensor([[False, True, False], [True, False, True]])
    assert nodes.allows(flat, 1).tolist() == (listed == keep).tolist()
    wide = flat.unsqueeze(1).expand(-1, 4, -1)
    expected = (listed == keep).unsqueeze(1).expand(-1, 4, -1)
    assert nodes.allows(wide, 1).tolist() == expected.tolist()
    assert nodes.allows(torch.tensor([1, 1]), 1).tolist() == [keep, not keep]
    assert nodes.allows(torch.zeros(2, 1, dtype=torch.long), 0).tolist() == [[not keep]] * 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_joined_restrictions_all_hold(count) -> None:
    masks = [
        torch.tensor([True, False, True, True]),
        torch.tensor([True, True, False, True]),
        torch.tensor([False, True, True, True]),
    ][:count]
    parts = [LegalSet(((SharedAllowList([mask, ~mask]), ItemFilter(mask)),)) for mask in masks]
    legal = parts[0]
    for part in parts[1:]:
        legal = legal & part
    asked = torch.arange(4).expand(2, -1)
    both = [all(bool(mask[item]) for mask in masks) for item in range(4)]
    neither = [not any(bool(mask[item]) for mask in masks) for item in range(4)]
    assert legal.allows_items(asked).tolist() == [both] * 2
    assert legal.allows(asked, 0).tolist() == [both] * 2
    assert legal.allows(asked, 1).tolist() == [neither] * 2

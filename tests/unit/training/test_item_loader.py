from __future__ import annotations

import pytest
import torch

from genrec.errors import ConfigError, DataError
from genrec.training.item_loader import ItemLoader


def items(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float16)[:, None]


def test_an_epoch_holds_every_item_and_is_filled_from_its_beginning() -> None:
    loader = ItemLoader(items(10), batch_size=4, seed=1)
    batches = list(loader.batches(0))
    rows = torch.cat([batch.rows for batch in batches])
    assert len(batches) == len(loader) == 3
    assert sorted(rows[:10].tolist()) == list(range(10))
    assert rows[10:].tolist() == rows[:2].tolist()
    for batch in batches:
        assert batch.x.dtype == torch.float32
        assert batch.x[:, 0].tolist() == batch.rows.tolist()


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(
            [b.rows for b in ItemLoader(items(50), batch_size=50, seed=seed).batches(epoch)]
        ).tolist()

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


def test_a_resumed_epoch_goes_on_where_it_stopped() -> None:
    loader = ItemLoader(items(10), batch_size=3)
    whole = [batch.rows.tolist() for batch in loader.batches(2)]
    assert [batch.rows.tolist() for batch in loader.batches(2, start=2)] == whole[2:]
    assert list(loader.batches(2, start=4)) == []


def test_processes_share_an_epoch() -> None:
    loaders = [
        ItemLoader(items(24), batch_size=4, process_index=i, num_processes=2) for i in range(2)
    ]
    rows = [torch.cat([b.rows for b in loader.batches(0)]).tolist() for loader in loaders]
    assert len(rows[0]) == len(rows[1]) == 12
    assert sorted(rows[0] + rows[1]) == list(range(24))


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 4), (2, 2), (4, 1)])
def test_who_takes_the_shards_of_a_step_changes_none(processes: int, accumulate: int) -> None:
    each = [
        ItemLoader(
            items(50),
            batch_size=3,
            process_index=i,
            num_processes=processes,
            accumulate=accumulate,
        )
        for i in range(processes)
    ]
    shards = [b.rows for pair in zip(*(x.batches(2) for x in each), strict=True) for b in pair]
    together = [b.rows for b in ItemLoader(items(50), batch_size=12).batches(2)]
    assert torch.cat(shards).equal(torch.cat(together))
    assert len(shards) == 4 * len(together)


def test_two_processes_see_the_batches_of_one() -> None:
    together = ItemLoader(items(24), batch_size=4)
    apart = [
        ItemLoader(items(24), batch_size=2, process_index=i, num_processes=2) for i in range(2)
    ]
    parts = zip(*(loader.batches(1) for loader in apart), strict=True)
    for whole, (first, second) in zip(together.batches(1), parts, strict=True):
        assert whole.rows.tolist() == first.rows.tolist() + second.rows.tolist()


def test_fewer_items_than_a_batch() -> None:
    assert [b.rows.tolist() for b in ItemLoader(items(1), batch_size=8).batches(0)] == [[0]]
    sizes = [
        len(batch.rows)
        for index in range(2)
        for batch in ItemLoader(
            items(3), batch_size=8, process_index=index, num_processes=2
        ).batches(0)
    ]
    assert sizes == [2, 2]


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(DataError, match="needs at least one item, got none"):
        ItemLoader(items(0), batch_size=4)
    with pytest.raises(ConfigError, match="batch_size must be >= 1, got 0"):
        ItemLoader(items(4), batch_size=0)

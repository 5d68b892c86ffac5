"""Batches: nothing lost, nothing twice, the same for any number of processes, little padding."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.batching import EvaluationBatches, TokenTable, TrainingBatches, length_buckets
from genrec.data.schemas import SequenceBatch
from genrec.data.sequence_dataset import SeqData, user_buckets
from genrec.errors import ConfigError

MODES = ("bucketed", "packed", "padded")


@pytest.fixture(scope="module")
def train(tiny_data) -> SeqData:
    """60 users of 1 to 30 items, numbered through, so that an item is an interaction."""
    rng = np.random.default_rng(1)
    sequences, start = [], 0
    for length in rng.integers(1, 31, 60):
        sequences.append(list(range(start, start + length)))
        start += length
    return SeqData(tiny_data(sequences), "train", max_history=10)


def targets_of(loader: TrainingBatches, epoch: int, start: int = 0) -> list[list[int]]:
    """Target interactions of each batch."""
    return [
        sorted(batch.targets[batch.targets >= 0].tolist()) for batch in loader.batches(epoch, start)
    ]


def loader(train: SeqData, **options) -> TrainingBatches:
    return TrainingBatches(train, **{"batch_size": 8, "pool": 4, **options})


def test_the_table_looks_codes_and_users_up():
    table = TokenTable(np.array([[3, 1], [2, 2]], dtype=np.int32), torch.tensor([7, 5]))
    history = torch.tensor([[0, 1, -1]])
    batch = SequenceBatch(history, torch.tensor([[1]]), torch.tensor([1]), padded=True)
    found = table.tokenize(batch)
    assert found.history.tolist() == [[[3, 1], [2, 2], [-1, -1]]]
    assert found.targets.tolist() == [[[2, 2]]]
    assert found.user_ids.tolist() == [5]
    assert (found.padded, found.packed) == (True, False)


def test_the_table_hashes_the_users_of_its_data(train):
    table = TokenTable.build(train, np.zeros((train.data.num_items, 2)), num_users=50)
    assert table.users is not None
    assert table.users.tolist() == user_buckets(train.user_hashes, 50).tolist()
    assert TokenTable.build(train, np.zeros((train.data.num_items, 2))).users is None


@pytest.mark.parametrize("mode", MODES)
def test_an_epoch_holds_every_target_once_but_for_the_last_batch(train, mode):
    batches = loader(train, mode=mode)
    found = Counter(target for batch in targets_of(batches, 0) for target in batch)
    assert set(found.values()) == {1}
    every = set(train.targets.tolist())
    assert set(found) <= every
    rows = len(batches.sizes)
    assert len(batches) == rows // 8
    if mode != "packed":
        assert len(every) - len(found) == rows % 8
    # What one epoch leaves out, others bring.
    for epoch in range(1, 6):
        found.update(target for batch in targets_of(batches, epoch) for target in batch)
    assert set(found) == every


@pytest.mark.parametrize("mode", MODES)
def test_histories_are_those_before_the_target(train, mode):
    for batch in loader(train, mode=mode).batches(0):
        history, targets = batch.history, batch.targets
        assert batch.packed == (mode == "packed")
        assert batch.padded == bool((history < 0).any())
        for row in range(len(history)):
            items = history[row][history[row] >= 0].tolist()
            for place, target in enumerate(targets[row].tolist()):
                if target >= 0:
                    before = items[: place + 1] if batch.packed else items
                    assert before == list(range(target - len(before), target))
        if mode == "packed":
            assert batch.live.tolist() == (targets.flatten() >= 0).nonzero().flatten().tolist()


@pytest.mark.parametrize("mode", MODES)
def test_order_depends_on_seed_and_epoch_alone(train, mode):
    first = loader(train, mode=mode, seed=3)
    again = loader(train, mode=mode, seed=3)
    assert targets_of(first, 2) == targets_of(again, 2)
    assert targets_of(first, 2) != targets_of(first, 3)
    assert targets_of(first, 2) != targets_of(loader(train, mode=mode, seed=4), 2)
    assert targets_of(first, 2, start=5) == targets_of(again, 2)[5:]
    assert targets_of(first, 2, start=len(first)) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch_out(train, mode, world):
    alone = loader(train, mode=mode, batch_size=6)
    shares = [
        targets_of(
            loader(train, mode=mode, batch_size=6 // world, rank=rank, world_size=world), epoch=1
        )
        for rank in range(world)
    ]
    whole = targets_of(alone, 1)
    assert all(len(share) == len(whole) for share in shares)
    for step, targets in enumerate(whole):
        assert sorted(t for share in shares for t in share[step]) == targets


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("world", "accumulate"), [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_who_takes_the_shards_of_a_step_changes_none(train, mode, world, accumulate):
    def shards(world: int, accumulate: int) -> list:
        options = {"mode": mode, "batch_size": 2, "world_size": world, "accumulate": accumulate}
        each = [list(loader(train, rank=rank, **options).batches(1)) for rank in range(world)]
        assert all(len(share) % accumulate == 0 for share in each)
        return [batch for batches in zip(*each, strict=True) for batch in batches]

    found, wanted = shards(world, accumulate), shards(2, 3)
    assert len(found) == len(wanted) > 6
    for one, other in zip(found, wanted, strict=True):
        assert one.history.equal(other.history)
        assert one.targets.equal(other.targets)
        assert one.weight == other.weight
    total = sum(batch.weight for batch in found[:6])
    assert total == pytest.approx(6)


def test_bucketing_saves_padding(train):
    def width(mode: str) -> int:
        return sum(batch.history.numel() for batch in loader(train, mode=mode).batches(0))

    real = int(train.lengths.sum())
    assert width("bucketed") < 1.15 * real
    assert width("padded") > 1.3 * real


def test_one_example_of_each_user(train):
    batches = loader(train, one_per_user=True, batch_size=1)
    users = len(set(train.users.tolist()))
    seen: set[int] = set()
    for epoch in range(200):
        drawn = [target for batch in targets_of(batches, epoch) for target in batch]
        owners = [int(train.users[np.flatnonzero(train.targets == t)[0]]) for t in drawn]
        assert len(owners) == len(set(owners)) == users
        seen.update(drawn)
        if epoch == 0:
            assert len(seen) < len(train)
    assert seen == set(train.targets.tolist())


def test_fewer_examples_than_a_batch_still_train(train):
    few = loader(train, batch_size=10_000)
    assert len(few) == 1
    assert targets_of(few, 0) == [sorted(train.targets.tolist())]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 5), st.integers(0, 2**16))
def test_buckets_hold_every_row_once_and_only_the_rest_is_small(count, size, pool, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, count)
    batches = length_buckets(rng.permutation(count), sizes, size, pool, rng)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=40),
    st.integers(1, 6),
    st.integers(1, 60),
    st.integers(1, 9),
)
def test_evaluation_sees_every_example_once(tiny_data, lengths, world, budget, max_rows):
    sequences = [list(range(length)) for length in lengths]
    data = SeqData(tiny_data(sequences, 30), "test", max_history=20)
    found: Counter[int] = Counter()
    for rank in range(world):
        batches = EvaluationBatches(
            data, budget=budget, max_rows=max_rows, rank=rank, world_size=world
        )
        assert len(batches) == len(list(batches))
        for rows, batch in batches:
            found.update(rows.tolist())
            assert 1 <= len(rows) <= max_rows
            assert batch.history.numel() <= budget or len(rows) == 1
            assert batch.targets[:, 0].tolist() == data.targets[rows].tolist()
            assert (batch.history >= 0).sum(dim=1).tolist() == data.lengths[rows].tolist()
            assert batch.user_ids.tolist() == data.users[rows].tolist()
    assert found == Counter(range(len(data)))


def test_evaluation_hardly_pads(train):
    data = SeqData(train.data, "test", max_history=10)
    width = sum(batch.history.numel() for _, batch in EvaluationBatches(data, budget=64))
    assert width <= 1.2 * data.lengths.sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "bucket"}, r"must be one of bucketed, packed, padded, got 'bucket'"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"mode": "packed", "one_per_user": True}, "train_data_subsample must be off"),
    ],
)
def test_bad_settings_are_refused(train, options, message):
    with pytest.raises(ConfigError, match=message):
        loader(train, **options)


@pytest.mark.parametrize("mode", MODES)
def test_weights_make_the_mean_over_processes_that_over_targets(train, mode):
    parts = [
        list(loader(train, mode=mode, rank=rank, world_size=2).batches(0)) for rank in range(2)
    ]
    for pair in zip(*parts, strict=True):
        counts = [int((batch.targets >= 0).sum()) for batch in pair]
        shares = [2 * count / sum(counts) for count in counts]
        assert [batch.weight for batch in pair] == pytest.approx(shares)

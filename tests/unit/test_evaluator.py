"""The evaluator: who is counted, what is a hit, and the same numbers on any number of processes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from genrec.data.prepared import StringArray
from genrec.data.schemas import Ranking, Rules
from genrec.data.sequence_dataset import SeqData, hash_users
from genrec.errors import ConfigError, DataError
from genrec.evaluation.evaluator import Evaluator

NUM_ITEMS = 23


def random_data(tiny_data, seed: int = 0, users: int = 57):
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, NUM_ITEMS, rng.integers(1, 30)).tolist() for _ in range(users)]
    return tiny_data(sequences, NUM_ITEMS)


class Answers:
    """A ranker that answers from a table by the newest item of the history, or by the user."""

    name, max_history, device, groups = "answers", 100, torch.device("cpu"), None

    def __init__(self, table: Tensor, *, by_user: bool = False) -> None:
        self.table, self.by_user = table, by_user
        self.item_keys = StringArray.from_strings(f"item-{i}" for i in range(NUM_ITEMS))
        self.num_items = NUM_ITEMS
        keys = StringArray.from_strings(f"user-{u}" for u in range(len(table)))
        self.users = torch.from_numpy(hash_users(keys))

    def rows(self, history: Tensor, users: Tensor | None) -> Tensor:
        if self.by_user:
            return (users.unsqueeze(1) == self.users).int().argmax(dim=1)
        # The sum depends on every item of the history.
        return history.clamp(min=0).sum(dim=1) % len(self.table)

    def rank(self, history, k, *, users=None, rules=None) -> Ranking:
        items = self.table[self.rows(history, users)][:, :k]
        items = torch.nn.functional.pad(items, (0, k - items.shape[1]), value=-1)
        return Ranking(items, torch.zeros(items.shape))


class Searching(Answers):
    """The same with beams: it finds other items when some are excluded from its search."""

    num_beams = 3

    def with_beams(self, num_beams):
        raise NotImplementedError

    def rank(self, history, k, *, users=None, rules: Rules | None = None) -> Ranking:
        found = super().rank(history, k, users=users)
        if rules is None:
            return found
        seen = (found.items.unsqueeze(2) == rules.exclude.unsqueeze(1)).any(dim=2)
        return Ranking(found.items.masked_fill(seen, -1), found.scores)


#: From the sum of a history to all items, those above it first.
NEARBY = (torch.arange(NUM_ITEMS).unsqueeze(1) + torch.arange(NUM_ITEMS)) % NUM_ITEMS
nearby = Answers(NEARBY)


class Rank:
    """One of several processes that run as threads of this one."""

    device = torch.device("cpu")

    def __init__(self, index: int, size: int, board: dict, barrier: threading.Barrier) -> None:
        self.process_index, self.num_processes = index, size
        self.board, self.barrier, self.calls = board, barrier, 0

    def gather(self, values):
        self.calls += 1
        self.board[self.calls, self.process_index] = values
        self.barrier.wait()
        rows = [self.board[self.calls, rank] for rank in range(self.num_processes)]
        return torch.cat(rows)


def run_on(size: int, data, **options) -> list[dict[str, float]]:
    board, barrier, results = {}, threading.Barrier(size), [None] * size

    def work(rank: int) -> None:
        processes = Rank(rank, size, board, barrier)
        evaluator = Evaluator(data, num_items=NUM_ITEMS, processes=processes, **options)
        results[rank] = evaluator.run_both(nearby)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


def without_speed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "users_per_s"}


def test_numbers_by_hand(tiny_data):
    # Test targets are 2, 4 and 0; the last user has too few items to be tested.
    data = SeqData(tiny_data([[0, 1, 2], [1, 3, 4], [2, 1, 0], [0, 1]], 5), "test")
    answers = torch.tensor([[4, 2], [3, 3], [0, 4]])

    evaluator = Evaluator(
        data, num_items=5, groups=np.array([0, 1, 2, 3, 3]), ks=(2, 1), processes=_alone()
    )
    assert evaluator.num_results == 2
    found = evaluator.run(Answers(answers, by_user=True))
    assert found["users"] == 3
    assert found["recall@1"] == pytest.approx(1 / 3)  # user 2
    assert found["recall@2"] == pytest.approx(2 / 3)  # users 0 and 2
    assert found["ndcg@2"] == pytest.approx((1 / np.log2(3) + 1) / 3)
    assert found["mrr"] == pytest.approx((0.5 + 0 + 1) / 3)
    # Items 3 and 4 share their codes, so at SID level user 1 is served too.
    assert found["sid_recall@1"] == pytest.approx(2 / 3)
    assert found["sid_recall@2"] == 1.0
    assert found["coverage"] == pytest.approx(4 / 5)  # 4, 2, 3 and 0 were shown
    assert found["users_per_s"] > 0


def _alone() -> Accelerator:
    return Accelerator(cpu=True)


def test_every_result_beyond_the_longest_list_is_ignored(tiny_data):
    data = SeqData(tiny_data([[0, 1, 2]], 3), "test")
    evaluator = Evaluator(data, num_items=3, ks=(1,))
    found = evaluator.run(Answers(torch.tensor([[0, 2, 1]])))
    assert (found["recall@1"], found["mrr"], found["coverage"]) == (0, 0, pytest.approx(1 / 3))
    assert not any(name.startswith("sid_") for name in found)


def test_missing_results_are_no_items(tiny_data):
    data = SeqData(tiny_data([[0, 1, 2]], 3), "test")
    groups = np.zeros(3, dtype=np.int64)
    evaluator = Evaluator(data, num_items=3, groups=groups, ks=(2,), processes=_alone())
    found = evaluator.run(Answers(torch.full((1, 2), -1)))
    assert (found["recall@2"], found["sid_recall@2"], found["coverage"]) == (0, 0, 0)


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_processes_agree_with_one_to_the_last_digit(tiny_data, split, size):
    data = SeqData(random_data(tiny_data), split, max_history=7)
    options = {"groups": np.arange(NUM_ITEMS) // 2, "ks": (1, 5, 10), "budget": 40, "max_rows": 6}
    alone = without_speed(run_on(1, data, **options)[0])
    for metrics in run_on(size, data, **options):
        assert without_speed(metrics) == alone


def test_more_processes_than_batches(tiny_data):
    data = SeqData(tiny_data([[0, 1, 2], [1, 3, 4]], NUM_ITEMS), "test")
    alone = without_speed(run_on(1, data, groups=None)[0])
    assert [without_speed(metrics) for metrics in run_on(4, data, groups=None)] == [alone] * 4


def test_equals_a_plain_loop_over_users(tiny_data):
    data = random_data(tiny_data)
    examples = SeqData(data, "test", max_history=7)
    found = run_on(1, examples, groups=None, ks=(5,), budget=40)[0]
    hits, users = 0, 0
    for user in range(data.num_users):
        items = data.sequence_items[data.sequence_offsets[user] : data.sequence_offsets[user + 1]]
        if len(items) < 3:
            continue
        users += 1
        first = int(items[-8:-1].sum()) % NUM_ITEMS
        hits += int(items[-1]) in [(first + i) % NUM_ITEMS for i in range(5)]
    assert 0 < hits < users
    assert (found["users"], found["recall@5"]) == (users, pytest.approx(hits / users))


def test_hidden_rows_equal_a_plain_loop_over_users(tiny_data):
    data = random_data(tiny_data)
    examples = SeqData(data, "test", max_history=7)
    found = run_on(1, examples, groups=None, ks=(1, 5), budget=40)[0]
    shown, hidden, places = set(), set(), []
    for user in range(data.num_users):
        items = data.sequence_items[data.sequence_offsets[user] : data.sequence_offsets[user + 1]]
        if len(items) < 3:
            continue
        history, target = items[-8:-1].tolist(), int(items[-1])
        ranked = NEARBY[sum(history) % NUM_ITEMS].tolist()
        left = [item for item in ranked if item not in history][:5]
        shown, hidden = shown | set(ranked[:5]), hidden | set(left)
        places.append(left.index(target) if target in left else 99)
    assert 0 < sum(place < 5 for place in places) < len(places)
    assert found["hidden_recall@5"] == pytest.approx(np.mean([place < 5 for place in places]))
    assert found["hidden_recall@1"] == pytest.approx(np.mean([place < 1 for place in places]))
    assert found["coverage"] == pytest.approx(len(shown) / NUM_ITEMS)
    assert found["hidden_coverage"] == pytest.approx(len(hidden) / NUM_ITEMS)
    alone = Evaluator(examples, num_items=NUM_ITEMS, ks=(1, 5)).run(nearby, hide_history=True)
    assert alone["recall@5"] == found["hidden_recall@5"]


def test_a_ranker_that_searches_is_told_what_to_leave_out(tiny_data):
    # The target, 2, stands third; 0 and 1 are the history.
    data = SeqData(tiny_data([[0, 1, 2]], NUM_ITEMS), "test")
    table = torch.tensor([[0, 1, 2, 3, 4]])
    found = Evaluator(data, num_items=NUM_ITEMS, ks=(1, 3)).run_both(Searching(table))
    assert (found["recall@1"], found["recall@3"]) == (0, 1)
    # The search was asked for 3 items, lost 2 of them, and nothing moves up behind its back.
    assert found["hidden_mrr"] == pytest.approx(1 / 3)
    plain = Evaluator(data, num_items=NUM_ITEMS, ks=(1, 3)).run_both(Answers(table))
    assert (plain["recall@1"], plain["hidden_recall@1"], plain["hidden_mrr"]) == (0, 1, 1)


@pytest.mark.parametrize("kind", [Answers, Searching])
def test_ranks_say_where_each_target_stood(tiny_data, kind):
    """In the order of the examples, and the metrics are their means."""
    data = random_data(tiny_data)
    table = torch.stack([torch.randperm(NUM_ITEMS)[:9] for _ in range(31)])
    examples = SeqData(data, "test", max_history=20)
    evaluator = Evaluator(examples, num_items=NUM_ITEMS, ks=(1, 3), budget=40)
    metrics, ranks = evaluator.run_both_with_ranks(kind(table))
    assert set(ranks) == {"", "hidden_"}
    for hidden, places in ranks.items():
        assert places.shape == (len(examples),)
        for k in (1, 3):
            share = ((places >= 0) & (places < k)).mean()
            assert metrics[f"{hidden}recall@{k}"] == pytest.approx(share)
    ranker = kind(table)
    for row, place in enumerate(ranks[""]):
        one = examples[row]
        found = ranker.rank(one.history, 3).items[0].tolist()
        target = int(one.targets[0, 0])
        assert place == (found.index(target) if target in found else -1)


def test_a_ranker_of_its_own_groups_is_counted_by_them(tiny_data):
    data = SeqData(tiny_data([[0, 1, 2]], NUM_ITEMS), "test")
    ranker = Answers(torch.tensor([[3, 4]]))
    ranker.groups = np.arange(NUM_ITEMS) // 2  # 2 and 3 share their codes
    evaluator = Evaluator(data, num_items=NUM_ITEMS, groups=np.zeros(NUM_ITEMS, int), ks=(1, 2))
    found = evaluator.run(ranker)
    assert (found["recall@2"], found["sid_recall@1"]) == (0, 1)
    ranker.groups = np.arange(NUM_ITEMS)
    assert evaluator.run(ranker)["sid_recall@2"] == 0


def test_a_limit_spreads_over_all_users(tiny_data):
    data = SeqData(random_data(tiny_data), "test")
    evaluator = Evaluator(data, num_items=NUM_ITEMS, limit=10)
    assert evaluator.run(nearby)["users"] == 10
    seen = [user for _, batch in evaluator.batches for user in batch.user_ids.tolist()]
    assert len(set(seen)) == 10
    assert max(np.diff(sorted(seen))) <= 2 * len(data) / 9


def test_a_split_without_users_is_an_error(tiny_data):
    data = SeqData(tiny_data([[0, 1], [1, 0]], 2), "test")
    evaluator = Evaluator(data, num_items=2, groups=None, processes=_alone())
    with pytest.raises(DataError, match="need at least one user"):
        evaluator.run(nearby)


@pytest.mark.parametrize(
    ("ks", "name"),
    [((5, 10, 50), "recall@10"), ((1, 5), "recall@5"), ((20,), "recall@20"), ((11, 9), "recall@9")],
)
def test_the_length_next_to_ten_chooses(tiny_data, ks, name):
    data = SeqData(tiny_data([[0, 1, 2]], 3), "test")
    assert Evaluator(data, num_items=3, ks=ks).chooser == name


@pytest.mark.parametrize("ks", [[], [0, 5]])
def test_bad_lengths_are_refused(tiny_data, ks):
    data = SeqData(tiny_data([[0, 1, 2]], 3), "test")
    with pytest.raises(ConfigError, match=r"top_k_eval_list must hold numbers >= 1, got \["):
        Evaluator(data, num_items=3, groups=None, ks=ks, processes=_alone())

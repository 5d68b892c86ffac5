from __future__ import annotations

import torch

from genrec.modules.quantize.separation import separate_last_level


def catalogue(num_items: int, num_prefixes: int, num_codes: int, seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(num_codes, 3, generator=generator)
    residual = 0.3 * torch.randn(num_items, 3, generator=generator)
    prefix = torch.randint(num_prefixes, (num_items, 2), generator=generator)
    last = torch.cdist(residual, codes).argmin(dim=1)
    return torch.cat([prefix, last[:, None]], dim=1), residual, codes


def moved(ids: torch.Tensor, aims: torch.Tensor) -> torch.Tensor:
    last = torch.where(aims >= 0, aims, ids[:, -1])
    return torch.cat([ids[:, :-1], last[:, None]], dim=1)


def test_no_two_items_are_left_with_one_id() -> None:
    for seed in range(5):
        ids, residual, codes = catalogue(400, 4, 64, seed)
        before = len(torch.unique(ids, dim=0))
        aims = separate_last_level(ids, residual, codes)
        assert before < 300
        assert len(torch.unique(moved(ids, aims), dim=0)) == 400
        assert int((aims >= 0).sum()) == 400 - before  # one item of each group stays


def test_the_best_fit_stays_and_the_others_go_to_the_nearest_free_code() -> None:
    codes = torch.tensor([[0.0], [1.0], [-2.0], [5.0]])
    residual = torch.tensor([[0.3], [0.1], [0.2], [0.9]])
    ids = torch.tensor([[7, 0], [7, 0], [7, 0], [7, 1]])
    # Code 1 is taken; of -2 and 5 the nearest to both movers is -2, which 0.2 is nearer to.
    assert separate_last_level(ids, residual, codes).tolist() == [3, -1, 2, -1]


def test_a_full_prefix_keeps_its_collisions() -> None:
    codes = torch.tensor([[0.0], [1.0]])
    ids = torch.zeros(5, 2, dtype=torch.int64)
    aims = separate_last_level(ids, torch.linspace(0, 0.4, 5)[:, None], codes)
    assert sorted(aims.tolist()) == [-1, -1, -1, -1, 1]


def test_unique_ids_stay() -> None:
    ids = torch.tensor([[0, 1], [0, 2], [1, 1]])
    assert separate_last_level(ids, torch.zeros(3, 2), torch.randn(4, 2)).tolist() == [-1] * 3
    assert separate_last_level(ids[:1], torch.zeros(1, 2), torch.randn(4, 2)).tolist() == [-1]


def test_close_items_go_different_ways() -> None:
    """Two near twins beside a code: the one on the right goes right, however close they lie."""
    codes = torch.tensor([[0.0, 0.0], [-1.0, 0.2], [1.0, 0.3]])
    residual = torch.tensor([[-0.002, 0.0], [0.002, 0.0], [0.0, 0.0]])
    ids = torch.zeros(3, 2, dtype=torch.int64)
    # From afar code 1 is the nearer one to both.
    assert separate_last_level(ids, residual, codes).tolist() == [1, 2, -1]

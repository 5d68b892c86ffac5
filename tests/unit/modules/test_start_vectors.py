"""Tables that start from vectors, and tables smaller than their ids."""

from __future__ import annotations

import torch

from genrec.modules.hashed_embedding import HashedEmbedding
from genrec.modules.start_vectors import start_vectors


def test_keeps_the_directions_of_greatest_variance() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(50, 3) * torch.tensor([5.0, 3.0, 2.0])
    given = hidden @ torch.linalg.qr(torch.randn(8, 8)).Q[:3] + 7.0  # three of eight directions
    found = start_vectors(given, 4)
    assert abs(float(found.square().mean().sqrt()) - 4**-0.5) < 0.1
    ratio = torch.pdist(given) / torch.pdist(found)  # nothing is lost, so distances are scaled
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)


def test_fewer_features_than_columns_leave_zeros() -> None:
    found = start_vectors(torch.eye(3)[:, :2], 5)
    assert found.shape == (3, 5)
    assert (found[:, 2:] == 0).all()


def test_rows_are_shared_only_where_asked() -> None:
    ids = torch.arange(1000)
    assert torch.equal(HashedEmbedding(1000, 2).rows(ids), ids)
    shared = HashedEmbedding(1000, 2, num_rows=16)
    counts = shared.rows(ids).bincount(minlength=16)
    assert shared.weight.shape == (16, 2)
    assert int(counts.min()) > 30

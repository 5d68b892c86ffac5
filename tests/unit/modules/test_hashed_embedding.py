"""Embedding tables of a fixed size."""

from __future__ import annotations

import torch

from genrec.modules.hashed_embedding import HashedEmbedding


def test_a_listed_table_has_the_same_vectors_without_hash():
    torch.manual_seed(0)
    table = HashedEmbedding(1000, 4, num_rows=7)
    keys = torch.tensor([5, 999, 5, 123_456_789])
    listed = table.listed(keys)
    assert not listed.hashed
    ids = torch.tensor([[0, 1], [3, 2]], dtype=torch.int32)
    assert torch.equal(listed(ids), table(keys)[ids.long()])
    assert torch.equal(listed.rows(ids), table.rows(keys[ids.long()]))

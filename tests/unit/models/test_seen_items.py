from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genrec.data.schemas import SequenceBatch
from genrec.decoding.trie import PrefixIndex
from genrec.models.item_retrieval import ItemTokenRetrievalModel
from genrec.models.item_settings import HistorySettings, ItemHeadSettings, TreeSettings
from genrec.models.seen_items import SeenItems, SeenPairs, seen_start
from genrec.training.decoder import DecoderSettings


def test_the_start_is_the_log_odds_of_coming_back():
    assert seen_start(3_000, 10_000) == pytest.approx(math.log(0.3 / 0.7), abs=1e-3)
    assert seen_start(0, 200_000) == -10.0
    assert -10.0 < seen_start(0, 50) < -4.0  # few targets prove little
    assert seen_start(9_000, 10_000) == seen_start(0, 0) == 0.0


@pytest.mark.parametrize(("again", "start"), [(True, math.log(0.5)), (False, -10.0)])
def test_a_model_starts_from_what_its_data_says(again, start):
    index = PrefixIndex.from_ids([[0, 1], [0, 2], [3, 1]], (4, 4))
    run = [0, 1, 0, 2] if again else [0, 1, 2, 1]  # the held-out item is the one that comes back
    users = 40_000
    data = SimpleNamespace(
        sequence_items=np.tile(np.array(run, dtype=np.int32), users),
        sequence_offsets=np.arange(0, 4 * users + 1, 4),
        train_ends=np.arange(3 if not again else 4, 4 * users + 1, 4),
    )
    settings = DecoderSettings(
        encoder_tokens="item", decoder_embed_dim=8, attn_heads=2, ff_dim=8, seen_weights=True
    )
    model = settings.build_item_model(index, data)
    assert model.config["seen_start"] == pytest.approx(start, abs=1e-3)
    assert 10 * model.seen_weight.item() == pytest.approx(start, abs=1e-3)
    given = DecoderSettings(
        encoder_tokens="item",
        decoder_embed_dim=8,
        attn_heads=2,
        ff_dim=8,
        seen_weights=True,
        seen_start=-3.0,
    )
    assert given.build_item_model(index, data).config["seen_start"] == -3.0


def test_all_places_of_histories_say_what_the_listed_ones_say():
    items = torch.tensor([[4, 1, 4], [2, 0, 0]])
    fresh = torch.tensor([[True, True, False], [True, False, False]])
    listed, every = (SeenPairs.of(items, fresh, all_places=p) for p in (False, True))
    assert (listed.each, every.each) == (None, 3)

    def added(pairs):
        extra = pairs.extra(torch.tensor(2.5))
        return torch.zeros(2, 5).index_put((pairs.rows, pairs.items), extra, accumulate=True)

    assert torch.equal(added(listed), added(every))
    assert added(every).tolist() == [[0, 2.5, 0, 0, 2.5], [0, 0, 2.5, 0, 0]]


@pytest.mark.parametrize("skip_history", [False, True])
@pytest.mark.parametrize("head", ["all items", "drawn items", "first codes"])
def test_losses_from_all_places_are_those_of_the_listed_ones(monkeypatch, head, skip_history):
    torch.manual_seed(0)
    index = PrefixIndex.from_ids([[i // 4, i % 4] for i in range(16)], (4, 4))
    model = ItemTokenRetrievalModel.for_index(
        index,
        embedding_dim=8,
        dropout=(0.0, 0.0),
        tree=TreeSettings(root_items=head == "first codes"),
        head=ItemHeadSettings(num_negatives=6 if head == "drawn items" else None),
        history=HistorySettings(seen_weights=True, seen_start=-1.0, skip_history=skip_history),
    )
    history = torch.tensor([[3, 9, 3, 5], [0, 7, -1, -1]])
    targets = torch.tensor([[9, 3, 5, 12], [7, 0, -1, -1]])
    batch = SequenceBatch(history, targets, torch.arange(2), packed=True)
    results = []
    for all_places in (False, True):
        of = functools.partial(SeenPairs.of, all_places=all_places)
        monkeypatch.setattr(SeenItems, "pairs", lambda seen, of=of: of(seen.items, seen.fresh))
        torch.manual_seed(1)
        model.zero_grad()
        loss = model(batch, index).loss
        loss.backward()
        results.append((loss.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(*results)

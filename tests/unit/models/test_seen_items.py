from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from genrec.decoding.trie import PrefixIndex
from genrec.models.seen_items import seen_start
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

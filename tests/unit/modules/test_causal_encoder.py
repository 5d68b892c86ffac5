"""The causal encoder."""

from __future__ import annotations

import torch

from genrec.modules import causal_encoder
from genrec.modules.causal_encoder import CausalEncoder


def test_the_form_for_traces_computes_the_same(monkeypatch):
    torch.manual_seed(0)
    encoder = CausalEncoder(12, num_heads=3, num_layers=2, ff_width=20, dropout=0.3).eval()
    x = torch.randn(5, 7, 12)
    expected = encoder(x)
    monkeypatch.setattr(causal_encoder, "is_exporting", lambda: True)
    torch.testing.assert_close(encoder(x), expected)
    changed = x.clone()
    changed[:, 4:] += 1.0
    torch.testing.assert_close(encoder(changed)[:, :4], expected[:, :4])

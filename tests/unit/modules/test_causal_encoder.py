"""The causal encoder."""

from __future__ import annotations

import torch

from genrec.modules import causal_encoder
from genrec.modules.causal_encoder import CausalEncoder


@torch.no_grad()
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


def test_blocks_in_training_equal_those_of_pytorch() -> None:
    torch.manual_seed(0)
    encoder = CausalEncoder(12, num_heads=3, num_layers=2, ff_width=20, dropout=0.0).train()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(4, 7, 12, requires_grad=True)
    weights = torch.randn(4, 7, 12)
    found = encoder(x)
    inputs = (x, *encoder.parameters())
    gradients = torch.autograd.grad((found * weights).sum(), inputs)
    plain = x
    later = torch.ones(7, 7, dtype=torch.bool).triu(1)
    for block in encoder.blocks:
        plain = block(plain, src_mask=later)
    plain = encoder.norm(plain)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    references = torch.autograd.grad((plain * weights).sum(), inputs)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-4, rtol=1e-4)


def test_dropout_is_drawn_in_training_alone() -> None:
    torch.manual_seed(0)
    encoder = CausalEncoder(12, num_heads=3, num_layers=1, ff_width=20, dropout=0.4)
    x = torch.randn(2, 5, 12)
    encoder.eval()
    torch.testing.assert_close(encoder(x), encoder(x), atol=0, rtol=0)
    encoder.train()
    with torch.no_grad():
        drawn = [encoder(x) for _ in range(2)]
    assert not torch.equal(*drawn)

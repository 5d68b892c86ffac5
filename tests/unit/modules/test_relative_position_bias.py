"""The relative position bias keeps what it computed from shapes alone."""

from __future__ import annotations

import torch

from genrec.modules.attention import RelativePositionBias


def test_what_is_kept_serves_gradients_and_copies() -> None:
    bias = RelativePositionBias(2, bidirectional=False)
    torch.nn.init.normal_(bias.weight)
    with torch.inference_mode():
        first = bias(1, 3, offset=2).clone()
    bias(1, 3, offset=2).sum().backward()
    assert bias.weight.grad is not None
    assert bias.weight.grad.sum() == 6
    torch.testing.assert_close(bias(1, 3, offset=2).detach(), first.clone())
    with torch.no_grad():
        bias.weight.zero_()
    assert bias(1, 3, offset=2).eq(0).all()  # of the weights nothing is kept
    whole = RelativePositionBias(2, bidirectional=True)
    torch.nn.init.normal_(whole.weight)
    torch.testing.assert_close(whole(2, 5, offset=3), whole(5, 5)[:, :, 3:])

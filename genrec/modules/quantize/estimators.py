"""Gradient estimators for the choice of a code, as pure functions.

Each returns a tensor whose *value* is what the decoder sees and whose *gradient* is what the
encoder receives. Shape legend: B = items in the batch, K = codes in one codebook, D = width.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gumbel_noise", "gumbel_softmax", "rotation_trick", "straight_through"]


def straight_through(x: Tensor, code: Tensor) -> Tensor:
    """Give the code's value to the last bit, and the gradient to the latent; ``(B, D)`` each.

    Source:
        Bengio et al. 2013, https://arxiv.org/abs/1308.3432.
    """
    # The usual x + (code - x).detach() rounds; adding an exact zero does not.
    return code.detach() + (x - x.detach())


def rotation_trick(x: Tensor, code: Tensor, *, min_norm: float = 1e-6) -> Tensor:
    """Pass the code forward and send the gradient back through the rotation from latent to code.

    The code equals ``s * R @ x`` with ``R`` the rotation that turns ``x`` into the direction of
    the code and ``s`` the ratio of the norms. Both are held constant, so a gradient keeps its
    angle to the code on the way to the latent, where straight-through keeps only its direction
    in space.

    Args:
        x: Latent, shape ``(B, D)``, a batch of one included.
        code: The code picked for it, shape ``(B, D)``; receives no gradient.
        min_norm: A latent or code shorter than this has no direction: there the gradient is
            copied as by :func:`straight_through`.

    Returns:
        Shape ``(B, D)``, equal to ``code`` to the last bit.

    Source:
        Fifty et al. 2024, Restructuring Vector Quantization with the Rotation Trick, section 4,
        https://arxiv.org/abs/2410.06424. Differs: the value is the code itself, not its
        reconstruction by the rotation, which rounds; vanishing norms are guarded.

    Example:
        >>> x = torch.tensor([[2.0, 0.0]], requires_grad=True)
        >>> out = rotation_trick(x, torch.tensor([[0.0, 1.0]]))
        >>> out.tolist()
        [[0.0, 1.0]]
        >>> torch.autograd.grad(out, x, torch.tensor([[0.0, 1.0]]))[0].round(decimals=3).tolist()
        [[0.5, 0.0]]
    """
    value, latent = code.detach(), x.detach()
    x_norm = torch.linalg.vector_norm(latent, dim=-1, keepdim=True)  # (B, 1)
    code_norm = torch.linalg.vector_norm(value, dim=-1, keepdim=True)  # (B, 1)
    u = latent / x_norm.clamp_min(min_norm)
    v = value / code_norm.clamp_min(min_norm)
    w = u + v
    w = w / torch.linalg.vector_norm(w, dim=-1, keepdim=True).clamp_min(min_norm)
    zero = x - latent  # carries the gradient, adds nothing
    along_w = (zero * w).sum(dim=-1, keepdim=True)
    along_u = (zero * u).sum(dim=-1, keepdim=True)
    turned = (code_norm / x_norm.clamp_min(min_norm)) * (zero - 2 * along_w * w + 2 * along_u * v)
    has_direction = (x_norm >= min_norm) & (code_norm >= min_norm)
    return value + torch.where(has_direction, turned, zero)


def gumbel_noise(like: Tensor) -> Tensor:
    """Draw standard Gumbel noise of the shape, dtype and device of ``like``."""
    # Exponential draws are > 0, so that the logarithm is finite.
    tiny = torch.finfo(like.dtype).tiny
    draws = torch.empty_like(like, requires_grad=False).exponential_()
    return -draws.clamp_min(tiny).log()


def gumbel_softmax(logits: Tensor, *, temperature: float | Tensor, noise: Tensor) -> Tensor:
    """Sample soft choices, weights ``(B, K)`` that sum to 1, from log-preferences ``(B, K)``.

    Args:
        logits: Log-preferences for the codes.
        temperature: > 0; towards 0 the choice becomes a single code.
        noise: From :func:`gumbel_noise`, shape ``(B, K)``; zero gives the plain softmax.

    Source:
        Jang et al. 2016, https://arxiv.org/abs/1611.01144, equation 2.
    """
    return ((logits + noise) / temperature).softmax(dim=-1)

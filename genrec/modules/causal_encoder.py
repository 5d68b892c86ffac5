"""A small causal Transformer over one vector an item.

Shape legend: B = rows, S = positions, D = width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.modules.exporting import is_exporting
from genrec.modules.kernels.attention import attend
from genrec.modules.kernels.dropout import dropout

__all__ = ["CausalEncoder"]


class CausalEncoder(nn.Module):
    """Pre-norm blocks in which a position sees itself and those before it.

    Args:
        width: D, a multiple of ``num_heads``.
        num_heads: Attention heads.
        num_layers: Blocks.
        ff_width: Width of the feed-forward layers.
        dropout: On the inputs, and in and after each part of a block, in ``[0, 1)``.

    Attributes:
        blocks: The blocks.
        norm: The last normalisation.
    """

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        num_layers: int,
        ff_width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        # Not nn.TransformerEncoder, which copies one block and its first weights.
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                num_heads,
                dim_feedforward=ff_width,
                dropout=dropout,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)

    @torch.no_grad()
    def begin_as_identity(self) -> None:
        """Let each block begin as the identity, so that a position starts as its own vector.

        For vectors that say something before training, which blocks of random weights would bury.
        """
        for block in self.blocks:
            layer = cast(nn.TransformerEncoderLayer, block)
            nn.init.zeros_(layer.self_attn.out_proj.weight)
            nn.init.zeros_(layer.linear2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Encode each position together with those before it.

        Args:
            x: Shape ``(B, S, D)``; padding lies at the end, where no real position looks.

        Returns:
            Shape ``(B, S, D)``; rows of padding hold anything.
        """
        size = x.shape[1]
        later = torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)
        x = dropout(x, self.dropout, self.training)
        for block in self.blocks:
            layer = cast(nn.TransformerEncoderLayer, block)
            # PyTorch's own is faster without a gradient; in training its dropout costs more than
            # its matrix products, and a trace of it would keep its shapes.
            plain = is_exporting() or self.training or torch.is_grad_enabled()
            x = self._block(layer, x, later) if plain else layer(x, src_mask=later)
        states: Tensor = self.norm(x)
        return states

    def _block(self, layer: nn.TransformerEncoderLayer, x: Tensor, later: Tensor) -> Tensor:
        """Do what a block does, ``(B, S, D)``, where ``later`` hides keys, ``(S, S)``."""
        p = self.dropout if self.training else 0.0
        attention = layer.self_attn
        qkv = F.linear(layer.norm1(x), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = torch.zeros(later.shape, device=x.device).masked_fill_(later, -torch.inf)
        mixed = attend(q * attention.head_dim**-0.5, k, v, bias, p)
        x = x + dropout(attention.out_proj(mixed), p, p > 0)
        hidden = dropout(F.relu_(layer.linear1(layer.norm2(x))), p, p > 0)
        return x + dropout(layer.linear2(hidden), p, p > 0)

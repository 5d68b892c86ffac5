"""A small causal Transformer over one vector an item.

Shape legend: B = rows, S = positions, D = width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

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
        self.dropout = nn.Dropout(dropout)
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
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, src_mask=later)
        states: Tensor = self.norm(x)
        return states

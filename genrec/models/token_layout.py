"""Which row of the embedding table means what.

Shape legend: B = users, S = history items, L = levels, T = tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

__all__ = ["PAD_TOKEN", "TokenLayout"]

PAD_TOKEN = 0  # also what the decoder starts from, as in T5


@functools.lru_cache(maxsize=64)
def _offsets(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    """Copy them to a device, once: the host waits for each copy."""
    return torch.tensor(offsets, device=device)


@dataclass(frozen=True)
class TokenLayout:
    """The vocabulary: padding, one slice of codes a level, the separator, the users.

    Attributes:
        level_sizes: Codes of each level, ``L`` of them.
        separator: Whether a separator follows each item of the history.
        num_users: Number of user tokens, 0 for none.
    """

    level_sizes: tuple[int, ...]
    separator: bool = False
    num_users: int = 0

    @property
    def num_levels(self) -> int:
        """Number of levels ``L``."""
        return len(self.level_sizes)

    @property
    def level_offsets(self) -> tuple[int, ...]:
        """First row of each level's slice."""
        return tuple(accumulate(self.level_sizes[:-1], initial=1))

    @property
    def separator_token(self) -> int:
        """Row of the separator, used or not."""
        return 1 + sum(self.level_sizes)

    @property
    def user_offset(self) -> int:
        """Row of the first user's embedding; those of codes and separator lie before it."""
        return self.separator_token + 1

    @property
    def size(self) -> int:
        """Number of rows of the encoder's embedding table."""
        return self.user_offset + self.num_users

    @property
    def tokens_per_item(self) -> int:
        """Tokens that one item of the history takes."""
        return self.num_levels + int(self.separator)

    def item_tokens(self, codes: Tensor) -> Tensor:
        """Turn codes ``(..., L)`` into tokens of the same shape, -1 into :data:`PAD_TOKEN`."""
        return torch.where(
            codes >= 0, codes.long() + _offsets(self.level_offsets, codes.device), PAD_TOKEN
        )

    def history_tokens(self, codes: Tensor, user_ids: Tensor | None) -> Tensor:
        """Lay out the encoder's input.

        Args:
            codes: Semantic IDs of the history, oldest first, shape ``(B, S, L)``, integer; -1
                for padding, at the end.
            user_ids: User of each row, shape ``(B,)``, in ``[0, num_users)``; needed exactly
                where there are user tokens.

        Returns:
            Shape ``(B, T)``, int64, with ``T = S * tokens_per_item + (1 with users)``.
        """
        tokens = self.item_tokens(codes)
        if self.separator:
            mark = torch.where(codes[..., :1] >= 0, self.separator_token, PAD_TOKEN)
            tokens = torch.cat([tokens, mark], dim=-1)
        tokens = tokens.flatten(1)
        if self.num_users:
            assert user_ids is not None
            tokens = torch.cat([(user_ids + self.user_offset).unsqueeze(1), tokens], dim=1)
        return tokens

    def history_positions(self, num_items: int, device: torch.device) -> Tensor:
        """Tell which item each encoder token belongs to: ``(T,)``, -1 for the user token."""
        items = torch.arange(num_items, device=device).repeat_interleave(self.tokens_per_item)
        if self.num_users:
            items = torch.cat([items.new_full((1,), -1), items])
        return items

    @staticmethod
    def sizes(num_embeddings: int | Sequence[int], sem_id_dim: int) -> tuple[int, ...]:
        """Expand one size for all levels; a sequence stays as it is."""
        if isinstance(num_embeddings, int):
            return (num_embeddings,) * sem_id_dim
        return tuple(int(size) for size in num_embeddings)

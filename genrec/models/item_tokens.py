"""One token an item: the sum of its codes' embeddings and a vector of its own.

Shape legend: B = users, S = history items, N = items, L = levels, D = width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.decoding.trie import PrefixIndex
from genrec.models.item_settings import ItemVectorSettings
from genrec.modules.exporting import is_exporting
from genrec.modules.hashed_embedding import HashedEmbedding

__all__ = ["ItemTokens"]


class ItemTokens(nn.Module):
    """Embeds items.

    Args:
        num_items: N.
        level_sizes: Codes of each level, ``L`` of them.
        width: D.
        settings: Of the items' own vectors.

    Attributes:
        codes: Embeddings of all codes, level after level.
        vectors: The items' own vectors, or None.
    """

    def __init__(
        self,
        num_items: int,
        level_sizes: Sequence[int],
        width: int,
        settings: ItemVectorSettings,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.level_sizes = tuple(level_sizes)
        self.codes = nn.Parameter(torch.empty(sum(level_sizes), width))
        # Small beside vectors of the items' own, which say more.
        scale = 0.2 if settings.item_vectors and settings.item_codes else 1.0
        nn.init.normal_(self.codes, std=scale * width**-0.5)
        offsets = torch.tensor(list(accumulate(level_sizes[:-1], initial=0)))
        self.register_buffer("offsets", offsets, persistent=False)
        self.vectors: HashedEmbedding | None = None
        if settings.item_vectors:
            self.vectors = HashedEmbedding(num_items, width, settings.item_rows)

    def forward(self, ids: Tensor, index: PrefixIndex) -> Tensor:
        """Embed items; in training some of them by their codes alone.

        Args:
            ids: Any shape, int64, in ``[0, N)``.
            index: The catalogue.

        Returns:
            Shape ``(..., D)``.
        """
        if self.vectors is None:
            return self._code_sums(index.codes_of_items(ids))
        own = self.vectors(ids)
        if not self.settings.item_codes:
            return own
        if self.training and self.settings.item_drop:
            known = torch.rand(ids.shape, device=ids.device) >= self.settings.item_drop
            own = own * known.unsqueeze(-1)
        return own + self._code_sums(index.codes_of_items(ids))

    def table(self, index: PrefixIndex) -> Tensor:
        """Embed all items, none by its codes alone; shape ``(N, D)``."""
        ids = torch.arange(index.num_items, device=self.codes.device)
        if self.vectors is not None and not self.settings.item_codes:
            return self.vectors(ids)
        tokens = self._code_sums(index.codes_of_items(ids))
        return tokens if self.vectors is None else tokens + self.vectors(ids)

    def code(self, codes: Tensor, level: int) -> Tensor:
        """Embed codes of one level; shape ``(..., D)`` for codes of shape ``(...)``."""
        begin = sum(self.level_sizes[:level])
        return F.embedding(codes, self.codes[begin : begin + self.level_sizes[level]])

    def _code_sums(self, codes: Tensor) -> Tensor:
        """Add up the embeddings of the codes in the last dimension, scaled to one's length."""
        assert isinstance(self.offsets, Tensor)
        levels = codes.shape[-1]
        bags = (codes + self.offsets).view(-1, levels)
        if is_exporting():  # other runtimes know no bags
            sums = F.embedding(bags, self.codes).sum(dim=1)
        else:
            sums = F.embedding_bag(bags, self.codes, mode="sum")
        sums = sums * levels**-0.5
        return sums.view(*codes.shape[:-1], -1)

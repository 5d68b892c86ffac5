"""SASRec: the item-id baseline that a generative recommender has to be measured against.

Shape legend: B = users, S = history items, D = model width, N = items, Q = negatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.data.catalogue import Catalogue
from genrec.errors import ArtifactError, ConfigError
from genrec.models.graphs import SIZES, Graph, Graphs, on_cpu
from genrec.models.saved import SavedModel
from genrec.models.score_ranker import ScoreRanker
from genrec.models.seen_items import SeenPairs
from genrec.modules.causal_encoder import CausalEncoder
from genrec.modules.kernels.linear_cross_entropy import (
    ListedPairs,
    head_dtype,
    linear_cross_entropy,
)
from genrec.modules.start_vectors import QUIET, start_vectors

__all__ = ["SasRec"]

SEEN_SCALE = 10.0


class SasRec(SavedModel):
    """A causal Transformer over item ids whose output scores the same item embeddings.

    Args:
        num_items: Number of items N.
        embedding_dim: D, a multiple of ``num_heads``.
        num_heads: Attention heads.
        n_layers: Number of blocks.
        ff_dim: Width of the feed-forward layers.
        dropout: On embeddings and inside the blocks, in ``[0, 1)``.
        max_history: Most items of a history.
        seen_weights: Learn a weight for items that the user has: whether users come back to
            items is then known from the training part.
        head_dtype: Of the scores of all items in training: ``float32``, ``bfloat16``, or
            ``auto`` for the second where the processor multiplies it faster.

    Attributes:
        config: Arguments of the constructor, JSON.

    Raises:
        ConfigError: If the sizes do not fit together.

    Source:
        Kang and McAuley 2018, https://arxiv.org/abs/1808.09781. Differs, as in the tuned versions
        that later papers compare with: softmax cross-entropy over all items, or over the target
        and sampled ones, in place of one negative and binary cross-entropy; blocks normalise
        before, not after.

    Example:
        >>> model = SasRec(num_items=9, embedding_dim=8).eval()
        >>> model.scores(torch.tensor([[3, 1, -1]])).shape
        torch.Size([1, 9])
    """

    trained_by = "genrec train sasrec"

    def __init__(
        self,
        num_items: int,
        *,
        embedding_dim: int = 64,
        num_heads: int = 2,
        n_layers: int = 2,
        ff_dim: int = 256,
        dropout: float = 0.5,
        max_history: int = 20,
        seen_weights: bool = False,
        head_dtype: str = "float32",
    ) -> None:
        super().__init__()
        if min(num_items, embedding_dim, num_heads, n_layers, ff_dim, max_history) < 1:
            raise ConfigError(
                "sizes of SASRec must be >= 1, got "
                f"{(num_items, embedding_dim, num_heads, n_layers, ff_dim, max_history)} for "
                "items, width, heads, layers, feed-forward, history; use the defaults"
            )
        if embedding_dim % num_heads:
            raise ConfigError(
                f"embed_dim must be a multiple of attn_heads, got {embedding_dim} and {num_heads}; "
                f"for example train.embed_dim={num_heads * max(1, embedding_dim // num_heads)}"
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout must lie in [0, 1), got {dropout}; try 0.5")
        self.config: dict[str, Any] = {
            "num_items": num_items,
            "embedding_dim": embedding_dim,
            "num_heads": num_heads,
            "n_layers": n_layers,
            "ff_dim": ff_dim,
            "dropout": dropout,
            "max_history": max_history,
            "seen_weights": seen_weights,
            "head_dtype": head_dtype,
        }
        self.max_history = max_history
        self.items = nn.Embedding(num_items, embedding_dim)
        self.positions = nn.Embedding(max_history, embedding_dim)
        self.encoder = CausalEncoder(
            embedding_dim,
            num_heads=num_heads,
            num_layers=n_layers,
            ff_width=ff_dim,
            dropout=dropout,
        )
        self.seen_weight = nn.Parameter(torch.zeros(())) if seen_weights else None
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=embedding_dim**-0.5)

    @property
    def num_items(self) -> int:
        """Number of items ``N``."""
        return self.items.num_embeddings

    def encode(self, history: Tensor) -> Tensor:
        """Encode each item together with those before it.

        Args:
            history: Items, oldest first, shape ``(B, S)``, int64; -1 for padding at the end.

        Returns:
            Shape ``(B, S, D)``; rows of padding hold anything.

        Raises:
            ValueError: If S is more than ``max_history``.
        """
        length = history.shape[1]
        if length > self.max_history:
            raise ValueError(
                f"history must have at most {self.max_history} items, got {length}; keep the "
                "newest ones"
            )
        x = self.items(history.clamp(min=0)) + self.positions.weight[:length]
        states: Tensor = self.encoder(x)
        return states

    def forward(
        self,
        history: Tensor,
        targets: Tensor,
        num_negatives: int | None = None,
        *,
        live: Tensor | None = None,
    ) -> Tensor:
        """Compute the training loss.

        Args:
            history: Items, shape ``(B, S)``, int64; -1 for padding at the end.
            targets: The item after each, shape ``(B, S)``, int64; -1 for none.
            num_negatives: Q, drawn uniformly for the whole batch; None for all items.
            live: Places of the M targets that exist among the ``B * S``, rising, shape ``(M,)``,
                int64, where the host knows them.

        Returns:
            Mean cross-entropy over the targets, scalar.
        """
        states = self.encode(history)
        if num_negatives is None:
            if live is None:
                live = (targets.flatten() >= 0).nonzero().squeeze(1)
            size = history.shape[1]
            rows, last = live.div(size, rounding_mode="floor"), live % size
            return linear_cross_entropy(
                states[rows, last],
                self.items.weight,
                targets[rows, last],
                self._seen(history, rows, last),
                dtype=head_dtype(self.config["head_dtype"], states.device),
            )
        states, wanted = states.flatten(0, 1), targets.flatten()
        drawn = torch.randint(self.num_items, (num_negatives,), device=wanted.device)
        own = (states * self.items(wanted.clamp(min=0))).sum(dim=-1, keepdim=True)  # (B * S, 1)
        others = F.linear(states, self.items(drawn))  # (B * S, Q)
        others = others.masked_fill(drawn == wanted.unsqueeze(1), -torch.inf)
        scores = torch.cat([own, others], dim=1).float()
        return F.cross_entropy(scores, wanted.clamp(max=0), ignore_index=-1)

    def scores(self, history: Tensor) -> Tensor:
        """Score every item as the next one, ``(B, N)``, after histories ``(B, S)`` padded by -1."""
        last = (history >= 0).sum(dim=1) - 1  # (B,)
        states = self.encode(history)
        newest = states[torch.arange(history.shape[0], device=history.device), last]  # (B, D)
        scores = F.linear(newest, self.items.weight)
        if self.seen_weight is None:
            return scores
        items = history.where(history >= 0, history[:, :1])  # again the first, where padding is
        seen = scores.gather(1, items) + SEEN_SCALE * self.seen_weight
        return scores.scatter(1, items, seen.to(scores.dtype))

    def _seen(self, history: Tensor, rows: Tensor, last: Tensor) -> ListedPairs | None:
        """List what is added to the scores of items that a user has: states, items, weight."""
        if self.seen_weight is None:
            return None
        size = history.shape[1]
        earlier = torch.ones(size, size, dtype=torch.bool, device=history.device).tril(-1)
        repeated = ((history.unsqueeze(2) == history.unsqueeze(1)) & earlier).any(dim=2)
        known = ((history >= 0) & ~repeated)[rows]
        known &= torch.arange(size, device=history.device) <= last.unsqueeze(1)  # (M, S)
        pairs = SeenPairs.of(history.clamp(min=0)[rows], known)
        # Ten times its parameter: one number has a long way to go in steps meant for vectors.
        extra = pairs.extra(SEEN_SCALE * self.seen_weight)
        return ListedPairs(pairs.rows, pairs.items, extra, pairs.each)

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Start the items' vectors from others, such as text vectors; before training.

        Args:
            vectors: Shape ``(N, X)``, floating point, any X.
        """
        self.items.weight.copy_(start_vectors(vectors, self.items.embedding_dim))
        self.positions.weight.mul_(QUIET)
        self.encoder.begin_as_identity()

    def ranker(self, catalogue: Catalogue, options: Mapping[str, Any]) -> ScoreRanker:
        """Recommend items of a catalogue, whose rows must be the model's.

        Args:
            catalogue: The items.
            options: ``max_history``, where it is shorter than the model's.

        Returns:
            The ranker.

        Raises:
            ArtifactError: If the catalogue has another number of items.
        """
        if catalogue.num_items != self.num_items:
            raise ArtifactError(
                f"catalogue must have the {self.num_items} items that SASRec was trained on, got "
                f"{catalogue.num_items}; train it again on this data set"
            )
        length = min(self.max_history, options.get("max_history", self.max_history))
        weight = self.items.weight.detach()
        return ScoreRanker("SASRec", catalogue, self.scores, length, weight.device, weight)

    def graphs(self, catalogue: Catalogue, options: Mapping[str, Any]) -> Graphs:
        """Take the model apart for use elsewhere; arguments as of :meth:`ranker`."""
        ranker = self.ranker(catalogue, options)
        history = torch.zeros(SIZES["B"], min(SIZES["S"], self.max_history), dtype=torch.long)
        scores = Graph(_Scores(on_cpu(self)), {"history": (history, "BS")}, ("scores",))
        return Graphs({"scores": scores}, ranker.name, ranker.max_history)


class _Scores(nn.Module):
    """The scores of all items as a graph."""

    def __init__(self, model: SasRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Map ``history`` to ``scores``."""
        return (self.model.scores(given["history"]),)

"""The retrieval model: generates the semantic ID of the next item.

Shape legend: B = users, S = history items, L = levels, T = encoder tokens, G = targets of a
row, W = beams, K = codes of a level, D = model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.data.catalogue import Catalogue
from genrec.data.schemas import SequenceBatch, TokenizedBatch
from genrec.data.sequence_dataset import user_buckets
from genrec.decoding.beam_search import BeamResult, constrained_beam_search
from genrec.decoding.legal import LegalSet
from genrec.decoding.trie import PrefixIndex
from genrec.errors import ArtifactError, ConfigError
from genrec.models.beam_ranker import BeamRanker, CodeLogProbs, index_of
from genrec.models.code_graphs import code_graphs
from genrec.models.graphs import Graphs, on_cpu
from genrec.models.saved import SavedModel
from genrec.models.token_layout import PAD_TOKEN, TokenLayout
from genrec.modules.transformer import (
    Decoder,
    DecoderTables,
    Encoder,
    StackSettings,
    start_queries_small,
)

__all__ = ["EncoderDecoderRetrievalModel", "RetrievalOutput"]

ENCODER_MASKS = ("full", "item_causal")


@dataclass(frozen=True)
class RetrievalOutput:
    """Result of a training pass.

    Attributes:
        loss: Mean over targets and levels, scalar.
        level_losses: Mean over targets for each level, shape ``(L,)``, detached.
    """

    loss: Tensor
    level_losses: Tensor


class EncoderDecoderRetrievalModel(SavedModel):
    """T5-style encoder-decoder over semantic IDs.

    The encoder reads the codes of the history, the decoder writes the codes of the next item.
    Each level has its own slice of the vocabulary, so a code's embedding says its level.

    Args:
        embedding_dim: Model width ``D``.
        attn_dim: Width of all attention heads together, a multiple of ``num_heads``.
        dropout: In ``[0, 1)``.
        num_heads: Attention heads.
        n_layers: Layers of encoder and decoder together, half each; or a pair.
        num_embeddings: Codes of a level, one number for all levels or one each.
        sem_id_dim: Levels ``L``, the dedup digit included.
        ff_dim: Width of the feed-forward layers.
        num_users: User tokens, 0 for none; users are hashed to them.
        separator: Whether a separator follows each history item.
        encoder_mask: ``full``: every token sees every token. ``item_causal``: a token sees its
            own item and earlier ones, so that one pass over a sequence serves all its targets.
        full_vocabulary: Normalise probabilities over the whole vocabulary, as T5 does, instead
            of over the codes of the level.

    Attributes:
        layout: Meaning of the rows of the embedding table.
        config: Arguments of the constructor, JSON.

    Raises:
        ConfigError: If the sizes do not fit together.

    Source:
        TIGER, https://arxiv.org/abs/2305.05065, on T5, https://arxiv.org/abs/1910.10683. Equal
        to T5 v1.0 without tied embeddings, which a test shows, except that probabilities are
        over a level's codes unless ``full_vocabulary``.

    Example:
        >>> model = EncoderDecoderRetrievalModel(32, 64, 0.0, 2, 2, num_embeddings=8, sem_id_dim=3)
        >>> index = PrefixIndex.from_ids([[0, 1, 2], [3, 4, 5]], (8, 8, 8))
        >>> history = torch.tensor([[[0, 1, 2]]])  # one user, one item
        >>> sorted(model.generate(history, index, num_beams=2).items[0].tolist())
        [0, 1]
    """

    trained_by = "genrec train decoder"

    def __init__(
        self,
        embedding_dim: int = 128,
        attn_dim: int = 384,
        dropout: float = 0.1,
        num_heads: int = 6,
        n_layers: int | tuple[int, int] = 8,
        num_embeddings: int | Sequence[int] = 256,
        sem_id_dim: int = 4,
        *,
        ff_dim: int = 1024,
        num_users: int = 0,
        separator: bool = False,
        encoder_mask: str = "full",
        full_vocabulary: bool = False,
    ) -> None:
        super().__init__()
        sizes = TokenLayout.sizes(num_embeddings, sem_id_dim)
        _check(embedding_dim, attn_dim, dropout, num_heads, sizes, sem_id_dim, encoder_mask)
        layers = (
            (n_layers // 2, n_layers - n_layers // 2) if isinstance(n_layers, int) else n_layers
        )
        self.layout = TokenLayout(sizes, separator, num_users)
        self.encoder_mask = encoder_mask
        self.full_vocabulary = full_vocabulary
        self.config: dict[str, Any] = {
            "embedding_dim": embedding_dim,
            "attn_dim": attn_dim,
            "dropout": dropout,
            "num_heads": num_heads,
            "n_layers": list(layers),
            "num_embeddings": list(sizes),
            "sem_id_dim": len(sizes),
            "ff_dim": ff_dim,
            "num_users": num_users,
            "separator": separator,
            "encoder_mask": encoder_mask,
            "full_vocabulary": full_vocabulary,
        }
        encoder, decoder = (
            StackSettings(count, embedding_dim, attn_dim, num_heads, ff_dim, dropout)
            for count in layers
        )
        self.embedding = nn.Embedding(self.layout.size, embedding_dim)
        self.encoder = Encoder(encoder)
        self.decoder = Decoder(decoder)
        self.head = nn.Linear(embedding_dim, self.layout.size, bias=False)
        self._init_weights()

    def _init_weights(self) -> None:
        """Keep the variance of activations at one, as T5 does, with small embeddings.

        T5's unit-variance embeddings suit its relative-step optimiser; under AdamW they take
        thousands of steps to move.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            if name.startswith("embedding"):
                nn.init.normal_(parameter, std=0.05)
            elif name.endswith("position_bias.weight"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        width = self.config["embedding_dim"]
        start_queries_small(self, self.config["attn_dim"], self.config["num_heads"])
        nn.init.normal_(self.head.weight, std=width**-0.5)

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.head.weight.device

    def forward(
        self,
        batch: TokenizedBatch,
        *,
        label_smoothing: float = 0.0,
        level_weights: Sequence[float] | None = None,
    ) -> RetrievalOutput:
        """Compute the training loss.

        Args:
            batch: Histories and targets.
            label_smoothing: Share of the probability spread over all codes, in ``[0, 1)``.
            level_weights: Weight of each level, all 1 when None.

        Returns:
            The loss, and that of each level.
        """
        logits = self.logits(batch)
        losses = []
        for level, scores in enumerate(logits):
            target = batch.targets[..., level]
            if self.full_vocabulary:
                target = torch.where(target >= 0, target + self.layout.level_offsets[level], -1)
            losses.append(
                F.cross_entropy(
                    scores.flatten(0, 1).float(),
                    target.flatten(),
                    ignore_index=-1,
                    label_smoothing=label_smoothing,
                )
            )
        stacked = torch.stack(losses)
        if level_weights is None:
            return RetrievalOutput(stacked.mean(), stacked.detach())
        weights = torch.tensor(level_weights, dtype=stacked.dtype, device=stacked.device)
        return RetrievalOutput((stacked * weights).sum() / weights.sum(), stacked.detach())

    def logits(self, batch: TokenizedBatch) -> list[Tensor]:
        """Score the codes of each level, each given the target's earlier codes.

        Args:
            batch: Histories and targets.

        Returns:
            For each level a tensor of shape ``(B, G, K)``, or ``(B, G, V)`` over the whole
            vocabulary with ``full_vocabulary``.
        """
        if batch.packed and self.encoder_mask != "item_causal":
            raise ConfigError(
                "packed training needs encoder_mask='item_causal', got 'full', with which an "
                "item would see its own targets; set train.encoder_mask='item_causal'"
            )
        memory, cross_bias = self.encode(batch.history, batch.user_ids, padded=batch.padded)
        levels = self.layout.num_levels
        if batch.packed:  # target g sees items up to g
            items = self.layout.history_positions(batch.history.shape[1], memory.device)
            targets = torch.arange(batch.targets.shape[1], device=memory.device)
            hidden = items > targets.repeat_interleave(levels).unsqueeze(1)  # (G * L, T)
            cross_bias = memory.new_zeros(hidden.shape).masked_fill(hidden, -torch.inf)[None, None]
        tokens = self.layout.item_tokens(batch.targets)  # (B, G, L)
        shifted = F.pad(tokens[..., :-1], (1, 0), value=PAD_TOKEN)
        inputs = self.embedding(shifted)  # (B, G, L, D)
        states = self.decoder(inputs.flatten(0, 1), memory, cross_bias).view_as(inputs)
        return [F.linear(states[:, :, level], self._head(level)) for level in range(levels)]

    @torch.no_grad()
    def code_log_probs(
        self, batch: TokenizedBatch, index: PrefixIndex, temperatures: Sequence[float] = (1.0,)
    ) -> CodeLogProbs:
        """Compute the log-probabilities of the targets' codes, each given those before it.

        Args:
            batch: Histories and one target each, an item of the catalogue.
            index: The catalogue, on the model's device.
            temperatures: See :class:`~genrec.models.beam_ranker.CodeLogProbs`.

        Returns:
            As in the training loss.
        """
        return CodeLogProbs.of_levels(self._choices(batch, index), temperatures)

    def _choices(
        self, batch: TokenizedBatch, index: PrefixIndex
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each level the log-probabilities of what continues the targets' prefixes.

        They have shape ``(B, C)``; with them comes the column of each target, ``(B,)``.
        """
        states = batch.targets.new_zeros(len(batch.targets), 1)
        for level, scores in enumerate(self.logits(batch)):
            log_probs = scores[:, 0].float().log_softmax(dim=-1)  # (B, K), or over all codes
            if self.full_vocabulary:
                begin = self.layout.level_offsets[level]
                log_probs = log_probs[:, begin : begin + self.layout.level_sizes[level]]
            following = index.step(states, level)
            codes, exists = following.codes[:, 0], following.legal[:, 0]
            match = exists & (codes == batch.targets[:, :, level])
            column = match.int().argmax(dim=1, keepdim=True)
            states = following.states[:, 0].gather(1, column)
            yield log_probs.gather(1, codes).masked_fill(~exists, -torch.inf), column.squeeze(1)

    def encode(
        self, history: Tensor, user_ids: Tensor | None = None, *, padded: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Encode histories.

        Args:
            history: Codes, oldest first, shape ``(B, S, L)``, integer; -1 for padding at the end.
            user_ids: Hashed users, shape ``(B,)``; needed where there are user tokens.
            padded: Whether there is padding; False saves the masks.

        Returns:
            Memory of shape ``(B, T, D)`` and the bias that hides its padding from the decoder,
            ``(B, 1, 1, T)``, or None where there is none.
        """
        tokens = self.layout.history_tokens(history, user_ids)
        hidden: Tensor | None = None
        pad = tokens == PAD_TOKEN if padded else None
        if self.encoder_mask == "item_causal":
            items = self.layout.history_positions(history.shape[1], tokens.device)
            hidden = (items > items.unsqueeze(1))[None, None]  # (1, 1, T, T)
        elif pad is not None:
            hidden = pad[:, None, None, :]
        memory = self.encoder(self.embedding(tokens), hidden)
        if pad is None:
            return memory, None
        bias = torch.zeros(pad.shape, dtype=memory.dtype, device=memory.device)
        return memory, bias.masked_fill(pad, -torch.inf)[:, None, None, :]

    @torch.no_grad()
    def decoding_tables(self) -> DecoderTables:
        """Compute what :meth:`generate` needs of the weights alone.

        Returns:
            To be given to every call of :meth:`generate` until the weights change.
        """
        levels = range(self.layout.num_levels - 1)
        return self.decoder.tables(
            [self.start_vector(), *(self._code_embeddings(level) for level in levels)]
        )

    @torch.no_grad()
    def generate(
        self,
        history: Tensor,
        index: PrefixIndex,
        *,
        num_beams: int,
        num_results: int | None = None,
        user_ids: Tensor | None = None,
        padded: bool = True,
        tables: DecoderTables | None = None,
        legal: LegalSet | None = None,
        temperature: float = 1.0,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> BeamResult:
        """Find the next items by constrained beam search.

        Args:
            history: Codes, oldest first, shape ``(B, S, L)``, integer; -1 for padding at the end.
            index: Prefix index of the catalogue, on the model's device.
            num_beams: Beams ``W``.
            num_results: Items for each user; ``num_beams`` when None.
            user_ids: Hashed users, shape ``(B,)``; needed where there are user tokens.
            padded: Whether there is padding.
            tables: From :meth:`decoding_tables`, to save computing them in every call; None
                computes them where this call alone is worth it.
            legal: Restriction on items, from the methods of ``index``.
            temperature: See :func:`~genrec.decoding.beam_search.constrained_beam_search`.
            sample: Likewise.
            generator: Likewise.

        Returns:
            Beams and items, best first.

        Raises:
            ArtifactError: If the index has other level sizes than the model.
        """
        if index.level_sizes != self.layout.level_sizes:
            raise ArtifactError(
                f"index must have the model's level sizes {self.layout.level_sizes}, got "
                f"{index.level_sizes}; use the ID table that the model was trained with"
            )
        memory, cross_bias = self.encode(history, user_ids, padded=padded)
        if tables is None and len(history) * num_beams > max(self.layout.level_sizes):
            tables = self.decoding_tables()
        positions = 1 + (self.layout.num_levels - 1) * num_beams
        cache = self.decoder.start(memory, cross_bias, num_queries=positions, tables=tables)

        def step(level: int, codes: Tensor | None, parents: Tensor | None) -> Tensor:
            if codes is None or parents is None:
                rows = torch.zeros(len(history), 1, dtype=torch.long, device=memory.device)
                table = self.start_vector()
            else:
                cache.reorder(parents)
                rows, table = codes, self._code_embeddings(level - 1)
            states = self.decoder.step(table, rows, level, cache)  # (B, W, D)
            return self.level_log_probs(states, level)

        return constrained_beam_search(
            step,
            index,
            batch_size=len(history),
            num_beams=num_beams,
            num_results=num_results,
            legal=legal,
            temperature=temperature,
            sample=sample,
            generator=generator,
        )

    def ranker(self, catalogue: Catalogue, options: Mapping[str, Any]) -> BeamRanker:
        """Recommend items of a catalogue by beam search; the weights must not change meanwhile.

        Args:
            catalogue: The items with their codes.
            options: ``num_beams`` and ``max_history`` as in training.

        Returns:
            The ranker.

        Raises:
            ArtifactError: If the catalogue has no codes, or those of other level sizes.
        """
        index = index_of(catalogue, self.layout.level_sizes, self.device)
        codes = torch.from_numpy(np.array(catalogue.codes, dtype=np.int64))
        # One more row answers for padding, since index -1 means the last.
        codes = torch.cat([codes, codes.new_full((1, codes.shape[1]), -1)]).to(self.device)
        tables, num_users = self.decoding_tables(), self.layout.num_users

        def user_tokens(users: Tensor | None) -> Tensor | None:
            if not num_users:
                return None
            if users is None:
                raise ConfigError(
                    f"users must be given to a model with {num_users} user tokens, got none; pass "
                    "the users' own ids"
                )
            return user_buckets(users, num_users)

        def search(history: Tensor, *, users: Tensor | None, **options: Any) -> BeamResult:
            tokens = user_tokens(users)
            return self.generate(codes[history], index, user_ids=tokens, tables=tables, **options)

        def likely(
            batch: SequenceBatch, *, users: Tensor | None, temperatures: Sequence[float]
        ) -> CodeLogProbs:
            tokens = user_tokens(users)
            tokenized = TokenizedBatch(
                history=codes[batch.history],
                targets=codes[batch.targets],
                user_ids=batch.user_ids if tokens is None else tokens,
                padded=batch.padded,
            )
            return self.code_log_probs(tokenized, index, temperatures)

        return BeamRanker(
            search,
            catalogue,
            index,
            likely=likely,
            num_beams=options.get("num_beams", 30),
            max_history=options.get("max_history", 20),
        )

    def graphs(self, catalogue: Catalogue, options: Mapping[str, Any]) -> Graphs:
        """Take the model apart for use elsewhere; arguments as of :meth:`ranker`."""
        ranker = self.ranker(catalogue, options)
        index = index_of(catalogue, self.layout.level_sizes, self.device)
        return Graphs(
            code_graphs(on_cpu(self), index, max_history=ranker.max_history),
            ranker.name,
            ranker.max_history,
            index,
            num_beams=ranker.num_beams,
            num_users=self.layout.num_users,
        )

    def start_vector(self) -> Tensor:
        """Return what decoding begins with, ``(1, D)``."""
        return self.embedding.weight[PAD_TOKEN : PAD_TOKEN + 1]

    def code_vectors(self, codes: Tensor, level: int) -> Tensor:
        """Embed codes of one level; shape ``(..., D)`` for codes of shape ``(...)``."""
        return F.embedding(codes, self._code_embeddings(level))

    def level_log_probs(self, states: Tensor, level: int) -> Tensor:
        """Compute the log-probabilities of a level's codes, ``(..., K)``, from ``(..., D)``."""
        scores = F.linear(states, self._head(level)).float().log_softmax(dim=-1)
        if self.full_vocabulary:
            begin = self.layout.level_offsets[level]
            scores = scores[..., begin : begin + self.layout.level_sizes[level]]
        return scores

    def _code_embeddings(self, level: int) -> Tensor:
        """Return the embeddings of a level's codes, ``(K, D)``."""
        start = self.layout.level_offsets[level]
        return self.embedding.weight[start : start + self.layout.level_sizes[level]]

    def _head(self, level: int) -> Tensor:
        """Return the rows of the output matrix that score a level."""
        if self.full_vocabulary:
            return self.head.weight
        start = self.layout.level_offsets[level]
        return self.head.weight[start : start + self.layout.level_sizes[level]]


def _check(
    embedding_dim: int,
    attn_dim: int,
    dropout: float,
    num_heads: int,
    sizes: tuple[int, ...],
    sem_id_dim: int,
    encoder_mask: str,
) -> None:
    if attn_dim % num_heads or min(embedding_dim, attn_dim, num_heads) < 1:
        raise ConfigError(
            f"attn_dim must be a multiple of num_heads, got {attn_dim} and {num_heads}; for "
            f"example train.attn_embed_dim={64 * num_heads}"
        )
    if len(sizes) != sem_id_dim or min(sizes) < 1:
        raise ConfigError(
            f"num_embeddings must give {sem_id_dim} sizes >= 1, got {sizes}; "
            "take level_sizes of the tokenizer"
        )
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout must lie in [0, 1), got {dropout}; the usual value is 0.1")
    if encoder_mask not in ENCODER_MASKS:
        raise ConfigError(
            f"encoder_mask must be one of {', '.join(ENCODER_MASKS)}, got {encoder_mask!r}; "
            "item_causal allows packed training"
        )

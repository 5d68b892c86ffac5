"""The blocks and stacks of a T5-style encoder-decoder.

Shape legend: B = users, T = encoder tokens, G = targets or beams of a user, L = code positions,
D = model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.modules.attention import (
    CrossAttention,
    CrossMemory,
    RelativePositionBias,
    SelfAttention,
)
from genrec.modules.kernels.dropout import dropout

__all__ = [
    "Decoder",
    "DecoderCache",
    "DecoderTables",
    "Encoder",
    "StackSettings",
    "start_queries_small",
]


@dataclass(frozen=True)
class StackSettings:
    """Shape of one stack.

    Attributes:
        num_layers: Number of layers.
        width: Model width ``D``.
        inner_width: Width of all attention heads together.
        num_heads: Number of heads.
        ff_width: Width of the feed-forward layer.
        dropout: Everywhere that T5 has it.
        num_buckets: Buckets of distance in the relative position bias, even.
        max_distance: Distances from here on, in tokens, share the last bucket.
        drop_output: Whether dropout follows the last layer too, as in T5.
        drop_attention: Whether attention weights are dropped too, as in T5.
    """

    num_layers: int
    width: int
    inner_width: int
    num_heads: int
    ff_width: int
    dropout: float
    num_buckets: int = 32
    max_distance: int = 128
    drop_output: bool = True
    drop_attention: bool = True

    @property
    def attention_dropout(self) -> float:
        """Dropout of attention weights."""
        return self.dropout if self.drop_attention else 0.0


@torch.no_grad()
def start_queries_small(model: nn.Module, inner_width: int, num_heads: int) -> None:
    """Divide all query matrices by the root of the head's width, as scores are not.

    Args:
        model: With any number of attention layers of ``inner_width`` and ``num_heads``.
        inner_width: Width of all attention heads together.
        num_heads: Number of heads.
    """
    scale = (inner_width // num_heads) ** -0.5
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.qkv.weight[:inner_width].mul_(scale)
        elif isinstance(module, CrossAttention):
            module.query.weight.mul_(scale)


class FeedForward(nn.Module):
    """Two matrices with a ReLU between them."""

    def __init__(self, width: int, ff_width: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, ff_width, bias=False)
        self.down = nn.Linear(ff_width, width, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., D)`` to ``(..., D)``."""
        hidden = F.relu_(self.up(x))
        return self.down(dropout(hidden, self.dropout, self.training))


def _norm(width: int) -> nn.RMSNorm:
    """RMS norm over ``(..., D)`` with T5's epsilon."""
    return nn.RMSNorm(width, eps=1e-6)


def _position_bias(s: StackSettings, *, bidirectional: bool) -> RelativePositionBias:
    """Make the bias that all layers of a stack share."""
    return RelativePositionBias(
        s.num_heads,
        bidirectional=bidirectional,
        num_buckets=s.num_buckets,
        max_distance=s.max_distance,
    )


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, normalised before, added after."""

    def __init__(self, s: StackSettings) -> None:
        super().__init__()
        self.attention_norm = _norm(s.width)
        self.attention = SelfAttention(s.width, s.inner_width, s.num_heads, s.attention_dropout)
        self.ff_norm = _norm(s.width)
        self.ff = FeedForward(s.width, s.ff_width, s.dropout)
        self.dropout = s.dropout

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map ``(B, T, D)`` to ``(B, T, D)``."""
        x = x + self._drop(self.attention(self.attention_norm(x), bias))
        return x + self._drop(self.ff(self.ff_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class Encoder(nn.Module):
    """A stack of encoder layers.

    Args:
        settings: Layers, widths and dropout.
    """

    def __init__(self, settings: StackSettings) -> None:
        super().__init__()
        self.position_bias = _position_bias(settings, bidirectional=True)
        self.layers = nn.ModuleList(EncoderLayer(settings) for _ in range(settings.num_layers))
        self.norm = _norm(settings.width)
        self.dropout = settings.dropout
        self.drop_output = settings.drop_output

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """Encode embedded tokens, ``(B, T, D)`` to ``(B, T, D)``.

        Args:
            x: The tokens.
            hidden: Which keys a query must not see, broadcastable to ``(B, 1, T, T)``, bool, or
                None where all is visible.
        """
        bias = self.position_bias(x.shape[1], x.shape[1])
        if hidden is not None:
            bias = bias.masked_fill(hidden, -torch.inf)
        x = dropout(x, self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, bias)
        return dropout(self.norm(x), self.dropout, self.training and self.drop_output)


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward."""

    def __init__(self, s: StackSettings) -> None:
        super().__init__()
        self.attention_norm = _norm(s.width)
        self.attention = SelfAttention(s.width, s.inner_width, s.num_heads, s.attention_dropout)
        self.cross_norm = _norm(s.width)
        self.cross = CrossAttention(s.width, s.inner_width, s.num_heads, s.attention_dropout)
        self.ff_norm = _norm(s.width)
        self.ff = FeedForward(s.width, s.ff_width, s.dropout)
        self.dropout = s.dropout

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        memory: CrossMemory,
        cross_bias: Tensor | None,
        live: Tensor | None = None,
    ) -> Tensor:
        """Map ``(M, L, D)`` to the same: positions attend inside their own target.

        ``live`` holds the place of each of the M targets among those of the batch, ``(B * G)``;
        None where all are there.
        """
        own = self.attention(self.attention_norm(x), bias)
        x = x + self._drop(own)
        rows = self.cross_norm(x)
        x = x + self._drop(self._look(rows, memory, cross_bias, live))
        return x + self._drop(self.ff(self.ff_norm(x)))

    def _look(
        self, rows: Tensor, memory: CrossMemory, cross_bias: Tensor | None, live: Tensor | None
    ) -> Tensor:
        """Attend to the encoder, all targets of a user in one row of the batch."""
        _, length, width = rows.shape
        batch = len(memory.keys)
        if live is None:
            return self.cross(rows.view(batch, -1, width), memory, cross_bias).view_as(rows)
        assert cross_bias is not None
        groups = cross_bias.shape[-2] // length
        wide = rows.new_zeros(batch * groups, length, width).index_copy(0, live, rows)
        mixed = self.cross(wide.view(batch, -1, width), memory, cross_bias)
        return mixed.view(-1, length, width).index_select(0, live)

    def step(
        self,
        x: Tensor,
        q: Tensor,
        seen: Sequence[Tensor],
        bias: Tensor,
        memory: CrossMemory,
        cross_bias: Tensor | None,
    ) -> Tensor:
        """Map one new position of every beam, ``(B, W, D)``; ``q`` and ``seen`` are its own."""
        x = x + self.attention.step(q, seen, bias)
        x = x + self.cross(self.cross_norm(x), memory, cross_bias)
        return x + self.ff(self.ff_norm(x))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what self-attention needs of ``x``; see :meth:`SelfAttention.project`."""
        return self.attention.project(self.attention_norm(x))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


@dataclass(frozen=True)
class DecoderTables:
    """What decoding needs of the weights alone, made once for many calls.

    Attributes:
        codes: For each position the first layer's queries, ``(K, H * E)``, and keys with values,
            ``(K, 2 * H * E)``, of every code.
        absorbed: For each layer what :meth:`~genrec.modules.attention.CrossAttention.absorb`
            returns.
    """

    codes: list[tuple[Tensor, Tensor]]
    absorbed: list[tuple[Tensor, Tensor]]


@dataclass
class DecoderCache:
    """What decoding remembers between codes.

    Keys and values stay where they were written; each beam remembers which row of every
    earlier position is its own. The first position is the same for all beams of a user.

    Attributes:
        cross: What each layer remembers of the encoder's output, once a user, whatever the
            number of beams.
        cross_bias: ``(B, 1, 1, T)``, ``-inf`` at padding, or None where there is none.
        own: For each layer the keys and values of each position, ``(B, W, 2 * H * E)``.
        rows: For each position after the first the flat row of each beam, ``(B * W,)``.
        tables: What is known beforehand, or None.
    """

    cross: list[CrossMemory]
    cross_bias: Tensor | None
    own: list[list[Tensor]]
    rows: list[Tensor]
    tables: DecoderTables | None = None

    def reorder(self, parents: Tensor) -> None:
        """Let each beam go on from a beam of the step before, their columns being ``(B, W)``."""
        batch, before = self.own[0][-1].shape[:2]
        first = torch.arange(batch, device=parents.device).unsqueeze(1) * before
        newest = (first + parents).flatten()
        self.rows = [rows[newest] for rows in self.rows]
        if len(self.own[0]) > 1:
            self.rows.append(newest)

    def past(self, layer: int) -> list[Tensor]:
        """Give a layer's own ``(B, W, 2 * H * E)`` of each position; beams share the first."""
        if not self.own[layer]:
            return []
        shared, *later = self.own[layer]
        batch, _, width = shared.shape
        return [shared] + [
            kv.view(-1, width).index_select(0, rows).view(batch, -1, width)
            for kv, rows in zip(later, self.rows, strict=True)
        ]


class Decoder(nn.Module):
    """A stack of decoder layers.

    Args:
        settings: Layers, widths and dropout.
    """

    def __init__(self, settings: StackSettings) -> None:
        super().__init__()
        self.position_bias = _position_bias(settings, bidirectional=False)
        self.layers = nn.ModuleList(DecoderLayer(settings) for _ in range(settings.num_layers))
        self.norm = _norm(settings.width)
        self.dropout = settings.dropout
        self.drop_output = settings.drop_output

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        cross_bias: Tensor | None,
        live: Tensor | None = None,
    ) -> Tensor:
        """Decode all positions of all targets at once, each position seeing those before it.

        Args:
            x: Embedded codes, shifted right, shape ``(M, L, D)``: all ``M = B * G`` targets, or
                some.
            memory: Encoder output, shape ``(B, T, D)``.
            cross_bias: Broadcastable to ``(B, 1, G * L, T)``, or None where all is visible;
                whole where ``live`` is given.
            live: Which of the ``B * G`` targets are there, rising, shape ``(M,)``, int64; None
                for all.

        Returns:
            Shape ``(M, L, D)``.
        """
        length = x.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        bias = self.position_bias(length, length).masked_fill(later, -torch.inf)
        x = dropout(x, self.dropout, self.training)
        for layer in self._layers():
            x = layer(x, bias, layer.cross.keys_values(memory), cross_bias, live)
        return dropout(self.norm(x), self.dropout, self.training and self.drop_output)

    def tables(self, embeddings: Sequence[Tensor]) -> DecoderTables:
        """Compute what depends on the weights alone; each position's codes are ``(K, D)``."""
        layers = self._layers()
        return DecoderTables(
            codes=[layers[0].project(table) for table in embeddings],
            absorbed=[layer.cross.absorb() for layer in layers],
        )

    def start(
        self,
        memory: Tensor,
        cross_bias: Tensor | None,
        *,
        num_queries: int,
        tables: DecoderTables | None = None,
    ) -> DecoderCache:
        """Prepare decoding code by code.

        Args:
            memory: Encoder output, shape ``(B, T, D)``.
            cross_bias: ``(B, 1, 1, T)``, or None.
            num_queries: Positions to decode for each user, those of all beams together.
            tables: From :meth:`tables`, which many beams have a use for.

        Returns:
            A cache for one beam a user.
        """
        layers = self._layers()
        absorbed = [None] * len(layers) if tables is None else tables.absorbed
        cross = [
            layer.cross.remember(memory, num_queries, known)
            for layer, known in zip(layers, absorbed, strict=True)
        ]
        own: list[list[Tensor]] = [[] for _ in layers]
        return DecoderCache(cross, cross_bias, own, rows=[], tables=tables)

    def _layers(self) -> list[DecoderLayer]:
        return list(self.layers)  # type: ignore[arg-type]

    def step(self, table: Tensor, rows: Tensor, position: int, cache: DecoderCache) -> Tensor:
        """Decode one more position of every beam.

        Args:
            table: Embeddings of all codes of this position, shape ``(K, D)``.
            rows: The code of each beam, shape ``(B, W)``, int64.
            position: How many positions came before.
            cache: From :meth:`start`; updated.

        Returns:
            Shape ``(B, W, D)``.
        """
        known = None
        if cache.tables is not None:  # a code is projected once for all beams
            q, kv = (F.embedding(rows, part) for part in cache.tables.codes[position])
            known = (q, kv)
        return self.advance(F.embedding(rows, table), position, cache, known)

    def advance(
        self,
        x: Tensor,
        position: int,
        cache: DecoderCache,
        known: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Decode one more position of every beam from its input.

        Args:
            x: Shape ``(B, W, D)``.
            position: How many positions came before.
            cache: From :meth:`start`; updated.
            known: What the first layer's ``project`` would make of ``x``, or None.

        Returns:
            Shape ``(B, W, D)``.
        """
        past = [cache.past(number) for number in range(len(cache.own))]
        x, own = self.go_on(x, position, past, (cache.cross, cache.cross_bias), known)
        for seen, kv in zip(cache.own, own, strict=True):
            seen.append(kv)
        return x

    def go_on(
        self,
        x: Tensor,
        position: int,
        past: Sequence[Sequence[Tensor]],
        cross: tuple[Sequence[CrossMemory], Tensor | None],
        known: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Decode one more position of every beam, changing nothing.

        Args:
            x: Shape ``(B, W, D)``.
            position: How many positions came before.
            past: For each layer the keys and values of each of these, ``(B, W, 2 * H * E)``.
            cross: What each layer remembers of the encoder's output, and the bias that hides its
                padding, ``(B, 1, 1, T)``, or None.
            known: What the first layer's ``project`` would make of ``x``, or None.

        Returns:
            Shape ``(B, W, D)``, and for each layer the keys and values of this position.
        """
        bias = self.position_bias(1, position + 1, offset=position)
        memories, cross_bias = cross
        own = []
        for number, layer in enumerate(self._layers()):
            q, kv = known if known is not None and number == 0 else layer.project(x)
            x = layer.step(x, q, [*past[number], kv], bias, memories[number], cross_bias)
            own.append(kv)
        return self.norm(x), own

    def memories(self, memory: Tensor) -> list[CrossMemory]:
        """Project the encoder's output, ``(B, T, D)``, for each layer in the plain form."""
        return [layer.cross.keys_values(memory) for layer in self._layers()]


@torch.no_grad()
def begin_as_identity(stack: nn.Module) -> None:
    """Let each layer of a stack begin as the identity; see :class:`CausalEncoder` for when."""
    for name, parameter in stack.named_parameters():
        if name.endswith(("out.weight", "down.weight")):
            nn.init.zeros_(parameter)

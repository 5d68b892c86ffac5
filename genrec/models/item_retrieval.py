"""The item-token model: reads one token an item, generates the codes of the next one.

Shape legend: B = users, S = history items, G = targets of a row, M = targets of a batch, L =
levels, K = codes of a level, C = children of a prefix, W = beams, N = items, D = model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.data.catalogue import Catalogue
from genrec.data.schemas import SequenceBatch
from genrec.decoding.beam_search import BeamResult, constrained_beam_search
from genrec.decoding.legal import LegalSet
from genrec.decoding.trie import PrefixIndex, TrieStep
from genrec.errors import ArtifactError, ConfigError
from genrec.models.beam_ranker import BeamRanker, CodeLogProbs, index_of
from genrec.models.code_tree import SEEN_SCALE, CodeTree
from genrec.models.graphs import Graphs, on_cpu
from genrec.models.item_graphs import item_graphs
from genrec.models.item_growth import grown_weights, nearest_items
from genrec.models.item_head import first_code_scores, item_loss, item_scores
from genrec.models.item_settings import (
    HistorySettings,
    ItemHeadSettings,
    ItemVectorSettings,
    TreeSettings,
    check_groups,
    check_sizes,
)
from genrec.models.item_targets import Targets, children, mean_loss, padding_bias
from genrec.models.item_tokens import ItemTokens
from genrec.models.saved import SavedModel
from genrec.models.seen_items import SeenItems
from genrec.modules.causal_encoder import CausalEncoder
from genrec.modules.kernels.linear_cross_entropy import head_dtype
from genrec.modules.start_vectors import QUIET, start_vectors
from genrec.modules.transformer import (
    Decoder,
    StackSettings,
    begin_as_identity,
    start_queries_small,
)

__all__ = ["ItemRetrievalOutput", "ItemTokenRetrievalModel"]

#: Catalogues up to this size have all their tokens made before a search.
_FEW_ITEMS = 1_000_000


@dataclass(frozen=True)
class ItemRetrievalOutput:
    """Result of a training pass.

    Attributes:
        loss: Scalar.
        level_losses: Mean over targets for each level, in nats, shape ``(L,)``, detached.
        item_loss: That of the item head, scalar, detached, or None without one.
    """

    loss: Tensor
    level_losses: Tensor
    item_loss: Tensor | None


class ItemTokenRetrievalModel(SavedModel):
    """An encoder over items and a decoder over the codes of the next item.

    Each item of the history is one token. The encoder is item-causal, so one pass over a window
    serves a target at every position; the decoder of a target attends to the items before it
    and writes its codes, each a choice among the codes that continue an existing prefix.

    Args:
        num_items: N.
        level_sizes: Codes of each level, ``L`` of them.
        num_states: Prefixes that exist at each level, ``PrefixIndex.num_states[1:]``.
        embedding_dim: D, a multiple of ``num_heads``.
        num_heads: Attention heads.
        n_layers: Layers of encoder and decoder.
        ff_dim: Width of the feed-forward layers of encoder and decoder.
        dropout: Of encoder and decoder, on their inputs and after each part of a layer, each in
            ``[0, 1)``.
        max_history: Most items of a history.
        items: Of the items' own vectors.
        tree: Of the codes' probabilities.
        head: Of the softmax over items.
        history: Of items that the user already has.

    Attributes:
        config: Arguments of the constructor, flat, JSON.

    Raises:
        ConfigError: If the sizes do not fit together.

    Source:
        One position an item and a decoder over its codes as in MARIUS,
        https://arxiv.org/abs/2508.14910; an item score beside generation as in LIGER,
        https://arxiv.org/abs/2411.18814. Differs from both: probabilities over existing
        prefixes, and a vector for each of them.

    Example:
        >>> index = PrefixIndex.from_ids([[0, 1], [0, 2], [3, 1]], (4, 4))
        >>> model = ItemTokenRetrievalModel.for_index(index, embedding_dim=8).eval()
        >>> sorted(model.generate(torch.tensor([[2, 0]]), index, num_beams=3).items[0].tolist())
        [0, 1, 2]
    """

    trained_by = "genrec train decoder"

    def __init__(
        self,
        num_items: int,
        level_sizes: Sequence[int],
        num_states: Sequence[int],
        *,
        embedding_dim: int = 64,
        num_heads: int = 2,
        n_layers: tuple[int, int] = (2, 1),
        ff_dim: tuple[int, int] = (256, 256),
        dropout: tuple[float, float] = (0.2, 0.2),
        max_history: int = 20,
        items: ItemVectorSettings | None = None,
        tree: TreeSettings | None = None,
        head: ItemHeadSettings | None = None,
        history: HistorySettings | None = None,
    ) -> None:
        super().__init__()
        items, tree = items or ItemVectorSettings(), tree or TreeSettings()
        head, history = head or ItemHeadSettings(), history or HistorySettings()
        check_sizes(num_items, embedding_dim, num_heads, (*n_layers, *ff_dim, max_history), dropout)
        check_groups(items, tree, head, history)
        self.num_items, self.max_history = num_items, max_history
        self.level_sizes, self.num_states = tuple(level_sizes), tuple(num_states)
        self.head, self.history = head, history
        self.config: dict[str, Any] = {
            "num_items": num_items,
            "level_sizes": list(level_sizes),
            "num_states": list(num_states),
            "embedding_dim": embedding_dim,
            "num_heads": num_heads,
            "n_layers": list(n_layers),
            "ff_dim": list(ff_dim),
            "dropout": list(dropout),
            "max_history": max_history,
        }
        for group in (items, tree, head, history):
            self.config |= asdict(group)
        self.encoder = CausalEncoder(
            embedding_dim,
            num_heads=num_heads,
            num_layers=n_layers[0],
            ff_width=ff_dim[0],
            dropout=dropout[0],
        )
        self.decoder = Decoder(
            StackSettings(
                num_layers=n_layers[1],
                width=embedding_dim,
                inner_width=embedding_dim,
                num_heads=num_heads,
                ff_width=ff_dim[1],
                dropout=dropout[1],
                drop_output=False,
                drop_attention=False,
            )
        )
        self._init_decoder(embedding_dim, num_heads)
        self.tokens = ItemTokens(num_items, level_sizes, embedding_dim, items)
        self.positions = nn.Parameter(torch.empty(max_history, embedding_dim))
        self.starts = nn.Parameter(torch.empty(len(level_sizes), embedding_dim))
        for table in (self.positions, self.starts):
            nn.init.normal_(table, std=embedding_dim**-0.5)
        self.to_decoder = nn.Linear(embedding_dim, embedding_dim)
        nn.init.eye_(self.to_decoder.weight)
        self.tree = CodeTree(
            level_sizes,
            num_states,
            embedding_dim,
            tree,
            history,
            own_leaves=not items.item_vectors,
        )
        scores_items = tree.root_items or head.item_head_weight > 0
        start = torch.tensor((history.seen_start or 0.0) / SEEN_SCALE)
        self.seen_weight = nn.Parameter(start) if history.seen_weights and scores_items else None

    def _init_decoder(self, width: int, num_heads: int) -> None:
        """Keep the variance of activations at one."""
        for name, parameter in self.decoder.named_parameters():
            if name.endswith("position_bias.weight"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        start_queries_small(self.decoder, width, num_heads)

    @classmethod
    def for_index(cls, index: PrefixIndex, **options: Any) -> ItemTokenRetrievalModel:
        """Build the model of a catalogue.

        Args:
            index: The catalogue.
            options: Keyword arguments of the constructor.

        Returns:
            The model.
        """
        return cls(index.num_items, index.level_sizes, index.num_states[1:], **options)

    @torch.no_grad()
    def start_from(self, vectors: Tensor, index: PrefixIndex, *, seed: int = 0) -> None:
        """Let the vectors of items and prefixes start from what is known of the items.

        Call it before training, with the vectors that the codes were made of, for example.

        Args:
            vectors: Shape ``(N, X)``, floating point, any X.
            index: The catalogue.
            seed: Of the items that prefixes start from.
        """
        self._check_index(index)
        found = start_vectors(vectors.to(self.device), self.config["embedding_dim"])
        if self.tokens.vectors is not None:
            ids = torch.arange(self.num_items, device=self.device)
            self.tokens.vectors.weight[self.tokens.vectors.rows(ids)] = found
        self.positions.mul_(QUIET)
        self.encoder.begin_as_identity()
        begin_as_identity(self.decoder)
        self.tree.start_from(found, index, torch.Generator().manual_seed(seed))

    def item_seen_weight(self) -> Tensor | None:
        """What the item head adds to the scores of items that the user has, scalar."""
        return None if self.seen_weight is None else SEEN_SCALE * self.seen_weight

    def _first_code_scores(
        self,
        states: Tensor,
        index: PrefixIndex,
        table: Tensor | None,
        seen: SeenItems | None,
        wanted: Tensor | None = None,
    ) -> Tensor | None:
        """Score first codes by the items below them, ``(M, K)``; None where they are not."""
        if not self.tree.settings.root_items:
            return None
        dtype = torch.float32  # a search is exact
        if self.training:
            dtype = head_dtype(self.head.item_head_dtype, states.device)
        return first_code_scores(
            states,
            self.tokens.table(index) if table is None else table,
            index,
            wanted,
            dtype,
            seen=seen,
            seen_weight=self.item_seen_weight(),
            skip_history=self.history.skip_history,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.positions.device

    def forward(
        self,
        batch: SequenceBatch,
        index: PrefixIndex,
        *,
        label_smoothing: float = 0.0,
        level_weights: Sequence[float] | None = None,
    ) -> ItemRetrievalOutput:
        """Compute the training loss: nats a target, those of the item head weighed and added.

        Args:
            batch: Histories of at most ``max_history`` items and targets, packed or not.
            index: The catalogue, on the model's device.
            label_smoothing: Share of the probability spread over all children of a prefix (all
                codes, where these are normalised over), in ``[0, 1)``.
            level_weights: Weight of each level, all 1 when None.

        Returns:
            The losses.

        Raises:
            ArtifactError: If the index is not that of the model's catalogue.
        """
        self._check_index(index)
        memory = self.encode(batch.history, index)
        targets = Targets.of_batch(batch)
        states = memory[targets.rows, targets.last]  # (M, D)
        seen = self._seen(batch.history, index, targets.rows, targets.last)
        first = self._first_code_scores(states, index, None, seen, targets.items)
        losses = [
            mean_loss(log_probs, column, label_smoothing)
            for log_probs, column in self._choices(memory, states, targets, index, seen, first)
        ]
        stacked = torch.stack(losses)
        weights = level_weights or (1.0,) * len(losses)
        loss = torch.stack(
            [w * of_level for w, of_level in zip(weights, losses, strict=True)]
        ).sum()
        of_items = None
        if self.head.item_head_weight:
            of_items = item_loss(
                states,
                self.tokens,
                index,
                targets.items,
                self.head,
                seen=seen,
                seen_weight=self.item_seen_weight(),
                skip_history=self.history.skip_history,
                first=first,
            )
            loss = loss + self.head.item_head_weight * of_items
        return ItemRetrievalOutput(
            loss, stacked.detach(), None if of_items is None else of_items.detach()
        )

    def _choices(
        self,
        memory: Tensor,
        states: Tensor,
        targets: Targets,
        index: PrefixIndex,
        seen: SeenItems | None,
        first: Tensor | None,
        *,
        later_temperature: float = 1.0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each level the log-probabilities of the children of the targets' prefixes.

        Takes the encoder's output ``(B, S, D)`` and its states of the targets ``(M, D)``; gives
        ``(M, C)``, and the column of each target, ``(M,)``.
        """
        decoded = self._decode(memory, states, targets, index)  # (M, L, D)
        paths = index.paths.states[targets.items].long()  # (M, L)
        parents = F.pad(paths[:, :-1], (1, 0))
        for level in range(len(self.level_sizes)):
            following = children(index, parents[:, level], level)
            column = paths[:, level] - following.states[:, 0]
            log_probs = self.tree.log_probs(
                decoded[:, level],
                states,
                level,
                following,
                index,
                seen=seen,
                items=self.tokens.vectors,
                wanted=column,
                temperature=later_temperature if level else 1.0,
                first=first if level == 0 else None,
            )
            yield log_probs, column

    @torch.no_grad()
    def code_log_probs(
        self,
        batch: SequenceBatch,
        index: PrefixIndex,
        temperatures: Sequence[float] = (1.0,),
        *,
        later_temperature: float = 1.0,
    ) -> CodeLogProbs:
        """Compute the log-probabilities of the targets' codes, each given those before it.

        Args:
            batch: Histories of at most ``max_history`` items, and one target each.
            index: The catalogue, on the model's device.
            temperatures: See :class:`~genrec.models.beam_ranker.CodeLogProbs`.
            later_temperature: See :meth:`generate`.

        Returns:
            As in the training loss.

        Raises:
            ArtifactError: If the index is not that of the model's catalogue.
        """
        self._check_index(index)
        memory, targets = self.encode(batch.history, index), Targets.of_batch(batch)
        states = memory[targets.rows, targets.last]
        seen = self._seen(batch.history, index, targets.rows, targets.last)
        first = self._first_code_scores(states, index, None, seen, targets.items)
        levels = self._choices(
            memory, states, targets, index, seen, first, later_temperature=later_temperature
        )
        return CodeLogProbs.of_levels(levels, temperatures)

    def _seen(
        self, history: Tensor, index: PrefixIndex, rows: Tensor, last: Tensor | None = None
    ) -> SeenItems | None:
        """Look up what users have, where it counts; see :meth:`SeenItems.build`."""
        if not (self.history.seen_weights or self.history.skip_history):
            return None
        return SeenItems.build(history, index, rows, last)

    def encode(self, history: Tensor, index: PrefixIndex, table: Tensor | None = None) -> Tensor:
        """Encode each item together with those before it.

        Args:
            history: Items, oldest first, shape ``(B, S)``, int64; -1 for padding at the end.
            index: The catalogue.
            table: Tokens of all items, shape ``(N, D)``, where they are at hand.

        Returns:
            Shape ``(B, S, D)``; rows of padding hold anything.
        """
        size = history.shape[1]
        if size > self.max_history:
            raise ConfigError(
                f"history must have at most {self.max_history} items, got {size}; keep the newest"
            )
        ids = history.clamp(min=0)
        tokens = self.tokens(ids, index) if table is None else F.embedding(ids, table)
        memory: Tensor = self.encoder(tokens + self.positions[:size])
        return memory

    def _decode(
        self, memory: Tensor, states: Tensor, targets: Targets, index: PrefixIndex
    ) -> Tensor:
        """Decode all targets of a batch, ``(M, L, D)``."""
        codes = index.codes_of_items(targets.items)  # (M, L)
        levels = range(codes.shape[1] - 1)
        earlier = [self.tokens.code(codes[:, level], level) for level in levels]
        inputs = torch.stack([torch.zeros_like(states), *earlier], dim=1)
        inputs = inputs + self.starts + self.to_decoder(states).unsqueeze(1)
        bias = targets.hidden(codes.shape[1], memory)
        decoded: Tensor = self.decoder(inputs, memory, bias, targets.live)
        return decoded

    @torch.no_grad()
    def item_table(self, index: PrefixIndex) -> Tensor | None:
        """Make all items' tokens, which :meth:`generate` then need not.

        Args:
            index: The catalogue.

        Returns:
            Shape ``(N, D)``, to be used until the weights change; None where a large catalogue
            makes looking items up one by one the better way.
        """
        return self.tokens.table(index) if index.num_items <= _FEW_ITEMS else None

    @torch.no_grad()
    def generate(
        self,
        history: Tensor,
        index: PrefixIndex,
        *,
        num_beams: int,
        num_results: int | None = None,
        padded: bool = True,
        table: Tensor | None = None,
        legal: LegalSet | None = None,
        rescore: float | None = None,
        later_temperature: float = 1.0,
        temperature: float = 1.0,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> BeamResult:
        """Find the next items by constrained beam search.

        Args:
            history: Items, oldest first, shape ``(B, S)``, int64; -1 for padding at the end.
            index: Prefix index of the catalogue, on the model's device.
            num_beams: Beams ``W``.
            num_results: Items for each user; ``num_beams`` when None.
            padded: Whether there is padding.
            table: From :meth:`item_table`, or None.
            legal: Restriction on items, from the methods of ``index``.
            rescore: Order the items of the beams by the item head's score plus this many times
                the log-probability of their IDs; None for the latter alone. Item scores are then
                log-probabilities up to a constant of each user.
            later_temperature: Divides the scores of the codes after the first, > 0. Above 1 it
                takes back some of what they are too sure of, which a first code's many items and
                a later one's few are not alike.
            temperature: See :func:`~genrec.decoding.beam_search.constrained_beam_search`.
            sample: Likewise.
            generator: Likewise.

        Returns:
            Beams and items, best first.

        Raises:
            ArtifactError: If the index is not that of the model's catalogue.
            ConfigError: If ``rescore`` is given to a model without item head, or
                ``later_temperature`` is not above 0, or other than 1 where probabilities are
                not shared among the codes of a prefix.
        """
        self._check_index(index)
        self._check_temperature(later_temperature)
        if rescore is not None and not self.head.item_head_weight:
            raise ConfigError(
                "rescore must be None for a model without item head, got "
                f"{rescore}; train with item_head_weight=0.5"
            )
        batch = len(history)
        memory = self.encode(history, index, table)
        users = torch.arange(batch, device=memory.device)
        states = memory[users, (history >= 0).sum(dim=1) - 1]  # (B, D)
        seen = self._seen(history, index, users)
        if self.history.skip_history:
            unseen = index.exclude_per_user(history)
            legal = unseen if legal is None else legal & unseen
        cache = self.decoder.start(
            memory,
            padding_bias(history, memory) if padded else None,
            num_queries=1 + (len(self.level_sizes) - 1) * num_beams,
        )
        start = self.to_decoder(states).unsqueeze(1)  # (B, 1, D)
        first = self._first_code_scores(states, index, table, seen)

        def step(
            level: int, codes: Tensor | None, parents: Tensor | None, following: TrieStep
        ) -> Tensor:
            inputs = start + self.starts[level]
            if codes is not None and parents is not None:
                cache.reorder(parents)
                inputs = inputs + self.tokens.code(codes, level - 1)
            decoded = self.decoder.advance(inputs, level, cache)  # (B, W, D)
            width = decoded.shape[1]
            flat = TrieStep(
                following.codes.flatten(0, 1),
                following.states.flatten(0, 1),
                following.legal.flatten(0, 1),
            )
            log_probs = self.tree.log_probs(
                decoded.flatten(0, 1),
                states.repeat_interleave(width, dim=0),
                level,
                flat,
                index,
                seen=None if seen is None else seen.each(width),
                items=self.tokens.vectors,
                temperature=later_temperature if level else 1.0,
                first=first if level == 0 else None,
            )
            return log_probs.view(batch, width, -1)

        found = constrained_beam_search(
            None,
            index,
            batch_size=batch,
            num_beams=num_beams,
            num_results=num_results if rescore is None else max(num_beams, num_results or 1),
            legal=legal,
            temperature=temperature,
            sample=sample,
            generator=generator,
            child_fn=step,
        )
        if rescore is None:
            return found
        scores = item_scores(
            states, self.tokens, index, found.items, history, self.item_seen_weight(), table
        )
        return found.reordered(scores + rescore * found.item_scores, num_results or num_beams)

    def ranker(self, catalogue: Catalogue, options: Mapping[str, Any]) -> BeamRanker:
        """Recommend items of a catalogue by beam search; the weights must not change meanwhile.

        Args:
            catalogue: The items with their codes: those that the model was trained on, and maybe
                more after them, which are known by their codes alone.
            options: ``num_beams`` and ``max_history`` as in training; ``later_temperature`` and
                ``rescore``, see :meth:`generate`, the latter 0 for generation alone.

        Returns:
            The ranker.

        Raises:
            ArtifactError: If the catalogue has no codes, or others than the model.
        """
        model, index = self._fitted(catalogue)
        table, rescore = model.item_table(index), options.get("rescore") or None
        later = options.get("later_temperature", 1.0)
        model._check_temperature(later)

        def search(history: Tensor, *, users: Tensor | None, **options: Any) -> BeamResult:
            return model.generate(
                history, index, table=table, rescore=rescore, later_temperature=later, **options
            )

        def likely(
            batch: SequenceBatch, *, users: Tensor | None, temperatures: Sequence[float]
        ) -> CodeLogProbs:
            return model.code_log_probs(batch, index, temperatures, later_temperature=later)

        return BeamRanker(
            search,
            catalogue,
            index,
            likely=likely,
            num_beams=options.get("num_beams", 30),
            max_history=min(self.max_history, options.get("max_history", self.max_history)),
            name="generation" if rescore is None else "re-scored",
        )

    def graphs(self, catalogue: Catalogue, options: Mapping[str, Any]) -> Graphs:
        """Take the model apart for use elsewhere; arguments as of :meth:`ranker`."""
        model, index = self._fitted(catalogue)
        ranker, rescore = self.ranker(catalogue, options), options.get("rescore") or None
        return Graphs(
            item_graphs(
                on_cpu(model),
                index,
                rescore=rescore is not None,
                later_temperature=options.get("later_temperature", 1.0),
            ),
            ranker.name,
            ranker.max_history,
            index,
            num_beams=ranker.num_beams,
            rescore=rescore,
            skip_history=self.history.skip_history,
        )

    def _fitted(self, catalogue: Catalogue) -> tuple[ItemTokenRetrievalModel, PrefixIndex]:
        """Return the model of a catalogue, grown where this has new items, and its index."""
        index = index_of(catalogue, self.level_sizes, self.device)
        model = self
        if index.num_items > self.num_items:
            trained = np.asarray(catalogue.codes)[: self.num_items]
            old = PrefixIndex.from_ids(trained, self.level_sizes, device=self.device)
            sketch = catalogue.sketch
            texts = None if sketch is None else torch.from_numpy(np.array(sketch)).to(self.device)
            model = self.grown(old, index, texts)
        model._check_index(index)
        return model, index

    def grown(
        self, old: PrefixIndex, new: PrefixIndex, texts: Tensor | None = None
    ) -> ItemTokenRetrievalModel:
        """Let the model know more items, by those whose texts, or else codes, are nearest.

        Args:
            old: The catalogue that it was trained on.
            new: One that begins with the same items.
            texts: Sketches of all items' text vectors, shape ``(N, P)``, float32; None where they
                are unknown.

        Returns:
            A new model in evaluation mode; what the catalogue lacked before stands where its
            nearest kin stand.
        """
        self._check_index(old)
        sizes = {"num_items": new.num_items, "num_states": new.num_states[1:]}
        model = self.from_config(self.config | sizes).to(self.device).eval()
        near = None if texts is None else nearest_items(texts, old.num_items)
        model.load_state_dict(grown_weights(self.state_dict(), model.state_dict(), old, new, near))
        return model

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ItemTokenRetrievalModel:
        """Build a model, untrained, from the flat settings of :attr:`config`.

        Args:
            config: As :attr:`config`; names may be missing where there is a default.

        Returns:
            The model.
        """
        rest: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in config.items()
        }
        groups = {
            "items": ItemVectorSettings,
            "tree": TreeSettings,
            "head": ItemHeadSettings,
            "history": HistorySettings,
        }
        built: dict[str, Any] = {}
        for name, group in groups.items():
            known = [field.name for field in fields(group) if field.name in rest]
            built[name] = group(**{field: rest.pop(field) for field in known})
        return cls(**rest, **built)

    def _check_temperature(self, later: float) -> None:
        if not later > 0 or (later != 1 and self.tree.settings.normalize_over != "prefix"):
            raise ConfigError(
                "later_temperature must be above 0, and 1 unless normalize_over='prefix', got "
                f"{later} with {self.tree.settings.normalize_over!r}; 1.25 is a good one"
            )

    def _check_index(self, index: PrefixIndex) -> None:
        found = (index.num_items, index.level_sizes, tuple(index.num_states[1:]))
        if found != (self.num_items, self.level_sizes, self.num_states):
            raise ArtifactError(
                f"index must have the model's {self.num_items} items in {self.num_states} "
                f"prefixes of {self.level_sizes} codes, got {found[0]} in {found[2]} of "
                f"{found[1]}; use the ID table that the model was trained with"
            )

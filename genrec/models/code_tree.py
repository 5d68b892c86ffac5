"""Probabilities of the codes that continue a prefix, from vectors of codes and prefixes.

Shape legend: M = rows (targets, or beams of all users), C = children of a prefix, K = codes of a
level, L = levels, D = width, V = vectors of a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.decoding.trie import PrefixIndex, TrieStep
from genrec.models.item_settings import HistorySettings, TreeSettings
from genrec.models.seen_items import SeenItems
from genrec.modules.exporting import is_exporting
from genrec.modules.hashed_embedding import HashedEmbedding
from genrec.modules.kernels.group_logsumexp import RowGroups, linear_group_logsumexp
from genrec.modules.kernels.window_dot import window_dot
from genrec.modules.kernels.window_logsumexp import Windows, window_logsumexp

__all__ = ["SEEN_SCALE", "CodeTree"]

#: Weights of seen items go through tens of nats, which Adam takes in steps of the learning rate.
SEEN_SCALE = 10.0
_LEAST_LEFT = 1e-3
#: Items below prefixes that a search scores at a time, some 50 bytes each.
_ENTRIES = 2**23


class CodeTree(nn.Module):
    """Scores the children of prefixes.

    A child's score is the product of the decoder's state with the sum of two vectors: its code's
    and its prefix's. Children are read in windows of the prefix index, so that time and memory
    do not depend on the number of items.

    Args:
        level_sizes: Codes of each level, ``L`` of them.
        num_states: Prefixes that exist at each level, ``L`` numbers.
        width: D.
        settings: Of the probabilities.
        history: Of items that the user has.
        own_leaves: Whether whole IDs have vectors here; else they have those of the items, which
            :meth:`log_probs` is given.
    """

    def __init__(
        self,
        level_sizes: Sequence[int],
        num_states: Sequence[int],
        width: int,
        settings: TreeSettings,
        history: HistorySettings,
        *,
        own_leaves: bool,
    ) -> None:
        super().__init__()
        self.settings, self.history = settings, history
        self.level_sizes = tuple(level_sizes)
        levels = len(self.level_sizes)
        self.codes = nn.Parameter(torch.empty(sum(level_sizes), width))
        # Small beside vectors of the prefixes, which say more.
        scale = 0.2 if settings.prefix_vectors else 1.0
        nn.init.normal_(self.codes, std=scale * width**-0.5)
        self.projections = nn.ModuleList(nn.Linear(width, width) for _ in level_sizes)
        # Levels that score items change what the encoder says, the others take the decoder's state.
        self.items_from = levels if settings.items_from is None else settings.items_from
        for level, projection in enumerate(self.projections):
            assert isinstance(projection, nn.Linear)
            from_items = level >= self.items_from or (level == 0 and settings.root_items)
            (nn.init.zeros_ if from_items else nn.init.eye_)(projection.weight)
        self.prefixes = nn.ModuleList()
        if settings.prefix_vectors:
            for level in range(min(self.items_from, levels if own_leaves else levels - 1)):
                count = num_states[level] * settings.vectors(level)
                self.prefixes.append(HashedEmbedding(count, width, settings.prefix_rows))
        self.seen_weights: nn.Parameter | None = None
        if history.seen_weights:
            start = torch.full((levels,), 1.0 / SEEN_SCALE)
            if settings.root_items:
                start[0] = 0.0  # the items below know
            start[-1] = (history.seen_start or 0.0) / SEEN_SCALE
            self.seen_weights = nn.Parameter(start)

    def log_probs(
        self,
        x: Tensor,
        states: Tensor,
        level: int,
        following: TrieStep,
        index: PrefixIndex,
        *,
        seen: SeenItems | None = None,
        items: HashedEmbedding | None = None,
        wanted: Tensor | None = None,
        temperature: float = 1.0,
        first: Tensor | None = None,
    ) -> Tensor:
        """Compute the log-probabilities of the children of prefixes.

        Args:
            x: Decoder's states, shape ``(M, D)``.
            states: Encoder's states, shape ``(M, D)``.
            level: Length of the prefixes.
            following: Their children, ``(M, C)``.
            index: The catalogue.
            seen: Items that each row's user has; needed where the settings say that they count.
            items: Vectors of the items, which are those of the whole IDs.
            wanted: Column of the target, shape ``(M,)``, int64, which keeps a probability even
                where the user has it; or None.
            temperature: Divides the scores, > 0.
            first: Scores of all first codes by the items below them, shape ``(M, K)``, to which
                those of level 0 are added; or None.

        Returns:
            Shape ``(M, C)``, float32; ``-inf`` where no child is.
        """
        x = self.projections[level](x)
        if self.settings.normalize_over != "prefix":
            scores = self._all_codes(x, level).gather(1, following.codes)
            return scores.masked_fill(~following.legal, -torch.inf)
        if level >= self.items_from:
            assert items is not None
            scores = self._item_scores(states + x, level, following, index, items, seen)
        else:
            scores = F.linear(x, self._code_vectors(level)).float()  # (M, K)
            scores = scores.gather(1, following.codes)
            own = self._prefix_scores(x, level, following, index, items)
            if own is not None:
                scores = scores + own
            if level == 0 and first is not None:
                scores = scores + first.gather(1, following.states.long())
        legal = following.legal
        weighed = self.seen_weights is not None and level < self.items_from
        if seen is not None and (weighed or self.history.skip_history):
            scores, legal = self._seen(scores, legal, level, following, index, seen, wanted)
        if temperature != 1.0:
            scores = scores / temperature
        scores = scores.masked_fill(~legal, -torch.inf)
        log_probs = scores.log_softmax(dim=1)
        if self.history.skip_history:  # a prefix without any child left
            log_probs = log_probs.where(legal.any(dim=1, keepdim=True), -torch.inf)
        return log_probs

    def _seen(
        self,
        scores: Tensor,
        legal: Tensor,
        level: int,
        following: TrieStep,
        index: PrefixIndex,
        seen: SeenItems,
        wanted: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Let the items that the user has count for their prefixes, or leave them out."""
        counts = seen.count_below(following, level)
        below = index.paths.num_below[level][following.states]
        if self.seen_weights is not None and level < self.items_from:
            share = counts / below
            if level < len(self.level_sizes) - 1:  # what is left of the prefix, in nats
                share = (1.0 - share + _LEAST_LEFT).log()
            scores = scores + SEEN_SCALE * self.seen_weights[level] * share
        if self.history.skip_history:
            gone = counts == below
            if wanted is not None:
                gone = gone.scatter(1, wanted.unsqueeze(1), False)
            legal = legal & ~gone
        return scores, legal

    def _all_codes(self, x: Tensor, level: int) -> Tensor:
        """Log-probabilities of all codes of a level, whether they exist or not: ``(M, K)``."""
        if self.settings.normalize_over == "level":
            return F.linear(x, self._code_vectors(level)).float().log_softmax(dim=1)
        begin = sum(self.level_sizes[:level])
        everything = F.linear(x, self.codes).float().log_softmax(dim=1)
        return everything[:, begin : begin + self.level_sizes[level]]

    def _item_scores(
        self,
        x: Tensor,
        level: int,
        following: TrieStep,
        index: PrefixIndex,
        items: HashedEmbedding,
        seen: SeenItems | None,
    ) -> Tensor:
        """Score the children by all items below them, ``(M, C)``; 0 for an only child."""
        legal, paths = following.legal, index.paths
        places = paths.first_item[level][following.states[:, 0]]  # children lie side by side
        # An only child is certain, whatever its score.
        several = legal[:, 1] if legal.shape[1] > 1 else torch.zeros_like(legal[:, 0])
        parents = paths.states[index.leaf_items[places], level - 1]
        counts = paths.num_below[level - 1][parents].where(several, 0)
        most, weight = paths.most_below[level - 1], items.weight
        if x.device.type != "cpu" or is_exporting():
            return self._padded_sums(x, level, following, places, counts, most, index, items, seen)
        size = max(1, _ENTRIES // most)
        if len(x) > size:
            found = []
            for part in (slice(begin, begin + size) for begin in range(0, len(x), size)):
                some = TrieStep(following.codes[part], following.states[part], legal[part])
                mine = None if seen is None else seen.only(part)
                found.append(self._item_scores(x[part], level, some, index, items, mine))
            return torch.cat(found)
        windows = Windows.of(places, counts)
        ids = index.leaf_items.index_select(0, windows.places)
        width = legal.shape[1]
        begins = torch.arange(0, legal.numel(), width) - following.states[:, 0]
        cells = paths.states[:, level].index_select(0, ids) + windows.spread(begins)
        extra = None
        if self.seen_weights is not None and seen is not None:
            had = windows.mark(seen.places(index), seen.fresh)
            extra = SEEN_SCALE * self.seen_weights[-1] * had
        rows = items.rows(ids)
        return window_logsumexp(x, weight, rows, windows, cells, width, extra).float()

    def _padded_sums(
        self,
        x: Tensor,
        level: int,
        following: TrieStep,
        first: Tensor,
        count: Tensor,
        width: int,
        index: PrefixIndex,
        items: HashedEmbedding,
        seen: SeenItems | None,
    ) -> Tensor:
        """Add up the scores of ``count`` items from ``first`` on, ``(M,)`` each, at most ``width``.

        For devices whose host cannot wait to learn how many there are in all.
        """
        ranks = torch.arange(width, device=x.device, dtype=torch.int32)
        inside = ranks < count.unsqueeze(1)  # (M, I)
        places = (first.unsqueeze(1) + ranks).clamp_(max=index.num_items - 1)
        ids = index.leaf_items[places]
        scores = window_dot(x, items.weight, items.rows(ids), inside).float()
        if self.seen_weights is not None and seen is not None:
            had = seen.among(first, inside, index)
            scores = scores + SEEN_SCALE * self.seen_weights[-1] * had
        scores = scores.masked_fill(~inside, -torch.inf)
        # The sum of exponentials of each child; one far below the best of its row counts as such.
        largest = scores.detach().amax(dim=1, keepdim=True).clamp(min=-1e30)
        columns = (index.paths.states[ids, level] - following.states[:, :1]).where(inside, 0)
        sums = torch.zeros(following.legal.shape, device=x.device)
        sums = sums.scatter_add(1, columns.long(), (scores - largest).exp())
        return sums.clamp(min=1e-37).log() + largest

    def _prefix_scores(
        self,
        x: Tensor,
        level: int,
        following: TrieStep,
        index: PrefixIndex,
        items: HashedEmbedding | None,
    ) -> Tensor | None:
        """Score the children by the vectors of their prefixes, ``(M, C)``; None without any."""
        if not self.settings.prefix_vectors:
            return None
        count = 1
        if level < len(self.prefixes):
            table, ids = self._table(level), following.states
            count = self.settings.vectors(level)
            if table.hashed and level and count == 1:
                windows = index.hashed_rows(level, len(table.weight))
                rows = windows[:, : ids.shape[1]].index_select(0, ids[:, 0])
                return window_dot(x, table.weight, rows, following.legal).float()
            if table.hashed:
                ids = index.prefix_hashes[level][ids]
        else:
            assert items is not None
            first = following.states
            if index.leaf_offsets is not None:  # items that share an ID: the first speaks for all
                first = index.leaf_offsets[first]
            table, ids = items, index.leaf_items[first]
        if level == 0:  # the same children for everybody
            ids, legal = ids[0], following.legal[0]
            vectors = table(_copies(ids, count))  # (C * V, D)
            if count > 1 and not is_exporting():
                return linear_group_logsumexp(
                    x, vectors, RowGroups.alike(len(ids), count, x.device)
                )
            scores = F.linear(x, vectors).float()
        else:
            legal, rows = following.legal, table.rows(_copies(ids, count))
            wanted = legal if count == 1 else legal.repeat_interleave(count, dim=1)
            scores = window_dot(x, table.weight, rows, wanted).float()
        if count == 1:
            return scores
        return scores.unflatten(1, (-1, count)).logsumexp(dim=2)

    @torch.no_grad()
    def start_from(self, vectors: Tensor, index: PrefixIndex, generator: torch.Generator) -> None:
        """Let each vector of a prefix start as that of an item below it, drawn at random.

        Args:
            vectors: Of the items, shape ``(N, D)``.
            index: The catalogue.
            generator: Of the draws, on the CPU.
        """
        for level in range(len(self.prefixes)):
            table, count = self._table(level), self.settings.vectors(level)
            below = index.paths.num_below[level].long()
            first = below.cumsum(0) - below
            drawn = torch.rand(len(below), count, generator=generator).to(below.device)
            places = first.unsqueeze(1) + (drawn * below.unsqueeze(1)).long()
            ids = torch.arange(len(below), device=below.device)
            if table.hashed:
                ids = index.prefix_hashes[level]
            rows = table.rows(_copies(ids, count))
            table.weight[rows] = vectors[index.leaf_items[places].flatten()]

    def list_rows(self, index: PrefixIndex) -> None:
        """Go over to tables without hashes, which graphs that run elsewhere cannot compute."""
        for level in range(len(self.prefixes)):
            if (table := self._table(level)).hashed:
                count = self.settings.vectors(level)
                keys = _copies(index.prefix_hashes[level].long(), count)
                self.prefixes[level] = table.listed(keys)

    def _table(self, level: int) -> HashedEmbedding:
        table = self.prefixes[level]
        assert isinstance(table, HashedEmbedding)
        return table

    def _code_vectors(self, level: int) -> Tensor:
        """Return the vectors of a level's codes, ``(K, D)``."""
        begin = sum(self.level_sizes[:level])
        return self.codes[begin : begin + self.level_sizes[level]]


def _copies(ids: Tensor, count: int) -> Tensor:
    """Turn ids ``(..., C)`` into those of their vectors, side by side: ``(..., C * V)``."""
    if count == 1:
        return ids
    vectors = torch.arange(count, device=ids.device)
    return (ids.long().unsqueeze(-1) * count + vectors).flatten(-2)

"""Ranking for models that generate semantic IDs by beam search.

Shape legend: B = users, S = history items, L = levels, N = items, R = results.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.data.catalogue import Catalogue
from genrec.data.schemas import Ranking, Rules, SequenceBatch
from genrec.decoding.beam_search import BeamResult
from genrec.decoding.legal import ItemSets, LegalSet
from genrec.decoding.trie import PrefixIndex
from genrec.errors import ArtifactError, ConfigError

__all__ = ["BeamRanker", "CodeLogProbs", "LikelyFn", "SearchFn", "index_of"]

# Validation asks for a ranker of the same catalogue again and again; its index stays the same.
_INDEXES: WeakKeyDictionary[Catalogue, dict[torch.device, PrefixIndex]] = WeakKeyDictionary()


class SearchFn(Protocol):
    """A model that generates semantic IDs, with all it needs but the users."""

    def __call__(
        self,
        history: Tensor,
        *,
        users: Tensor | None,
        num_beams: int,
        num_results: int,
        padded: bool,
        legal: LegalSet | None,
    ) -> BeamResult:
        """Search for the next items of users; arguments as of :meth:`BeamRanker.rank`."""


@dataclass(frozen=True)
class CodeLogProbs:
    """What a model thinks of some items' codes.

    Attributes:
        own: Log-probability of each code given those before it, shape ``(B, L)``, float32; the
            sum over levels is that of the whole ID.
        tempered: The same at each of some temperatures among the codes alone that continue the
            same prefix, shape ``(B, L, temperatures)``. At 1 it exceeds ``own`` by what the
            model spends on codes that do not exist there.
    """

    own: Tensor
    tempered: Tensor

    @classmethod
    def of_levels(
        cls, levels: Iterable[tuple[Tensor, Tensor]], temperatures: Sequence[float]
    ) -> CodeLogProbs:
        """Gather the targets' log-probabilities.

        Args:
            levels: For each level the log-probabilities of all codes that continue the targets'
                prefixes, ``-inf`` where no code is, shape ``(B, C)``, and the column of each
                target, shape ``(B,)``, int64.
            temperatures: By which they are divided, each > 0.
        """
        own, tempered = [], []
        for log_probs, column in levels:
            target = log_probs.gather(1, column.unsqueeze(1)).squeeze(1)
            own.append(target)
            ways = [target / t - (log_probs / t).logsumexp(dim=1) for t in temperatures]
            tempered.append(torch.stack(ways, dim=1))
        return cls(torch.stack(own, dim=1), torch.stack(tempered, dim=1))


class LikelyFn(Protocol):
    """A model's log-probabilities of codes, with all it needs but the users."""

    def __call__(
        self, batch: SequenceBatch, *, users: Tensor | None, temperatures: Sequence[float]
    ) -> CodeLogProbs:
        """Score the one target of each row; ``users`` as of :meth:`BeamRanker.rank`."""


class BeamRanker:
    """Fulfils :class:`~genrec.rankers.SearchingRanker` by the IDs that a model generates.

    Scores are log-probabilities of the items' IDs, or what else the model ranks its beams by.

    Args:
        search: The model's search, over the whole catalogue.
        catalogue: The items.
        index: Prefix index of their codes, on the model's device.
        likely: The model's log-probabilities of codes, where it tells them.
        num_beams: Beams of the search; ``k`` where that is more.
        max_history: Newest history items that the model shall see.
        name: What tables call it.

    Attributes:
        index: Prefix index of the items' codes.
        code_log_probs: ``likely``.

    Raises:
        ConfigError: If ``num_beams`` is below 1.
    """

    def __init__(
        self,
        search: SearchFn,
        catalogue: Catalogue,
        index: PrefixIndex,
        *,
        num_beams: int,
        max_history: int,
        name: str = "generation",
        likely: LikelyFn | None = None,
    ) -> None:
        self.name = name
        self.num_beams, self.max_history = _check_beams(num_beams, catalogue), max_history
        self.item_keys, self.num_items = catalogue.item_keys, catalogue.num_items
        self.groups: npt.NDArray[np.int64] | None = catalogue.groups
        self.device = index.device
        self._search, self.index, self.code_log_probs = search, index, likely
        self._masked: tuple[Tensor, LegalSet] | None = None

    def with_beams(self, num_beams: int) -> BeamRanker:
        """Return the same ranker with another number of beams, >= 1."""
        other = copy.copy(self)
        other.num_beams = _check_beams(num_beams, self)
        return other

    @torch.no_grad()
    def rank(
        self, history: Tensor, k: int, *, users: Tensor | None = None, rules: Rules | None = None
    ) -> Ranking:
        """Recommend by beam search; see :meth:`~genrec.rankers.Ranker.rank`."""
        found = self._search(
            history,
            users=users,
            num_beams=max(k, self.num_beams),
            num_results=k,
            padded=bool((history[:, -1] < 0).any()),
            legal=None if rules is None else self._legal(rules),
        )
        return Ranking(found.items, found.item_scores)

    def _legal(self, rules: Rules) -> LegalSet | None:
        """Turn rules into a restriction of the search."""
        if rules.allow is not None:
            # One list of what is left: two restrictions could keep a prefix alive below which
            # each allows an item, but never the same one, and the beam would be wasted.
            allow = rules.allow
            drop = torch.zeros_like(allow, dtype=torch.bool)
            if rules.exclude is not None:
                drop |= ItemSets(rules.exclude, self.num_items).contains(allow)
            if rules.mask is not None:
                drop |= ~rules.mask[allow]
            return self.index.allow_per_user(allow.masked_fill(drop, -1))
        parts = []
        if rules.mask is not None:
            parts.append(self._everybody(rules.mask))
        if rules.exclude is not None:
            parts.append(self.index.exclude_per_user(rules.exclude))
        return None if not parts else parts[0] if len(parts) == 1 else parts[0] & parts[1]

    def _everybody(self, mask: Tensor) -> LegalSet:
        """Restrict the index to some items, once for all batches with the same mask."""
        known = self._masked
        if known is None or known[0] is not mask:
            known = self._masked = (mask, self.index.allow(mask))
        return known[1]


def _check_beams(num_beams: int, among: Catalogue | BeamRanker) -> int:
    """Refuse fewer beams than one; as many as there are items find all that more could."""
    if num_beams < 1:
        raise ConfigError(f"num_beams must be >= 1, got {num_beams}; 30 is usual")
    return min(num_beams, among.num_items)


def index_of(
    catalogue: Catalogue, level_sizes: tuple[int, ...], device: torch.device
) -> PrefixIndex:
    """Return the prefix index of a catalogue, built once on each device.

    Args:
        catalogue: The items with their codes.
        level_sizes: Those of the model.
        device: Where the model lives.

    Returns:
        The index.

    Raises:
        ArtifactError: If the catalogue has no codes, or those of other level sizes.
    """
    if catalogue.codes is None or catalogue.level_sizes != level_sizes:
        raise ArtifactError(
            f"catalogue must have IDs of the model's level sizes {level_sizes}, got "
            f"{catalogue.level_sizes}; use the ID table that the model was trained with"
        )
    known = _INDEXES.setdefault(catalogue, {})
    if device not in known:
        known[device] = PrefixIndex.from_ids(catalogue.codes, level_sizes, device=device)
    return known[device]

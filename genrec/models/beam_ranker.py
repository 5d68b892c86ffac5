"""Ranking for models that generate semantic IDs by beam search.

Shape legend: B = users, S = history items, L = levels, N = items, R = results.
"""

from __future__ import annotations

import copy
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.data.catalogue import Catalogue
from genrec.data.schemas import Ranking, Rules
from genrec.data.sequence_dataset import user_buckets
from genrec.decoding.beam_search import BeamResult
from genrec.decoding.legal import ItemSets, LegalSet
from genrec.decoding.trie import PrefixIndex
from genrec.errors import ArtifactError, ConfigError
from genrec.models.token_layout import TokenLayout
from genrec.modules.transformer import DecoderTables

__all__ = ["BeamRanker", "Generator"]

# Validation asks for a ranker of the same catalogue again and again; its index stays the same.
_INDEXES: WeakKeyDictionary[Catalogue, dict[torch.device, PrefixIndex]] = WeakKeyDictionary()


class Generator(Protocol):
    """A model that generates semantic IDs."""

    layout: TokenLayout

    @property
    def device(self) -> torch.device: ...  # noqa: D102
    def decoding_tables(self) -> DecoderTables: ...  # noqa: D102
    def generate(  # noqa: D102
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
    ) -> BeamResult: ...


class BeamRanker:
    """Fulfils :class:`~genrec.rankers.SearchingRanker` by the IDs that a model generates.

    Scores are log-probabilities of the items' IDs.

    Args:
        model: In evaluation mode; its weights must not change while the ranker is in use.
        catalogue: The items with their codes.
        num_beams: Beams of the search; ``k`` where that is more.
        max_history: Newest history items that the model shall see.

    Raises:
        ArtifactError: If the catalogue has no codes, or those of other level sizes.
    """

    name = "model"

    def __init__(
        self, model: Generator, catalogue: Catalogue, *, num_beams: int, max_history: int
    ) -> None:
        if catalogue.codes is None or catalogue.level_sizes != model.layout.level_sizes:
            raise ArtifactError(
                f"catalogue must have IDs of the model's level sizes {model.layout.level_sizes}, "
                f"got {catalogue.level_sizes}; use the ID table that the model was trained with"
            )
        self.num_beams, self.max_history = _check_beams(num_beams), max_history
        self.item_keys, self.num_items = catalogue.item_keys, catalogue.num_items
        self.groups: npt.NDArray[np.int64] | None = catalogue.groups
        self.device = model.device
        self._model = model
        self._tables = model.decoding_tables()
        self._index = _index_of(catalogue, catalogue.codes, catalogue.level_sizes, self.device)
        codes = torch.from_numpy(np.array(catalogue.codes, dtype=np.int64))
        # One more row answers for padding, since index -1 means the last.
        self._codes = torch.cat([codes, codes.new_full((1, codes.shape[1]), -1)]).to(self.device)
        self._masked: tuple[Tensor, LegalSet] | None = None

    def with_beams(self, num_beams: int) -> BeamRanker:
        """Return the same ranker with another number of beams, >= 1."""
        other = copy.copy(self)
        other.num_beams = _check_beams(num_beams)
        return other

    @torch.no_grad()
    def rank(
        self, history: Tensor, k: int, *, users: Tensor | None = None, rules: Rules | None = None
    ) -> Ranking:
        """Recommend by beam search; see :meth:`~genrec.rankers.Ranker.rank`.

        Raises:
            ConfigError: If the model has user tokens and there are no users.
        """
        num_users = self._model.layout.num_users
        if num_users and users is None:
            raise ConfigError(
                f"users must be given to a model with {num_users} user tokens, got none; pass the "
                "users' own ids"
            )
        found = self._model.generate(
            self._codes[history],
            self._index,
            num_beams=max(k, self.num_beams),
            num_results=k,
            user_ids=user_buckets(users, num_users) if num_users and users is not None else None,
            padded=bool((history[:, -1] < 0).any()),
            tables=self._tables,
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
            return self._index.allow_per_user(allow.masked_fill(drop, -1))
        parts = []
        if rules.mask is not None:
            parts.append(self._everybody(rules.mask))
        if rules.exclude is not None:
            parts.append(self._index.exclude_per_user(rules.exclude))
        return None if not parts else parts[0] if len(parts) == 1 else parts[0] & parts[1]

    def _everybody(self, mask: Tensor) -> LegalSet:
        """Restrict the index to some items, once for all batches with the same mask."""
        known = self._masked
        if known is None or known[0] is not mask:
            known = self._masked = (mask, self._index.allow(mask))
        return known[1]


def _check_beams(num_beams: int) -> int:
    """Refuse fewer beams than one."""
    if num_beams < 1:
        raise ConfigError(f"num_beams must be >= 1, got {num_beams}; 30 is usual")
    return num_beams


def _index_of(
    catalogue: Catalogue,
    codes: npt.NDArray[np.int32],
    level_sizes: tuple[int, ...],
    device: torch.device,
) -> PrefixIndex:
    """Return the prefix index of a catalogue, built once on each device."""
    known = _INDEXES.setdefault(catalogue, {})
    if device not in known:
        known[device] = PrefixIndex.from_ids(codes, level_sizes, device=device)
    return known[device]

"""Prefix index: which codes continue a semantic-ID prefix, as arrays.

Shape legend: N = items, L = levels, K = codes of a level, B = users, W = beams, C = widest
fan-out of a level. A *state* is a prefix that exists: its rank among the existing prefixes of
its length, in lexicographic order. State 0 of level 0 is the empty prefix; a state of level L
is a *leaf*, a whole semantic ID, and holds one item or several that share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.decoding.item_paths import ItemPaths, hash_prefixes
from genrec.decoding.legal import ItemFilter, ItemSets, LegalSet, SharedAllowList, UserNodes
from genrec.errors import DataError
from genrec.modules.hashed_embedding import hash_rows

__all__ = ["PrefixIndex", "TrieStep"]


@dataclass(frozen=True)
class TrieStep:
    """The continuations of some states.

    Attributes:
        codes: Code of each continuation, shape ``(B, W, C)``, int64.
        states: State after it, shape ``(B, W, C)``, int32.
        legal: Whether it exists, shape ``(B, W, C)``, bool; where it does not, code and state
            are some that exist elsewhere.
    """

    codes: Tensor
    states: Tensor
    legal: Tensor


class PrefixIndex:
    """The prefixes of a catalogue's semantic IDs in compressed sparse rows, one table a level.

    The states of a level are numbered in lexicographic order, so the children of a state lie
    side by side: two numbers say where. One look-up serves all beams of all users; its cost is
    bounded by the number of codes, whatever the size of the catalogue.

    Args:
        level_sizes: Number of codes of each level, ``L`` of them.
        first_child: For each level but the last a table of shape ``(states + 1,)``, int32.
        child_codes: For each level the code of every child, shape ``(children,)``, uint8,
            int16 or int32, whichever is the smallest that holds the codes.
        leaf_items: Items in the order of their IDs, shape ``(N,)``, int32.
        leaf_offsets: Where each leaf's items begin, shape ``(leaves + 1,)``, int32; None where
            every ID belongs to one item.

    Example:
        >>> index = PrefixIndex.from_ids([[0, 1], [0, 2], [3, 1]], level_sizes=(4, 4))
        >>> index.verify(torch.tensor([[0, 1], [3, 2]])).tolist()
        [True, False]
    """

    def __init__(
        self,
        *,
        level_sizes: Sequence[int],
        first_child: Sequence[Tensor],
        child_codes: Sequence[Tensor],
        leaf_items: Tensor,
        leaf_offsets: Tensor | None,
    ) -> None:
        self.level_sizes = tuple(int(size) for size in level_sizes)
        self.first_child = list(first_child)
        self.leaf_items = leaf_items
        self.leaf_offsets = leaf_offsets
        self.num_states = [1] + [len(codes) for codes in child_codes]
        self.max_children = [int(table.diff().max()) for table in self.first_child]
        # The children of a state are a window of their level's codes, so whole rows are copied;
        # the last windows reach beyond the end, hence the padding.
        padded = [
            torch.nn.functional.pad(codes, (0, width))
            for codes, width in zip(child_codes, self.max_children, strict=True)
        ]
        self.child_codes = [p[:count] for p, count in zip(padded, self.num_states[1:], strict=True)]
        self._windows = [
            codes.unfold(0, width, 1)
            for codes, width in zip(padded, self.max_children, strict=True)
        ]
        # Row c of these masks marks the first c columns.
        self._first_columns = {
            width: torch.ones(width + 1, width, dtype=torch.bool, device=self.device).tril(-1)
            for width in set(self.max_children)
        }
        self._leaf_of_item: Tensor | None = None
        self._paths: ItemPaths | None = None
        self._hashes: list[Tensor] | None = None
        self._hashed_rows: dict[tuple[int, int], Tensor] = {}

    @classmethod
    def from_ids(
        cls,
        ids: npt.ArrayLike | Tensor,
        level_sizes: Sequence[int] | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> PrefixIndex:
        """Build the index of a catalogue.

        Args:
            ids: Semantic IDs, shape ``(N, L)``, integer, row = item id. Rows may repeat.
            level_sizes: Codes of each level; the largest code seen plus one when None.
            device: Where the index lives.

        Returns:
            The index.

        Raises:
            DataError: If there is no item, or a code is outside its level.
        """
        table = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
        if table.ndim != 2 or 0 in table.shape:
            raise DataError(f"ids must have shape (N, L) with N, L >= 1, got {table.shape}")
        top = table.max(axis=0)
        sizes = tuple(int(t) + 1 for t in top) if level_sizes is None else tuple(level_sizes)
        if len(sizes) != table.shape[1] or table.min() < 0 or bool((top >= sizes).any()):
            raise DataError(
                f"codes must lie below the level sizes {sizes}, got up to {top.tolist()} from "
                f"{int(table.min())}; build the IDs and the sizes from the same tokenizer"
            )
        order, starts = _sort_rows(table, sizes)
        return cls._from_sorted(table, sizes, order, starts).to(device)

    @classmethod
    def _from_sorted(
        cls,
        table: npt.NDArray[np.integer],
        sizes: tuple[int, ...],
        order: npt.NDArray[np.integer],
        starts: list[npt.NDArray[np.int64]],
    ) -> PrefixIndex:
        """Assemble the tables from where each level's prefixes begin in the sorted rows."""
        num_items, num_levels = table.shape
        first_child, child_codes = [], []
        parents = np.zeros(1, dtype=np.int64)
        for level in range(num_levels):
            begins = starts[level]
            offsets = np.searchsorted(begins, np.append(parents, num_items))
            first_child.append(torch.from_numpy(offsets.astype(np.int32)))
            codes = table[order[begins], level].astype(_code_dtype(sizes[level]))
            child_codes.append(torch.from_numpy(codes))
            parents = begins
        shared = len(parents) < num_items
        leaf_offsets = np.append(parents, num_items).astype(np.int32)
        return cls(
            level_sizes=sizes,
            first_child=first_child,
            child_codes=child_codes,
            leaf_items=torch.from_numpy(order.astype(np.int32)),
            leaf_offsets=torch.from_numpy(leaf_offsets) if shared else None,
        )

    @property
    def num_levels(self) -> int:
        """Number of levels ``L``."""
        return len(self.level_sizes)

    @property
    def num_items(self) -> int:
        """Number of items ``N``."""
        return len(self.leaf_items)

    @property
    def device(self) -> torch.device:
        """Where the index lives."""
        return self.leaf_items.device

    @property
    def num_bytes(self) -> int:
        """Size of all tables in bytes."""
        tables = [*self.first_child, *self.child_codes, self.leaf_items]
        tables.extend(self._first_columns.values())
        if self.leaf_offsets is not None:
            tables.append(self.leaf_offsets)
        return sum(table.numel() * table.element_size() for table in tables)

    @property
    def paths(self) -> ItemPaths:
        """The way of every item through the tree, made when first asked for."""
        if self._paths is None:
            self._paths = ItemPaths.build(self.first_child, self.leaf_items, self.leaf_offsets)
        return self._paths

    @property
    def prefix_hashes(self) -> list[Tensor]:
        """For each level 1..L a number a state, int32, that depends on its codes alone."""
        if self._hashes is None:
            self._hashes = hash_prefixes(self.first_child, self.child_codes)
        return self._hashes

    def hashed_rows(self, level: int, num_rows: int) -> Tensor:
        """Say where a hashed table keeps the vectors of prefixes, made when first asked for.

        Args:
            level: Length of the prefixes less one, in ``[0, L)``.
            num_rows: Rows of the table.

        Returns:
            For each state the rows of it and of those after it, as many as the widest window has,
            shape ``(states, C)``, int32: a view of four bytes a state.
        """
        key = level, num_rows
        if key not in self._hashed_rows:
            rows = hash_rows(self.prefix_hashes[level], num_rows).int()
            # The last windows reach beyond the end.
            self._hashed_rows[key] = torch.nn.functional.pad(rows, (0, self.max_children[level]))
        return self._hashed_rows[key].unfold(0, self.max_children[level], 1)

    def codes_of_items(self, item_ids: Tensor) -> Tensor:
        """Look up semantic IDs.

        Args:
            item_ids: Any shape, integer, in ``[0, N)``.

        Returns:
            Shape ``(..., L)``, int64.
        """
        states = self.paths.states[item_ids.long()].long()
        codes = [table[states[..., level]] for level, table in enumerate(self.child_codes)]
        return torch.stack([code.long() for code in codes], dim=-1)

    def to(self, device: torch.device | str) -> PrefixIndex:
        """Copy the index to a device; the index itself when it is there already."""
        if torch.device(device) == self.device:
            return self
        return PrefixIndex(
            level_sizes=self.level_sizes,
            first_child=[table.to(device) for table in self.first_child],
            child_codes=[codes.to(device) for codes in self.child_codes],
            leaf_items=self.leaf_items.to(device),
            leaf_offsets=None if self.leaf_offsets is None else self.leaf_offsets.to(device),
        )

    def step(self, states: Tensor, level: int, *, at_least: int = 1) -> TrieStep:
        """List the continuations of states, for all beams at once.

        Args:
            states: States of ``level``, shape ``(B, W)``, integer; -1 for a dead beam.
            level: How many codes the prefixes have, in ``[0, L)``.
            at_least: Columns that are there even where no state has as many continuations, unless
                none of the level has.

        Returns:
            The continuations, ``C`` columns wide, those of each state in rising order of code. On
            a CPU as many columns as the widest of these states needs; elsewhere as the widest of
            the level, which the host knows.
        """
        table = self.first_child[level]
        safe = states.clamp(min=0).flatten()
        first = table.index_select(0, safe)
        count = table.index_select(0, safe + 1) - first
        count = torch.where(states.flatten() >= 0, count, 0)
        width = widest = self.max_children[level]
        if self.device.type == "cpu":
            width = min(widest, max(at_least, int(count.max()) if len(count) else 0))
        shape = (*states.shape, width)
        codes = self._windows[level][:, :width].index_select(0, first)
        ranks = torch.arange(shape[-1], device=self.device, dtype=torch.int32)
        following = (first.unsqueeze(1) + ranks).clamp_(max=self.num_states[level + 1] - 1)
        return TrieStep(
            codes=codes.long().view(shape),
            states=following.view(shape),
            legal=self._first_columns[widest][:, :width].index_select(0, count).view(shape),
        )

    def find(self, prefixes: Tensor) -> Tensor:
        """Find the states of prefixes.

        Args:
            prefixes: Codes, shape ``(B, l)`` with ``0 <= l <= L``, integer.

        Returns:
            State of each, shape ``(B,)``, int64; -1 where the prefix does not exist.
        """
        prefixes = prefixes.to(self.device).long()
        if prefixes.ndim != 2 or prefixes.shape[1] > self.num_levels:
            raise DataError(
                f"prefixes must have shape (B, l) with l <= {self.num_levels}, got "
                f"{tuple(prefixes.shape)}; give one row a prefix"
            )
        states = torch.zeros(len(prefixes), dtype=torch.long, device=self.device)
        for level in range(prefixes.shape[1]):
            found = self.step(states.unsqueeze(1), level)
            match = found.legal & (found.codes == prefixes[:, level, None, None])  # (B, 1, C)
            hit = match.any(dim=-1).squeeze(1)
            column = match.int().argmax(dim=-1, keepdim=True)
            states = torch.where(hit, found.states.gather(-1, column).reshape(-1).long(), -1)
        return states

    def verify(self, prefixes: Tensor) -> Tensor:
        """Tell which prefixes ``(B, l)``, ``0 <= l <= L``, exist: ``(B,)``, bool."""
        return self.find(prefixes) >= 0

    def leaf_of_items(self, item_ids: Tensor) -> Tensor:
        """Find the leaf of each item, any shape, int64; -1 for an item of -1."""
        table = self._leaf_of_item
        if table is None:
            leaves = torch.arange(self.num_states[-1], dtype=torch.int32, device=self.device)
            if self.leaf_offsets is not None:
                leaves = leaves.repeat_interleave(self.leaf_offsets.diff())
            table = torch.empty_like(self.leaf_items)
            table[self.leaf_items.long()] = leaves
            self._leaf_of_item = table  # when it is whole: other threads may be looking
        found = table[item_ids.clamp(min=0)].long()
        return torch.where(item_ids >= 0, found, -1)

    def allow(self, allowed: Tensor) -> LegalSet:
        """Restrict every user to the items marked in ``(N,)``, bool, without touching the index."""
        allowed = allowed.to(self.device)
        if allowed.shape != (self.num_items,) or allowed.dtype != torch.bool:
            raise DataError(
                f"allowed must be a bool mask of shape ({self.num_items},), got {allowed.dtype} "
                f"of shape {tuple(allowed.shape)}; mark each item of the catalogue"
            )
        alive = [_any_child(allowed[self.leaf_items.long()], self.leaf_offsets)]
        for level in reversed(range(self.num_levels)):
            alive.append(_any_child(alive[-1], self.first_child[level]))
        return LegalSet(((SharedAllowList(alive[::-1]), ItemFilter(allowed)),))

    def allow_per_user(self, item_ids: Tensor) -> LegalSet:
        """Restrict each user to items of their own, ``(B, E)``, -1 for none, in this order."""
        sets = ItemSets(item_ids.to(self.device), self.num_items)
        user, items = sets.pairs()
        nodes = self.leaf_of_items(items)
        levels = [UserNodes.pack(user, nodes, self.num_states[-1])]
        for level in reversed(range(self.num_levels)):
            nodes = self._parents(nodes, level)
            levels.append(UserNodes.pack(user, nodes, self.num_states[level]))
        keep = UserNodes(levels[::-1], self.num_states, keep=True)
        return LegalSet(((keep, ItemFilter(None, sets, keep=True)),))

    def exclude_per_user(self, item_ids: Tensor) -> LegalSet:
        """Keep from each user items of their own, such as their history.

        Args:
            item_ids: Items of each user, shape ``(B, E)``, integer; -1 for none.

        Returns:
            The restriction, for a beam search over these users in this order.
        """
        sets = ItemSets(item_ids.to(self.device), self.num_items)
        user, items = sets.pairs()
        # A node is dead for a user when all below it is: count what is gone, level by level.
        nodes, table = self.leaf_of_items(items), self.leaf_offsets
        levels = []
        for level in range(self.num_levels, -1, -1):
            width = self.num_states[level]
            keys, gone = torch.unique(user * width + nodes, return_counts=True)
            user, nodes = keys // width, keys % width
            below = 1 if table is None else table[nodes + 1] - table[nodes]
            dead = gone == below
            user, nodes = user[dead], nodes[dead]
            levels.append(UserNodes.pack(user, nodes, width))
            if level:
                table = self.first_child[level - 1]
                nodes = self._parents(nodes, level - 1)
        drop = UserNodes(levels[::-1], self.num_states, keep=False)
        return LegalSet(((drop, ItemFilter(None, sets, keep=False)),))

    def items(
        self, leaves: Tensor, num_results: int, legal: LegalSet | None = None
    ) -> tuple[Tensor, Tensor]:
        """Turn leaves into items; items that share an ID follow one another by item id.

        Args:
            leaves: Leaves in order of preference, shape ``(B, W)``, integer; -1 for none.
            num_results: Items to return for each row, >= 1.
            legal: The restriction under which the leaves were found.

        Returns:
            ``(items, beams)``, both of shape ``(B, num_results)``, int64, padded with -1:
            each item and the column of ``leaves`` it came from.
        """
        batch, width = leaves.shape
        safe = leaves.clamp(min=0).long()
        if self.leaf_offsets is None:
            first = safe
            count = (leaves >= 0).long()
        else:
            first = self.leaf_offsets[safe].long()
            count = torch.where(leaves >= 0, self.leaf_offsets[safe + 1].long() - first, 0)
        ends = count.cumsum(dim=1)  # (B, W)
        # Some of a leaf's items may be illegal, so look further than the results asked for.
        longest = int(count.max()) if self.leaf_offsets is not None and legal is not None else 1
        slots = num_results if legal is None or longest <= 1 else int(ends[:, -1].max())
        slot = torch.arange(slots, device=leaves.device).expand(batch, -1).contiguous()
        beam = torch.searchsorted(ends, slot, right=True)  # (B, slots)
        inside = beam < width
        beam = beam.clamp(max=width - 1)
        rank = slot - (ends - count).gather(1, beam)
        position = torch.where(inside, first.gather(1, beam) + rank, 0)
        items = torch.where(inside, self.leaf_items[position].long(), -1)
        beam = torch.where(inside, beam, -1)
        if legal is not None and longest > 1:
            illegal = (items < 0) | ~legal.allows_items(items)
            order = illegal.int().argsort(dim=1, stable=True)
            gone = illegal.gather(1, order)
            items = items.gather(1, order).masked_fill(gone, -1)
            beam = beam.gather(1, order).masked_fill(gone, -1)
        return _fit(items, num_results), _fit(beam, num_results)

    def _parents(self, nodes: Tensor, level: int) -> Tensor:
        """Find the parents, states of ``level``, of states of ``level + 1``."""
        table = self.first_child[level]
        return torch.searchsorted(table, nodes.to(table.dtype).contiguous(), right=True) - 1


def _sort_rows(
    table: npt.NDArray[np.integer], sizes: tuple[int, ...]
) -> tuple[npt.NDArray[np.integer], list[npt.NDArray[np.int64]]]:
    """Sort IDs; return the order and, for each level, where its prefixes begin."""
    bits = [(size - 1).bit_length() for size in sizes]
    if sum(bits) > 62:  # too long for one integer: rare, and slower
        order = np.lexsort(table.T[::-1])
        rows = table[order]
        changed = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
        return order, [np.append(0, np.flatnonzero(c) + 1) for c in changed.T]
    keys = np.zeros(len(table), dtype=np.int64)
    for level, width in enumerate(bits):
        keys = (keys << width) | table[:, level]
    ordered, order_t = torch.sort(torch.from_numpy(keys), stable=True)
    keys, order = ordered.numpy(), order_t.numpy()
    differing = keys[1:] ^ keys[:-1]
    starts = []
    for level in range(len(sizes)):
        shift = sum(bits[level + 1 :])
        starts.append(np.append(0, np.flatnonzero(differing >> shift) + 1))
    return order, starts


def _code_dtype(size: int) -> type[np.integer]:
    """Return the smallest type that holds the codes of a level and that torch can index."""
    if size <= 2**8:
        return np.uint8
    return np.int16 if size <= 2**15 else np.int32


def _any_child(alive: Tensor, offsets: Tensor | None) -> Tensor:
    """Tell for each parent whether any of its children is alive."""
    if offsets is None:
        return alive
    total = torch.zeros(len(alive) + 1, dtype=torch.int32, device=alive.device)
    torch.cumsum(alive, dim=0, dtype=torch.int32, out=total[1:])
    bounds = total[offsets]
    return bounds[1:] > bounds[:-1]


def _fit(values: Tensor, width: int) -> Tensor:
    """Cut or pad the columns to a width, padding with -1."""
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=-1)

"""A semantic ID of its own for every item, at close to the least added distortion.

Distortion is the squared distance of an item's latent to the sum of its codes. Items whose
codes are unique stay. Each other item names the free tuples near it (beam search over the
levels), and a sparse assignment problem gives every tuple to one item at the least total
cost. Items that come away empty handed widen their search; what is left walks down the code
tree into the nearest branches that still have room, which cannot fail while tuples are left.

Shape legend: R = items to place, P = items of one step, M = candidate tuples of an item,
W = beam width, L = code levels, E = latent width, K_l = codes of level l.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.errors import ArtifactError, ConfigError
from genrec.tokenizer.collisions import pack_ids, unpack_ids
from genrec.tokenizer.quantizer import ItemQuantizer, encode_rows

__all__ = ["Placement", "reassign"]

Keys = npt.NDArray[np.int64]

# (beam width, candidates) of the searches, each for what the one before left. On real catalogues
# the first reaches the optimum to within 1 %, and the second is for large groups of equal items.
_SEARCHES = ((8, 32), (32, 256))
# Where tuples are scarce, good ones are far away: 0.5 ms an item instead of 0.1, and up to a
# fifth less distortion.
_CROWDED_SEARCHES = ((64, 512),)
_CROWDED = 0.2  # share of all tuples that will be in use
# Items placed together. The solver takes time quadratic in them, and neighbours in the order of
# codes are what competes.
_BLOCK_ITEMS = 2048
_BEAM_ROWS = 512


@dataclass(frozen=True)
class Placement:
    """Where :func:`reassign` put the items.

    Attributes:
        ids: Codes of the items, in the order they were given in, shape ``(R, L)``, int32.
        num_moved: Items whose codes changed.
        added_distortion: Sum over items of the squared distance that the moves added.
    """

    ids: npt.NDArray[np.int32]
    num_moved: int
    added_distortion: float


def reassign(
    quantizer: ItemQuantizer,
    embeddings: npt.NDArray[Any],
    rows: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int32],
    *,
    taken: Keys,
    batch_size: int = 4096,
    device: torch.device | str | None = None,
) -> Placement:
    """Place items on code tuples that nobody else has.

    Deterministic, and reads the latents in blocks: memory does not grow with the catalogue,
    apart from a few bytes an item. The items of one block are placed together, at the least
    total distortion among their candidates; blocks follow one another in the order of codes.

    Args:
        quantizer: The frozen quantiser.
        embeddings: Shape ``(N, D)``, in memory or memory-mapped.
        rows: Items to place, rows of ``embeddings``, shape ``(R,)``.
        ids: Codes that they would like, shape ``(R, L)``; shared by several of them, or taken.
        taken: Packed codes of the items that stay, sorted and distinct.
        batch_size: Items encoded at once.
        device: Where the quantiser lives.

    Returns:
        Distinct codes that nobody had.

    Raises:
        ArtifactError: If there are fewer tuples than items.
    """
    sizes = tuple(int(size) for size in quantizer.codebook_sizes)
    if len(taken) + len(rows) > math.prod(sizes):
        raise ArtifactError(
            f"policy reassign must have a code tuple an item, got {len(taken) + len(rows)} items "
            f"for {' x '.join(map(str, sizes))} tuples; use more levels, larger codebooks, or "
            "policy dedup_token"
        )
    wishes = pack_ids(ids, sizes)
    order = np.lexsort((rows, wishes))  # items that compete stand together
    rows, wishes = rows[order], wishes[order]
    placer = _Placer(quantizer, embeddings, rows, wishes, taken, batch_size, device)
    placer.run()
    keys = np.empty_like(placer.keys)
    keys[order] = placer.keys
    return Placement(
        ids=unpack_ids(keys, sizes),
        num_moved=int((placer.keys != wishes).sum()),
        added_distortion=placer.added,
    )


class _Placer:
    """The state of one :func:`reassign` call; ``rows`` sorted by ``wishes``."""

    def __init__(
        self,
        quantizer: ItemQuantizer,
        embeddings: npt.NDArray[Any],
        rows: npt.NDArray[np.int64],
        wishes: Keys,
        taken: Keys,
        batch_size: int,
        device: torch.device | str | None,
    ) -> None:
        self.quantizer, self.embeddings = quantizer, embeddings
        self.rows, self.wishes, self.taken = rows, wishes, taken
        self.batch_size, self.device = batch_size, device
        self.tree = _CodeTree(quantizer.get_codebook())
        self.wished = np.unique(wishes)
        self.keys = np.full(len(rows), -1, dtype=np.int64)
        self.added = 0.0

    def run(self) -> None:
        pending = np.arange(len(self.rows))
        tuples = math.prod(self.tree.sizes)
        crowded = len(self.taken) + len(self.rows) > _CROWDED * tuples
        for width, num_candidates in _CROWDED_SEARCHES if crowded else _SEARCHES:
            for start in range(0, len(pending), _BLOCK_ITEMS):
                self._match(pending[start : start + _BLOCK_ITEMS], width, num_candidates)
            pending = pending[self.keys[pending] < 0]
        for start in range(0, len(pending), _BLOCK_ITEMS):
            self._descend(pending[start : start + _BLOCK_ITEMS])

    def _match(self, block: npt.NDArray[np.int64], width: int, num_candidates: int) -> None:
        """Give items of a block the candidates that cost least in total."""
        keys, costs = self._candidates(block, width, num_candidates)  # (P, 1 + M) both
        free = ~_contains(self.taken, keys)
        free[:, 1:] &= keys[:, 1:] != keys[:, :1]  # the wish is there already
        # A tuple that later items wish for stays theirs: one of them will keep it for free.
        later = keys > self.wishes[block[-1]]
        later[later] = _contains(self.wished, keys[later])
        free &= ~later

        item, slot = np.nonzero(free)
        tuples, column = np.unique(keys[free], return_inverse=True)
        # The solver wants positive weights. A column of its own lets an item go without, at the
        # least that the tuples beyond its list would cost.
        span = max(float(np.ptp(costs)), 1e-30)
        weights = 1 + (costs[free] - costs.min()) / span
        beyond = 1 + (costs.max(axis=1) - costs.min()) / span
        num_items = len(block)
        csr_matrix, min_weight_full_bipartite_matching = _solver()
        graph = csr_matrix(
            (
                np.concatenate([weights, beyond]),
                (
                    np.concatenate([item, np.arange(num_items)]),
                    np.concatenate([column, len(tuples) + np.arange(num_items)]),
                ),
            ),
            shape=(num_items, len(tuples) + num_items),
        )
        matched_item, matched_column = min_weight_full_bipartite_matching(graph)
        found = matched_column < len(tuples)
        matched_item, matched_column = matched_item[found], matched_column[found]
        placed = tuples[matched_column]
        slot = (keys[matched_item] == placed[:, None]).argmax(axis=1)
        self.added += float((costs[matched_item, slot] - costs[matched_item, 0]).sum())
        self._place(block[matched_item], placed)

    def _candidates(
        self, block: npt.NDArray[np.int64], width: int, num_candidates: int
    ) -> tuple[Keys, npt.NDArray[np.float64]]:
        """Find each item's wish, then the tuples nearest to it, with their costs."""
        keys, costs = [], []
        for part, z in self._latents(block):
            wish = self.wishes[part][:, None]  # (P, 1)
            found, cost = self.tree.nearest(z, width, num_candidates)
            keys.append(np.concatenate([wish, found], axis=1))
            wish_cost = self.tree.cost(z, unpack_ids(wish[:, 0], self.tree.sizes))
            costs.append(np.concatenate([wish_cost[:, None], cost], axis=1))
        return np.concatenate(keys), np.concatenate(costs).astype(np.float64)

    def _descend(self, block: npt.NDArray[np.int64]) -> None:
        """Walk items down the tree, each into the nearest branch that has room left."""
        z = torch.cat([latents for _, latents in self._latents(block)])  # (P, E)
        residual = z
        node = np.zeros(len(block), dtype=np.int64)  # (P,) packed prefix
        for level, codebook in enumerate(self.tree.codebooks):
            size = self.tree.sizes[level]
            below = math.prod(self.tree.sizes[level + 1 :])
            nodes, local = np.unique(node, return_inverse=True)
            children = nodes[:, None] * size + np.arange(size)  # (nodes, K_l)
            used = np.searchsorted(self.taken, (children + 1) * below)
            used -= np.searchsorted(self.taken, children * below)
            cost = codebook.square().sum(dim=1) - 2 * residual @ codebook.T  # (P, K_l)
            code = _fill(cost.cpu().numpy(), local, below - used)  # (P,)
            residual = residual - codebook[torch.from_numpy(code).to(codebook.device)]
            node = node * size + code
        cost_of = self.tree.cost(z, unpack_ids(node, self.tree.sizes))
        wish_cost = self.tree.cost(z, unpack_ids(self.wishes[block], self.tree.sizes))
        self.added += float((cost_of - wish_cost).sum())
        self._place(block, node)

    def _place(self, items: npt.NDArray[np.int64], keys: Keys) -> None:
        self.keys[items] = keys
        keys = np.sort(keys)
        self.taken = np.insert(self.taken, np.searchsorted(self.taken, keys), keys)

    def _latents(self, block: npt.NDArray[np.int64]) -> Any:
        """Yield ``(positions, latents (<= _BEAM_ROWS, E))`` of a block's items."""
        for start, z in encode_rows(
            self.quantizer,
            self.embeddings,
            self.rows[block],
            batch_size=self.batch_size,
            device=self.device,
        ):
            for offset in range(0, len(z), _BEAM_ROWS):
                part = z[offset : offset + _BEAM_ROWS].to(self.tree.dtype)
                yield block[start + offset : start + offset + len(part)], part


class _CodeTree:
    """All code tuples, searched through inner products of codes with latents and codes."""

    def __init__(self, codebooks: list[Tensor]) -> None:
        self.codebooks = [codebook.detach() for codebook in codebooks]  # L of (K_l, E)
        self.sizes = tuple(len(codebook) for codebook in codebooks)
        self.dtype = self.codebooks[0].dtype
        # (K_j, K_l) for j < l: what choosing a code adds to the cost of a later one
        self.products = [
            [2 * earlier @ codebook.T for earlier in self.codebooks[:level]]
            for level, codebook in enumerate(self.codebooks)
        ]

    @torch.no_grad()
    def nearest(
        self, z: Tensor, width: int, num_candidates: int
    ) -> tuple[Keys, npt.NDArray[np.float32]]:
        """Find tuples near latents ``(P, E)``: packed, and their cost, ``(P, M)`` both.

        Cost is the distortion less the squared norm of the latent.
        """
        cost = z.new_zeros(len(z), 1)  # (P, W)
        codes: list[Tensor] = []  # per level so far, (P, W)
        keys = torch.zeros(len(z), 1, dtype=torch.int64, device=z.device)  # (P, W)
        for level, codebook in enumerate(self.codebooks):
            own = codebook.square().sum(dim=1) - 2 * z @ codebook.T  # (P, K_l)
            total = cost[:, :, None] + own[:, None]  # (P, W, K_l)
            for product, code in zip(self.products[level], codes, strict=True):
                total += product[code]
            last = level == len(self.codebooks) - 1
            beam = min(num_candidates if last else width, total[0].numel())
            cost, best = total.flatten(1).topk(beam, dim=1, largest=False)  # (P, beam)
            parent = best // len(codebook)
            chosen = best % len(codebook)
            codes = [code.gather(1, parent) for code in codes] + [chosen]
            keys = keys.gather(1, parent) * len(codebook) + chosen
        return keys.cpu().numpy(), cost.cpu().numpy()

    @torch.no_grad()
    def cost(self, z: Tensor, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Cost of given tuples ``(P, L)``, as in :meth:`nearest`, shape ``(P,)``."""
        codes = torch.from_numpy(ids).long().to(z.device)
        total = torch.zeros_like(z)
        for level, codebook in enumerate(self.codebooks):
            total += codebook[codes[:, level]]
        result: npt.NDArray[np.float32] = ((total - 2 * z) * total).sum(dim=1).cpu().numpy()
        return result


def _solver() -> tuple[Any, Any]:
    """Import SciPy's matching, which serving does without until an item finds its codes in use."""
    try:
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import min_weight_full_bipartite_matching
    except ImportError:
        raise ConfigError(
            "scipy must be installed to move items to free codes, got none; pip install scipy"
        ) from None
    return csr_matrix, min_weight_full_bipartite_matching


def _contains(sorted_keys: Keys, keys: Keys) -> npt.NDArray[np.bool_]:
    """Tell which keys occur in a sorted array; shape of ``keys``."""
    if len(sorted_keys) == 0:
        return np.zeros(keys.shape, dtype=np.bool_)
    position = np.searchsorted(sorted_keys, keys)
    position[position == len(sorted_keys)] = 0
    return sorted_keys[position] == keys


def _fill(
    cost: npt.NDArray[Any], node: npt.NDArray[np.int64], room: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Choose a child for each item so that no child gets more items than it has room.

    Every round items ask for their cheapest open child, and a child takes those that would
    lose most by being sent away. A round fills a child or ends the search.

    Args:
        cost: Cost of each child, shape ``(P, K)``.
        node: Node of each item, in ``[0, nodes)``, shape ``(P,)``.
        room: Items that each child can take, shape ``(nodes, K)``; changed in place.

    Returns:
        Children, shape ``(P,)``.
    """
    num_children = cost.shape[1]
    chosen = np.full(len(cost), -1, dtype=np.int64)
    pending = np.arange(len(cost))
    while len(pending):
        open_cost = np.where(room[node[pending]] > 0, cost[pending], np.inf)  # (P, K)
        child = open_cost.argmin(axis=1)
        best = np.take_along_axis(open_cost, child[:, None], axis=1)[:, 0]
        np.put_along_axis(open_cost, child[:, None], np.inf, axis=1)
        regret = open_cost.min(axis=1) - best  # inf where this is the last open child
        slot = node[pending] * num_children + child
        order = np.lexsort((pending, -regret, slot))
        sorted_slot = slot[order]
        first = np.searchsorted(sorted_slot, sorted_slot)
        accepted = order[np.arange(len(order)) - first < room.ravel()[sorted_slot]]
        chosen[pending[accepted]] = child[accepted]
        np.subtract.at(room.reshape(-1), slot[accepted], 1)
        pending = pending[chosen[pending] < 0]
    return chosen

"""The semantic ID of every item: building the table, keeping it, looking items up in it.

Shape legend: N = catalogue items, L = levels of an ID (the dedup digit included), S = history
items, T = S * L tokens, B = prefixes, D = embedding width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.atomic import atomic_file
from genrec.errors import ArtifactError, ConfigError
from genrec.tokenizer.artifact import (
    ARTIFACT_NAME,
    check_codes,
    join_keys,
    pack_keys,
    read_artifact,
    read_codes,
    row_keys,
    write_artifact,
)
from genrec.tokenizer.collisions import collision_statistics
from genrec.tokenizer.index_json import read_index_json, write_index_json
from genrec.tokenizer.policies import (
    POLICIES,
    IdTable,
    build_ids,
    extend_ids,
    left_over,
    quantizer_digest,
)
from genrec.tokenizer.quantizer import ItemQuantizer

if TYPE_CHECKING:
    from genrec.decoding.trie import PrefixIndex

__all__ = ["ARTIFACT_NAME", "POLICIES", "ItemQuantizer", "SemanticIdTokenizer"]


class SemanticIdTokenizer:
    """A catalogue's table of semantic IDs.

    The table stands alone: it needs neither the model that made it nor the embeddings. Rows
    are in the order of the prepared data set's items.

    Args:
        ids: Codes, shape ``(N, L)``.
        level_sizes: Codes of each column, the dedup digit's included.
        item_keys: The catalogue's own item ids, ``N``; row numbers by default.
        policy: How colliding items were told apart: one of :data:`POLICIES`, or ``"imported"``.
        statistics: What :meth:`build` counted; counted from the table by default.
        quantizer_digest: Digest of the codebooks that made the table, where they are known.

    Attributes:
        ids: Codes, shape ``(N, L)``, int32.
        level_sizes: ``L`` numbers of codes.
        item_keys: ``N`` strings.
        policy: See above.
        statistics: JSON-able. ``num_items, distinct_ids, collision_rate, items_sharing_id,
            largest_group, level_sizes, codes_used, perplexity`` count the quantiser's codes
            before the policy, as of :meth:`build`; ``left_items_sharing_id`` and
            ``left_largest_group`` what the policy left; ``items_moved`` and
            ``added_distortion`` what it cost (squared error added, as a share of the variance
            of the latents, which is the R2 lost there); ``items_added`` later ones.
        quantizer_digest: Which quantiser made the codes; None for an imported table.

    Raises:
        ArtifactError: If the arguments contradict each other.

    Example:
        >>> table = SemanticIdTokenizer([[3, 1], [3, 2]], level_sizes=(4, 4))
        >>> table.tokenize(torch.tensor([[1, 0, -1]]))
        tensor([[ 3,  2,  3,  1, -1, -1]])
    """

    def __init__(
        self,
        ids: npt.ArrayLike,
        *,
        level_sizes: Sequence[int],
        item_keys: Iterable[str] | None = None,
        policy: str = "imported",
        statistics: dict[str, Any] | None = None,
        quantizer_digest: str | None = None,
    ) -> None:
        table = np.asarray(ids)
        keys = row_keys(len(table)) if item_keys is None else pack_keys(item_keys)
        check_codes(table, level_sizes, num_keys=len(keys))
        self.ids: npt.NDArray[np.int32] = table.astype(np.int32, copy=False)
        self.item_keys = keys
        self.level_sizes = tuple(int(size) for size in level_sizes)
        self.policy = policy
        self.quantizer_digest = quantizer_digest
        self.statistics = dict(statistics) if statistics is not None else _counted(self)
        self._tables: dict[torch.device, Tensor] = {}

    @classmethod
    def build(
        cls,
        quantizer: ItemQuantizer,
        embeddings: npt.NDArray[Any],
        *,
        item_keys: Iterable[str] | None = None,
        policy: str = "dedup_token",
        codes: npt.NDArray[np.int32] | None = None,
        batch_size: int = 4096,
        device: torch.device | str | None = None,
    ) -> SemanticIdTokenizer:
        """Give every item of a catalogue its semantic ID.

        Args:
            quantizer: A frozen quantiser, for example an ``RqVae`` in evaluation mode.
            embeddings: Shape ``(N, D)``, in memory or memory-mapped (then read in blocks).
            item_keys: The catalogue's own item ids, ``N``; row numbers by default.
            policy: What to do with items of equal codes. ``dedup_token`` appends a digit to
                every ID; ``reassign`` moves items to codes of their own at the least added
                distortion; ``sinkhorn`` spreads them over the last level's codes, most of
                them; ``none`` lets them share.
            codes: What :func:`~genrec.tokenizer.quantizer.encode_ids` gives for the items, shape
                ``(N, L)``, int32, where it is at hand.
            batch_size: Items encoded at once.
            device: Where the quantiser lives; found from its codebooks by default.

        Returns:
            The table.

        Raises:
            ConfigError: If the policy is unknown.
            ArtifactError: If the embeddings do not fit the quantiser, or there are more items
                than ``reassign`` has tuples.
            DataError: If the embeddings are not finite.
        """
        table = build_ids(
            quantizer,
            embeddings,
            policy=policy,
            codes=codes,
            batch_size=batch_size,
            device=device,
        )
        return cls(
            table.ids,
            level_sizes=table.level_sizes,
            item_keys=item_keys,
            policy=policy,
            statistics=table.statistics,
            quantizer_digest=quantizer_digest(quantizer),
        )

    def add_items(
        self,
        quantizer: ItemQuantizer,
        embeddings: npt.NDArray[Any],
        item_keys: Iterable[str],
        *,
        batch_size: int = 4096,
        device: torch.device | str | None = None,
    ) -> SemanticIdTokenizer:
        """Give IDs to new items without retraining.

        No old ID moves and no level grows, so that a model trained on the old table can
        generate the new items: the dedup digit counts on where there is room, and an item that
        finds its codes full gets the nearest free ones. Under ``none`` and ``sinkhorn`` new
        items share an ID where their codes are in use.

        Args:
            quantizer: The quantiser that made this table.
            embeddings: Embeddings of the new items, shape ``(R, D)``, finite.
            item_keys: Their ids in the catalogue, ``R``, none of them in the table.
            batch_size: Items encoded at once.
            device: Where the quantiser lives.

        Returns:
            A table of ``N + R`` items; its first ``N`` rows are this table's.

        Raises:
            ConfigError: If this table was imported: no quantiser is known to fit it.
            ArtifactError: If the quantiser is another one, a key is not new, the embeddings do
                not fit, or no ID is left.
            DataError: If the embeddings are not finite.
        """
        if self.quantizer_digest is None:
            raise ConfigError(
                f"new items need a table that a quantiser of this project made, got policy "
                f"{self.policy!r}; build the table with `genrec tokenize RUN_DIR`"
            )
        if (digest := quantizer_digest(quantizer)) != self.quantizer_digest:
            raise ArtifactError(
                f"quantiser must be the one that made the table, {self.quantizer_digest}, got "
                f"{digest}; load the run that holds this table"
            )
        added = pack_keys(item_keys)
        if len(added) != len(embeddings):
            raise ArtifactError(
                f"item_keys must have one entry a new item, {len(embeddings)}, got {len(added)}; "
                "use the keys of the items that were embedded"
            )
        seen = set(added)
        known = [key for key in self.item_keys if key in seen]
        if known or len(seen) != len(added):
            what = f"{known[0]!r} that has an ID" if known else "a key given twice"
            raise ArtifactError(f"new items must have new keys, got {what}; leave it out")
        table = extend_ids(
            quantizer,
            embeddings,
            IdTable(self.ids, self.level_sizes, self.statistics),
            policy=self.policy,
            batch_size=batch_size,
            device=device,
        )
        return SemanticIdTokenizer(
            table.ids,
            level_sizes=table.level_sizes,
            item_keys=join_keys(self.item_keys, added),
            policy=self.policy,
            statistics=table.statistics,
            quantizer_digest=digest,
        )

    def extended(
        self, item_keys: Iterable[str], codes: npt.NDArray[np.integer[Any]]
    ) -> SemanticIdTokenizer:
        """Put items with IDs that :meth:`add_items` gave before behind the known ones.

        Args:
            item_keys: Their ids in the catalogue, ``R``, none of them in the table.
            codes: Their IDs, shape ``(R, L)``.

        Returns:
            A table of ``N + R`` items; its first ``N`` rows are this table's.

        Raises:
            ArtifactError: If the codes do not fit the table.
        """
        added = pack_keys(item_keys)
        new = np.asarray(codes).reshape(len(added), -1)
        check_codes(new, self.level_sizes, num_keys=len(added))
        count = int(self.statistics.get("items_added", 0)) + len(added)
        return SemanticIdTokenizer(
            np.concatenate([self.ids, new.astype(np.int32)]),
            level_sizes=self.level_sizes,
            item_keys=join_keys(self.item_keys, added),
            policy=self.policy,
            statistics={**self.statistics, "items_added": count},
            quantizer_digest=self.quantizer_digest,
        )

    def select(self, item_keys: Iterable[str]) -> SemanticIdTokenizer:
        """Keep some items, in a given order: the rows of another data set, for example.

        Args:
            item_keys: Keys in the table, each once.

        Returns:
            A table of these items, with the IDs that they have here.

        Raises:
            ArtifactError: If a key is not in the table.
        """
        wanted = pack_keys(item_keys)
        row_of = {key: row for row, key in enumerate(self.item_keys)}
        missing = [key for key in wanted if key not in row_of]
        if missing:
            raise ArtifactError(
                f"item keys must be in the table, got {len(missing)} that are not (first: "
                f"{missing[0]!r}); give them IDs with add_items"
            )
        ids = self.ids[[row_of[key] for key in wanted]]
        return SemanticIdTokenizer(
            ids,
            level_sizes=self.level_sizes,
            item_keys=wanted,
            policy=self.policy,
            statistics=self.statistics | left_over(ids, self.level_sizes),
            quantizer_digest=self.quantizer_digest,
        )

    @property
    def num_items(self) -> int:
        """Number of items ``N``."""
        return len(self.ids)

    @property
    def num_levels(self) -> int:
        """Length ``L`` of an ID, the dedup digit included."""
        return len(self.level_sizes)

    @property
    def has_dedup_digit(self) -> bool:
        """Whether the last level only tells items of equal codes apart."""
        return self.policy == "dedup_token"

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the IDs and the level sizes, 16 hexadecimal digits."""
        digest = hashlib.sha256(np.asarray(self.level_sizes, dtype="<i8").data)
        digest.update(np.ascontiguousarray(self.ids, dtype="<i4").data)
        return digest.hexdigest()[:16]

    @cached_property
    def items_fingerprint(self) -> str:
        """Digest of the item keys and their order."""
        return self.item_keys.digest()

    def base_groups(self) -> npt.NDArray[np.int64]:
        """Number the items by their codes without the dedup digit, shape ``(N,)``, int64."""
        groups = np.zeros(self.num_items, dtype=np.int64)
        for level in range(self.num_levels - self.has_dedup_digit):
            # Numbers stay below N * K, where one number for the whole ID could overflow.
            joined = groups * self.level_sizes[level] + self.ids[:, level]
            groups = np.unique(joined, return_inverse=True)[1].reshape(-1)
        return groups.astype(np.int64)

    @cached_property
    def _prefix_index(self) -> PrefixIndex:
        from genrec.decoding.trie import PrefixIndex

        return PrefixIndex.from_ids(self.ids, self.level_sizes)

    def tokenize(self, item_ids: Tensor) -> Tensor:
        """Turn item ids into the tokens of their semantic IDs.

        Args:
            item_ids: Rows of the table, shape ``(..., S)``, -1 where there is no item.

        Returns:
            Codes, shape ``(..., S * L)``, int64, -1 where there is no item; on the device of
            ``item_ids``.

        Raises:
            IndexError: If an item id is not in the table (checked on the CPU only, where it
                does not stall a device).
        """
        if item_ids.device.type == "cpu" and item_ids.numel():
            low, high = int(item_ids.min()), int(item_ids.max())
            if low < -1 or high >= self.num_items:
                raise IndexError(
                    f"item ids must lie in [0, {self.num_items}), or be -1 for none, got {low} to "
                    f"{high}; use the items that the table was built for"
                )
        # Row -1 of the table is the padding row.
        tokens = self._table(item_ids.device)[item_ids.long()]  # (..., S, L)
        return tokens.flatten(-2).long()  # (..., T)

    def verify_semantic_ids(self, prefixes: Tensor) -> Tensor:
        """Tell which prefixes ``(B, l)``, ``l >= 1``, some item begins with: ``(B,)``, bool."""
        verified: Tensor = self._prefix_index.verify(prefixes)
        return verified

    def check_items(self, items_fingerprint: str) -> None:
        """Refuse a data set, by its ``items_fingerprint``, whose items are not the table's.

        Raises:
            ArtifactError: If the table was built for other items, or in another order.
        """
        if items_fingerprint != self.items_fingerprint:
            raise ArtifactError(
                f"semantic IDs must be those of the data set's items {items_fingerprint}, got "
                f"IDs of items {self.items_fingerprint} ({self.num_items} of them); "
                "run `genrec tokenize` on this data set, or use the data set they were made from"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as a folder that stands alone; an older one is replaced."""
        meta = {
            "level_sizes": list(self.level_sizes),
            "policy": self.policy,
            "items_fingerprint": self.items_fingerprint,
            "fingerprint": self.fingerprint,
            "quantizer_digest": self.quantizer_digest,
            "statistics": self.statistics,
        }
        write_artifact(path, ids=self.ids, item_keys=self.item_keys, meta=meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SemanticIdTokenizer:
        """Open a table that :meth:`save` wrote; the IDs stay memory-mapped.

        Args:
            path: The folder, or a run folder that holds it as ``semantic_ids``.

        Returns:
            The table.

        Raises:
            MissingPathError: If there is none.
            ArtifactError: If it is damaged or of another version.
        """
        folder, ids, item_keys, meta = read_artifact(path)
        try:
            table = cls(
                ids,
                level_sizes=meta["level_sizes"],
                item_keys=item_keys,
                policy=meta["policy"],
                statistics=meta["statistics"],
                quantizer_digest=meta["quantizer_digest"],
            )
            for name in ("fingerprint", "items_fingerprint"):
                if getattr(table, name) != meta[name]:
                    raise ArtifactError(
                        f"{name} of semantic IDs must be {meta[name]} as in meta.json, got "
                        f"{getattr(table, name)}; the files were changed"
                    )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"semantic IDs must be as they were written, got {folder} with {error}; "
                "make them again with `genrec tokenize RUN_DIR`"
            ) from error
        return table

    def export_index_json(self, path: str | os.PathLike[str], *, keyed_by: str = "row") -> None:
        """Write the IDs in the format of LC-Rec, LETTER and MiniOneRec.

        Args:
            path: The ``.index.json`` file.
            keyed_by: Name items by ``"row"`` number, as those projects do, or by ``"key"``.
        """
        if keyed_by not in ("row", "key"):
            raise ConfigError(f"keyed_by must be row or key, got {keyed_by!r}; use row")
        write_index_json(path, self.ids, names=self.item_keys if keyed_by == "key" else None)

    @classmethod
    def from_index_json(
        cls,
        path: str | os.PathLike[str],
        *,
        item_keys: Iterable[str] | None = None,
        level_sizes: Sequence[int] | None = None,
        keyed_by: str = "auto",
    ) -> SemanticIdTokenizer:
        """Take over the IDs of another project.

        Args:
            path: Its ``.index.json`` file: any token prefixes, any number of levels.
            item_keys: The catalogue's own item ids in row order; row numbers by default.
            level_sizes: Codes of each level; the largest code plus one by default.
            keyed_by: What the file names items by: ``"row"``, ``"key"`` or ``"auto"``.

        Returns:
            The table, in the order of ``item_keys``.

        Raises:
            MissingPathError: If there is no such file.
            DataError: If it is not of this format, or an item has no ID in it.
            ArtifactError: If a code is not below its level's size.
        """
        keys = None if item_keys is None else pack_keys(item_keys)
        ids, _ = read_index_json(path, item_keys=keys, keyed_by=keyed_by)
        return cls(ids, level_sizes=level_sizes or _sizes_of(ids), item_keys=keys)

    def export_npy(self, path: str | os.PathLike[str]) -> None:
        """Write the bare table of codes, ``(N, L)``, int32, as ``.npy``."""
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, self.ids)

    @classmethod
    def from_npy(
        cls,
        path: str | os.PathLike[str],
        *,
        item_keys: Iterable[str] | None = None,
        level_sizes: Sequence[int] | None = None,
    ) -> SemanticIdTokenizer:
        """Take over a bare table of codes, ``(N, L)``, from a ``.npy`` file of whole numbers.

        Args:
            path: The file.
            item_keys: The catalogue's own item ids, ``N``; row numbers by default.
            level_sizes: Codes of each level; the largest code plus one by default.

        Raises:
            MissingPathError: If there is no such file.
            ArtifactError: If it is no such table.
        """
        ids = read_codes(path)
        return cls(ids, level_sizes=level_sizes or _sizes_of(ids), item_keys=item_keys)

    def _table(self, device: torch.device) -> Tensor:
        """Return the IDs with a padding row at the end, on a device, ``(N + 1, L)``."""
        if device not in self._tables:
            table = torch.full((self.num_items + 1, self.num_levels), -1, dtype=torch.int32)
            table.numpy()[:-1] = self.ids
            self._tables[device] = table.to(device)
        return self._tables[device]


def _sizes_of(ids: npt.NDArray[Any]) -> tuple[int, ...]:
    """Take the largest code of each column plus one as its size."""
    if ids.ndim != 2 or len(ids) == 0:
        return ()  # the constructor says what is wrong
    return tuple(int(largest) + 1 for largest in ids.max(axis=0))


def _counted(table: SemanticIdTokenizer) -> dict[str, Any]:
    """Count what a table shows whose making is unknown."""
    counts = collision_statistics(table.ids, table.level_sizes)
    cost = {"items_moved": 0, "added_distortion": 0.0}
    return counts | cost | left_over(table.ids, table.level_sizes)

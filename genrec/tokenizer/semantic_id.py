"""The semantic ID of every item: building the table, keeping it, looking items up in it.

Shape legend: N = catalogue items, L = levels of an ID (the dedup digit included), S = history
items, T = S * L tokens, B = prefixes, D = embedding width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.atomic import atomic_directory, atomic_file, read_json, write_json_atomic
from genrec.data.prepared import StringArray
from genrec.errors import ArtifactError, ConfigError, MissingPathError, did_you_mean
from genrec.tokenizer.collisions import append_dedup_digit, collision_statistics
from genrec.tokenizer.index_json import read_index_json, write_index_json
from genrec.tokenizer.quantizer import ItemQuantizer, encode_ids

if TYPE_CHECKING:
    from genrec.decoding.trie import PrefixIndex

__all__ = ["ARTIFACT_NAME", "POLICIES", "ItemQuantizer", "SemanticIdTokenizer"]

ARTIFACT_NAME = "semantic_ids"  # folder inside a stage-one run
POLICIES = ("dedup_token", "sinkhorn", "reassign", "none")

_FORMAT = "genrec-semantic-ids"
_FORMAT_VERSION = 1


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

    Attributes:
        ids: Codes, shape ``(N, L)``, int32.
        level_sizes: ``L`` numbers of codes.
        item_keys: ``N`` strings.
        policy: See above.
        statistics: JSON-able. ``num_items, distinct_ids, collision_rate, items_sharing_id,
            largest_group, level_sizes, codes_used, perplexity`` count the quantiser's codes
            before the policy; ``left_items_sharing_id`` and ``left_largest_group`` what the
            policy left; ``items_moved`` and ``added_distortion`` what it cost (squared error
            added, as a share of the variance of the latents).

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
    ) -> None:
        table = np.asarray(ids)
        if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
            raise ArtifactError(
                f"ids must be whole numbers of shape (N, L), got {table.dtype} of shape "
                f"{table.shape}; give one row of codes an item"
            )
        self.ids: npt.NDArray[np.int32] = table.astype(np.int32, copy=False)
        self.level_sizes = tuple(int(size) for size in level_sizes)
        self.item_keys = _packed(
            item_keys if item_keys is not None else (str(i) for i in range(len(table)))
        )
        self.policy = policy
        self._check()
        self.statistics = dict(statistics) if statistics is not None else _counted(self)
        self._tables: dict[torch.device, Tensor] = {}

    def _check(self) -> None:
        if len(self.level_sizes) != self.ids.shape[1]:
            raise ArtifactError(
                f"level_sizes must have one entry a level, {self.ids.shape[1]}, got "
                f"{len(self.level_sizes)}; give the number of codes of each column"
            )
        if len(self.item_keys) != len(self.ids):
            raise ArtifactError(
                f"item_keys must have one entry an item, {len(self.ids)}, got "
                f"{len(self.item_keys)}; use the keys of the items that were embedded"
            )
        for level, size in enumerate(self.level_sizes):
            column = self.ids[:, level]
            if len(column) and not (column.min() >= 0 and column.max() < size):
                raise ArtifactError(
                    f"codes of level {level + 1} must lie in [0, {size}), got {column.min()} to "
                    f"{column.max()}; set level_sizes to the sizes of the codebooks"
                )

    @classmethod
    def build(
        cls,
        quantizer: ItemQuantizer,
        embeddings: npt.NDArray[Any],
        *,
        item_keys: Iterable[str] | None = None,
        policy: str = "dedup_token",
        batch_size: int = 4096,
        device: torch.device | str | None = None,
    ) -> SemanticIdTokenizer:
        """Give every item of a catalogue its semantic ID.

        Args:
            quantizer: A frozen quantiser, for example an ``RqVae`` in evaluation mode.
            embeddings: Shape ``(N, D)``, in memory or memory-mapped (then read in blocks).
            item_keys: The catalogue's own item ids, ``N``; row numbers by default.
            policy: What to do with items of equal codes. ``dedup_token`` appends a digit to
                every ID; ``none`` lets them share it.
            batch_size: Items encoded at once.
            device: Where the quantiser lives; found from its codebooks by default.

        Returns:
            The table.

        Raises:
            ConfigError: If the policy is unknown.
            ArtifactError: If the embeddings do not fit the quantiser.
            DataError: If the embeddings are not finite.
        """
        if policy not in POLICIES:
            raise ConfigError(
                f"collision policy must be one of {', '.join(POLICIES)}, got {policy!r}; "
                f"{did_you_mean(policy, POLICIES)}"
            )
        level_sizes = tuple(int(size) for size in quantizer.codebook_sizes)
        ids = encode_ids(quantizer, embeddings, batch_size=batch_size, device=device)
        statistics = collision_statistics(ids, level_sizes)
        statistics |= {"items_moved": 0, "added_distortion": 0.0}
        if policy == "dedup_token":
            ids, digit_size = append_dedup_digit(ids, level_sizes)
            level_sizes = (*level_sizes, digit_size)
        after = collision_statistics(ids, level_sizes)
        for name in ("items_sharing_id", "largest_group"):
            statistics[f"left_{name}"] = after[name]
        return cls(
            ids,
            level_sizes=level_sizes,
            item_keys=item_keys,
            policy=policy,
            statistics=statistics,
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
        """Tell which code prefixes some item begins with.

        Args:
            prefixes: Codes, shape ``(B, l)`` with ``1 <= l <= L``.

        Returns:
            True where an item has this prefix, shape ``(B,)``, bool.
        """
        verified: Tensor = self._prefix_index.verify(prefixes)
        return verified

    def check_items(self, items_fingerprint: str) -> None:
        """Refuse to go on with a table of other items.

        Args:
            items_fingerprint: ``PreparedDataset.items_fingerprint`` of the data in use.

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
        """Write the table as a folder that stands alone; an older one is replaced.

        Args:
            path: The folder.
        """
        with atomic_directory(path) as folder:
            np.save(folder / "ids.npy", self.ids.astype("<i4", copy=False))
            self.item_keys.save(folder, "item_keys")
            meta = {
                "format": _FORMAT,
                "version": _FORMAT_VERSION,
                "num_items": self.num_items,
                "num_levels": self.num_levels,
                "level_sizes": list(self.level_sizes),
                "policy": self.policy,
                "items_fingerprint": self.items_fingerprint,
                "fingerprint": self.fingerprint,
                "statistics": self.statistics,
            }
            write_json_atomic(folder / "meta.json", meta)

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
        folder = Path(path)
        if (folder / ARTIFACT_NAME / "meta.json").is_file():
            folder = folder / ARTIFACT_NAME
        if not (folder / "meta.json").is_file() or not (folder / "ids.npy").is_file():
            raise MissingPathError(
                f"semantic IDs must be a folder with ids.npy and meta.json, got {path}; "
                "make them with `genrec tokenize RUN_DIR`"
            )
        meta = read_json(folder / "meta.json")
        if meta.get("format") != _FORMAT or meta.get("version") != _FORMAT_VERSION:
            raise ArtifactError(
                f"semantic IDs must have format {_FORMAT} version {_FORMAT_VERSION}, got "
                f"{meta.get('format')} version {meta.get('version')} in {folder}; "
                "make them again with `genrec tokenize RUN_DIR`"
            )
        try:
            table = cls(
                np.load(folder / "ids.npy", mmap_mode="r"),
                level_sizes=meta["level_sizes"],
                item_keys=StringArray.load(folder, "item_keys"),
                policy=meta["policy"],
                statistics=meta["statistics"],
            )
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(
                f"semantic IDs must be complete, got {folder} with {error}; "
                "make them again with `genrec tokenize RUN_DIR`"
            ) from error
        for name in ("fingerprint", "items_fingerprint"):
            if getattr(table, name) != meta[name]:
                raise ArtifactError(
                    f"{name} of semantic IDs must be {meta[name]} as in meta.json, got "
                    f"{getattr(table, name)} in {folder}; the files were changed: make them again"
                )
        return table

    def export_index_json(self, path: str | os.PathLike[str], *, keyed_by: str = "row") -> None:
        """Write the IDs in the format of LC-Rec, LETTER and MiniOneRec.

        Args:
            path: The ``.index.json`` file.
            keyed_by: Name items by their ``"row"`` number, as those projects do, or by their
                ``"key"``.
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
        keys = None if item_keys is None else _packed(item_keys)
        ids, _ = read_index_json(path, item_keys=keys, keyed_by=keyed_by)
        return cls(ids, level_sizes=level_sizes or _sizes_of(ids), item_keys=keys)

    def export_npy(self, path: str | os.PathLike[str]) -> None:
        """Write the bare table of codes, shape ``(N, L)``, int32.

        Args:
            path: The ``.npy`` file.
        """
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
        """Take over a bare table of codes.

        Args:
            path: A ``.npy`` file of whole numbers, shape ``(N, L)``.
            item_keys: The catalogue's own item ids, ``N``; row numbers by default.
            level_sizes: Codes of each level; the largest code plus one by default.

        Returns:
            The table.

        Raises:
            MissingPathError: If there is no such file.
            ArtifactError: If it is no such table.
        """
        if not Path(path).is_file():
            raise MissingPathError(f"table of codes must exist, got {path}; check the path")
        try:
            ids = np.load(path)
        except ValueError as error:
            raise ArtifactError(
                f"table of codes must be a .npy file, got {path} with {error}; save it with np.save"
            ) from error
        return cls(ids, level_sizes=level_sizes or _sizes_of(ids), item_keys=item_keys)

    def _table(self, device: torch.device) -> Tensor:
        """Return the IDs with a padding row at the end, on a device, ``(N + 1, L)``."""
        if device not in self._tables:
            table = torch.full((self.num_items + 1, self.num_levels), -1, dtype=torch.int32)
            table.numpy()[:-1] = self.ids
            self._tables[device] = table.to(device)
        return self._tables[device]


def _packed(strings: Iterable[str]) -> StringArray:
    return strings if isinstance(strings, StringArray) else StringArray.from_strings(strings)


def _sizes_of(ids: npt.NDArray[Any]) -> tuple[int, ...]:
    """Take the largest code of each column plus one as its size."""
    if ids.ndim != 2 or len(ids) == 0:
        return ()  # the constructor says what is wrong
    return tuple(int(largest) + 1 for largest in ids.max(axis=0))


def _counted(table: SemanticIdTokenizer) -> dict[str, Any]:
    """Count what a table shows whose making is unknown."""
    counts = collision_statistics(table.ids, table.level_sizes)
    return counts | {
        "items_moved": 0,
        "added_distortion": 0.0,
        "left_items_sharing_id": counts["items_sharing_id"],
        "left_largest_group": counts["largest_group"],
    }

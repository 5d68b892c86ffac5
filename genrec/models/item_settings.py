"""Settings of the item-token model, in groups.

Shape legend: L = levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genrec.errors import ConfigError

__all__ = [
    "HistorySettings",
    "ItemHeadSettings",
    "ItemVectorSettings",
    "TreeSettings",
    "check_groups",
    "check_sizes",
]

HEAD_DTYPES = ("float32", "bfloat16", "auto")
NORMALIZE_OVER = ("vocabulary", "level", "prefix")


@dataclass(frozen=True)
class ItemVectorSettings:
    """Vectors of the items' own, beside those of their codes.

    Attributes:
        item_vectors: Whether there are any. Without, items are known by their codes alone, and
            the model's size does not grow with the catalogue.
        item_rows: Rows of their table, several items to a row; None for a row an item.
        item_drop: Share of the history's items that are known by their codes alone in training,
            in ``[0, 1)``, so that items without a vector of their own work.
        item_codes: Whether a token holds its codes' embeddings beside such a vector. Without,
            items that are added later have to be trained.
    """

    item_vectors: bool = True
    item_rows: int | None = None
    item_drop: float = 0.0
    item_codes: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.item_drop < 1:
            raise ConfigError(f"item_drop must lie in [0, 1), got {self.item_drop}; try 0.1")
        if not self.item_codes and (self.item_drop or not self.item_vectors):
            raise ConfigError(
                "item_codes must be on with item_drop > 0 or without item_vectors, got off; items "
                "would have nothing to be known by"
            )
        _check_rows("item_rows", self.item_rows)


@dataclass(frozen=True)
class TreeSettings:
    """How the codes of the next item get their probabilities.

    Attributes:
        normalize_over: ``prefix``: the codes that continue an existing prefix, in training and
            in search. ``level``: all codes of the level. ``vocabulary``: all codes.
        prefix_vectors: Whether a code is scored by a vector of its prefix too, which for a whole
            ID is the item's own vector, where there are such vectors and no ID is shared. With
            ``normalize_over='prefix'`` only.
        prefix_rows: Rows of each level's table of such vectors, several prefixes to a row; None
            for a row a prefix.
        vectors_per_prefix: How many such vectors a prefix has, of which the ones that fit count,
            one number a level; levels not named have one. A prefix of a first level stands for
            items of many kinds, which one vector cannot point at together.
        items_from: Levels from this one on have neither vectors of codes nor of prefixes: a
            prefix there counts as the items below it, each scored by its own vector and a state
            that goes out from the encoder's. At level 1 of 256 codes a 256th of the catalogue is
            read for each prefix. At least 1; None for no level.
    """

    normalize_over: str = "prefix"
    prefix_vectors: bool = True
    prefix_rows: int | None = None
    vectors_per_prefix: tuple[int, ...] = ()
    items_from: int | None = None

    def __post_init__(self) -> None:
        if self.normalize_over not in NORMALIZE_OVER:
            raise ConfigError(
                f"normalize_over must be one of {', '.join(NORMALIZE_OVER)}, got "
                f"{self.normalize_over!r}; prefix spends nothing on codes that do not exist"
            )
        if self.prefix_vectors and self.normalize_over != "prefix":
            raise ConfigError(
                "prefix_vectors must be off unless normalize_over='prefix', got "
                f"{self.normalize_over!r}; only prefixes that exist have vectors"
            )
        if min(self.vectors_per_prefix, default=1) < 1:
            raise ConfigError(
                f"vectors_per_prefix must be >= 1, got {self.vectors_per_prefix}; try (8, 2)"
            )
        _check_rows("prefix_rows", self.prefix_rows)
        if self.items_from is not None and (self.items_from < 1 or not self.prefix_vectors):
            raise ConfigError(
                "items_from must be >= 1 and have prefix_vectors beside it, got "
                f"{self.items_from}; 1 is usual, None is for very large catalogues"
            )

    def vectors(self, level: int) -> int:
        """Number of vectors of a prefix that ends at a level."""
        return self.vectors_per_prefix[level] if level < len(self.vectors_per_prefix) else 1


@dataclass(frozen=True)
class ItemHeadSettings:
    """A softmax over all items on the encoder's state, as a second loss.

    Attributes:
        item_head_weight: Weight of its loss beside that of generation, >= 0; 0 for none.
        num_negatives: Items that the target is compared with, drawn for the whole batch; None
            for all.
        item_head_dtype: Of the scores of all items in training: ``float32``, ``bfloat16``, which
            takes a quarter of the time on processors that know it, or ``auto``: the second on
            those, the first elsewhere.
    """

    item_head_weight: float = 0.5
    num_negatives: int | None = None
    item_head_dtype: str = "float32"

    def __post_init__(self) -> None:
        if not self.item_head_weight >= 0:
            raise ConfigError(
                f"item_head_weight must be >= 0, got {self.item_head_weight}; try 0.5, or 0.0 for "
                "no item head"
            )
        _check_rows("num_negatives", self.num_negatives)
        if self.item_head_dtype not in HEAD_DTYPES:
            raise ConfigError(
                f"item_head_dtype must be one of {', '.join(HEAD_DTYPES)}, got "
                f"{self.item_head_dtype!r}; auto takes what is fast on this processor"
            )


@dataclass(frozen=True)
class HistorySettings:
    """What the model makes of items that the user already has.

    Attributes:
        seen_weights: Whether it learns a weight for them, so that it knows from the training
            part whether users come back to items.
        seen_start: What is added to the score of such an item before anything is learned, in
            nats; -10 where hardly anybody comes back.
        skip_history: Whether they have probability zero, in training and in search: for data in
            which nobody does.
    """

    seen_weights: bool = False
    seen_start: float = 0.0
    skip_history: bool = False


def _check_rows(name: str, rows: int | None) -> None:
    if rows is not None and rows < 1:
        raise ConfigError(f"{name} must be >= 1, got {rows}; None takes one for each")


def check_groups(items: ItemVectorSettings, tree: TreeSettings, history: HistorySettings) -> None:
    """Refuse groups of settings that do not fit together."""
    if tree.items_from is not None and not items.item_vectors:
        raise ConfigError(
            "items_from must be None without item_vectors, got "
            f"{tree.items_from}; prefixes are scored by the vectors of the items below them"
        )
    if tree.normalize_over != "prefix" and (history.seen_weights or history.skip_history):
        raise ConfigError(
            "seen_weights and skip_history must be off unless normalize_over='prefix', got "
            f"{tree.normalize_over!r}; only prefixes that exist know the items below them"
        )


def check_sizes(
    num_items: int, width: int, num_heads: int, sizes: Sequence[int], dropout: Sequence[float]
) -> None:
    """Refuse sizes of a model that do not fit together."""
    if min(num_items, num_heads, *sizes) < 1:
        raise ConfigError(
            f"sizes of the model must be >= 1, got {(num_items, num_heads, *sizes)} for items, "
            "heads, layers, feed-forward widths and history; use the defaults"
        )
    if width < 1 or width % num_heads:
        raise ConfigError(
            f"embedding_dim must be a multiple of num_heads, got {width} and {num_heads}; for "
            f"example {num_heads * max(1, width // num_heads)}"
        )
    if not all(0 <= p < 1 for p in dropout):
        raise ConfigError(f"dropout must lie in [0, 1), got {tuple(dropout)}; try (0.2, 0.2)")

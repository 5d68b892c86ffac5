"""Settings of the item-token model, in groups.

Shape legend: L = levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genrec.errors import ConfigError
from genrec.modules.kernels.linear_cross_entropy import HEAD_DTYPES
from genrec.settings import Settings, setting

__all__ = [
    "HistorySettings",
    "ItemHeadSettings",
    "ItemVectorSettings",
    "TreeSettings",
    "check_groups",
    "check_sizes",
]

NORMALIZE_OVER = ("vocabulary", "level", "prefix")


@dataclass(frozen=True, kw_only=True)
class ItemVectorSettings(Settings):
    """Vectors of the items' own, beside those of their codes."""

    item_vectors: bool = setting(
        "Whether items have vectors of their own; without, they are known by their codes alone, "
        "and the model's size does not grow with the catalogue",
        True,
    )
    item_rows: int | None = setting(
        "Rows of their table, several items to a row; None for a row an item", None, least=1
    )
    item_drop: float = setting(
        "Share of the history's items that are known by their codes alone in training, so that "
        "items without a vector of their own work",
        0.0,
        least=0,
        below=1,
    )
    item_codes: bool = setting(
        "Whether a token holds its codes' embeddings beside such a vector; without, items that "
        "are added later have to be trained",
        True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.item_codes and (self.item_drop or not self.item_vectors):
            raise ConfigError(
                "item_codes must be on with item_drop > 0 or without item_vectors, got off; items "
                "would have nothing to be known by"
            )


@dataclass(frozen=True, kw_only=True)
class TreeSettings(Settings):
    """How the codes of the next item get their probabilities."""

    normalize_over: str = setting(
        "The codes that share a probability of one: those that continue an existing prefix, in "
        "training and in search, all of the level, or all",
        "prefix",
        choices=NORMALIZE_OVER,
    )
    prefix_vectors: bool = setting(
        "Whether a code is scored by a vector of its prefix too, which for a whole ID is the "
        "item's own vector, where there are such vectors and no ID is shared",
        True,
    )
    prefix_rows: int | None = setting(
        "Rows of each level's table of such vectors, several prefixes to a row; None for a row a "
        "prefix",
        None,
        least=1,
    )
    vectors_per_prefix: tuple[int, ...] = setting(
        "How many such vectors a prefix has, one number a level, 1 where none is named; a prefix "
        "of the first level stands for items of many kinds, at which one vector cannot point",
        (),
        least=1,
    )
    items_from: int | None = setting(
        "Levels from this one on have no vectors of codes and prefixes: a prefix counts as the "
        "items below it, each scored by its own vector; None for no level",
        None,
        least=1,
    )

    root_items: bool = setting(
        "Whether first codes are scored by all items below them too, as the item head scores them, "
        "to which codes and prefixes then add; time grows with the catalogue, so it is for "
        "some hundred thousand items at most",
        False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prefix_vectors and self.normalize_over != "prefix":
            raise ConfigError(
                "prefix_vectors must be off unless normalize_over='prefix', got "
                f"{self.normalize_over!r}; only prefixes that exist have vectors"
            )
        if self.items_from is not None and not self.prefix_vectors:
            raise ConfigError(
                f"items_from must have prefix_vectors beside it, got {self.items_from} without; "
                "1 is usual, None is for very large catalogues"
            )

    def vectors(self, level: int) -> int:
        """Number of vectors of a prefix that ends at a level."""
        return self.vectors_per_prefix[level] if level < len(self.vectors_per_prefix) else 1


@dataclass(frozen=True, kw_only=True)
class ItemHeadSettings(Settings):
    """A softmax over all items on the encoder's state, as a second loss."""

    item_head_weight: float = setting(
        "Weight of the item head's loss beside that of generation; 0 for none", 0.5, least=0
    )
    num_negatives: int | None = setting(
        "Items that the target is compared with, drawn for the whole batch; None for all",
        None,
        least=1,
    )
    item_head_dtype: str = setting(
        "Precision of the scores of all items in training; auto takes what the processor does fast",
        "float32",
        choices=HEAD_DTYPES,
        when={"num_negatives": (None,)},
    )


@dataclass(frozen=True, kw_only=True)
class HistorySettings(Settings):
    """What the model makes of items that the user already has."""

    seen_weights: bool = setting(
        "Learn weights for items that the user has, so that it is known from the training part "
        "whether users come back to items",
        False,
    )
    seen_start: float | None = setting(
        "What is added to the score of such an item before anything is learned, in nats; None for "
        "what the training part says, -10 where nobody comes back",
        None,
        when={"seen_weights": (True,)},
    )
    skip_history: bool = setting(
        "Give them probability zero, in training and in search: for data in which nobody comes "
        "back",
        False,
    )


def check_groups(
    items: ItemVectorSettings, tree: TreeSettings, head: ItemHeadSettings, history: HistorySettings
) -> None:
    """Refuse groups of settings that do not fit together."""
    if tree.root_items and (tree.normalize_over != "prefix" or head.num_negatives is not None):
        raise ConfigError(
            "root_items must be off unless normalize_over='prefix' and num_negatives=None, got "
            f"{tree.normalize_over!r} and {head.num_negatives}; it scores all items anyway"
        )
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

"""What to do with a source's tables on their way to arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genrec.data import splits
from genrec.errors import ConfigError, did_you_mean

__all__ = ["PrepareOptions", "Repeats", "Ties"]

#: How two interactions of a user at the same time are ordered.
Ties = Literal["item", "file"]

#: Which interactions of one user with one item are kept.
Repeats = Literal["all", "first", "last"]


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What to do with the tables.

    Attributes:
        min_user_interactions: Drop users with fewer, again and again until none is left; None
            takes the source's own bound (5 for whole Amazon releases, else 0).
        min_item_interactions: Drop items with fewer, likewise.
        min_rating: Drop interactions rated lower, or not rated; None keeps all.
        repeats: Which interactions of one user with one item to keep.
        ties: Order of a user's interactions at the same time: ``"item"`` or ``"file"``.
        split_rule: ``"leave-one-out"`` or ``"global-time"``.
        valid_share: Share of the interactions to validate on, for ``"global-time"``.
        test_share: Share of the interactions to test on, for ``"global-time"``.
        text_template: Template of the item text; None takes the source's own.
        keep_unseen_items: Keep items that nobody interacted with.
    """

    min_user_interactions: int | None = None
    min_item_interactions: int | None = None
    min_rating: float | None = None
    repeats: Repeats = "all"
    ties: Ties = "item"
    split_rule: str = splits.LEAVE_ONE_OUT
    valid_share: float = 0.1
    test_share: float = 0.1
    text_template: str | None = None
    keep_unseen_items: bool = False

    def __post_init__(self) -> None:
        _choice("split_rule", self.split_rule, list(splits.SPLIT_RULES))
        _choice("repeats", self.repeats, ["all", "first", "last"])
        _choice("ties", self.ties, ["item", "file"])
        for name in ("min_user_interactions", "min_item_interactions"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"{name} must be >= 0, got {value}; 0 keeps all")


def _choice(name: str, value: str, allowed: list[str]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{name} must be one of {', '.join(allowed)}, got {value!r}; "
            f"{did_you_mean(str(value), allowed)}"
        )

"""Cut every user's history into training, validation and test.

Shape legend: U = users, M = interactions. A split is two arrays of positions, ``train_ends``
and ``valid_ends``: user ``u`` trains on ``[offsets[u], train_ends[u])``, is validated on
``[train_ends[u], valid_ends[u])`` and tested on ``[valid_ends[u], offsets[u + 1])``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.errors import ConfigError, DataError

__all__ = [
    "GLOBAL_TIME",
    "LEAVE_ONE_OUT",
    "SPLIT_RULES",
    "count_repeats",
    "global_time",
    "leave_one_out",
]

LEAVE_ONE_OUT = "leave-one-out"
GLOBAL_TIME = "global-time"

#: What each rule does, for the data card.
SPLIT_RULES = {
    LEAVE_ONE_OUT: (
        "leave-one-out: a user's last item is the test, the second last the validation; "
        "users with fewer than 3 items only train"
    ),
    GLOBAL_TIME: (
        "global-time: interactions before one moment train, those before a later one validate, "
        "the rest test"
    ),
}

Ends = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def leave_one_out(offsets: npt.NDArray[np.integer[Any]]) -> Ends:
    """Keep each user's last item for the test and the second last for validation.

    Takes where each user's run begins, and the end, ``(U + 1,)``; gives ``train_ends`` and
    ``valid_ends``, both ``(U,)``, int64. A user with fewer than three items has nothing to
    predict from in training, so all of theirs train.

    Example:
        >>> train_ends, valid_ends = leave_one_out(np.array([0, 4, 6]))
        >>> train_ends.tolist(), valid_ends.tolist()
        ([2, 6], [3, 6])
    """
    ends = np.asarray(offsets[1:], dtype=np.int64)  # (U,)
    held_out = (np.diff(offsets) >= 3).astype(np.int64)  # (U,)
    return ends - 2 * held_out, ends - held_out


def global_time(
    offsets: npt.NDArray[np.integer[Any]],
    times: npt.NDArray[np.integer[Any]],
    *,
    valid_share: float = 0.1,
    test_share: float = 0.1,
) -> Ends:
    """Cut all histories at the same two moments, as a system in service would see them.

    Args:
        offsets: Where each user's run begins, and the end, shape ``(U + 1,)``.
        times: Time of each interaction, rising inside a run, shape ``(M,)``, any unit.
        valid_share: Share of the interactions to validate on, in (0, 1).
        test_share: Share of the interactions to test on, in (0, 1).

    Returns:
        ``train_ends`` and ``valid_ends``, both ``(U,)``, int64. Interactions of the very moment
        of a cut fall behind it, so the shares are met up to ties.

    Raises:
        ConfigError: If the shares leave nothing to train on.
        DataError: If the times fall inside a user's run.

    Example:
        >>> global_time(np.array([0, 3, 5]), np.array([1, 2, 9, 3, 8]),
        ...             valid_share=0.2, test_share=0.2)
        (array([2, 4]), array([2, 5]))
    """
    if not (valid_share > 0 and test_share > 0 and valid_share + test_share < 1):
        raise ConfigError(
            "valid_share and test_share must be positive and sum to less than 1, got "
            f"{valid_share} and {test_share}; 0.1 and 0.1 are usual"
        )
    starts = np.asarray(offsets[:-1], dtype=np.int64)  # (U,)
    if len(times) == 0:
        return starts, starts.copy()
    rises = np.diff(times) >= 0
    inner = np.ones(len(times) - 1, dtype=bool)
    begins = starts[(starts > 0) & (starts < len(times))]
    inner[begins - 1] = False
    if not rises[inner].all():
        raise DataError("times must rise inside each user's run, got a fall; order by time first")
    position = min(round(len(times) * (1 - valid_share - test_share)), len(times) - 1)
    later = min(round(len(times) * (1 - test_share)), len(times) - 1)
    cuts = np.partition(times, [position, later])[[position, later]]
    users = np.repeat(np.arange(len(starts)), np.diff(offsets))  # (M,)
    before = [np.bincount(users[times < cut], minlength=len(starts)) for cut in cuts]
    return starts + before[0], starts + before[1]


def count_repeats(
    items: npt.NDArray[np.integer[Any]],
    offsets: npt.NDArray[np.integer[Any]],
    train_ends: npt.NDArray[np.integer[Any]],
) -> tuple[int, int]:
    """Count the training interactions in which a user comes back to an item.

    Args:
        items: Item of each interaction, shape ``(M,)``.
        offsets: Where each user's run begins, and the end, shape ``(U + 1,)``.
        train_ends: Where the training part of each run ends, shape ``(U,)``.

    Returns:
        How many there are, and out of how many: each user's first interaction is none of them.

    Example:
        >>> count_repeats(np.array([7, 8, 7, 9]), np.array([0, 4]), np.array([3]))
        (1, 2)
    """
    lengths = np.asarray(train_ends, dtype=np.int64) - offsets[:-1]  # (U,)
    users = np.repeat(np.arange(len(lengths)), lengths)
    begins = np.repeat(offsets[:-1] - (np.cumsum(lengths) - lengths), lengths)
    trained = np.asarray(items)[begins + np.arange(len(users))].astype(np.int64)
    pairs = np.unique(users * (int(trained.max(initial=0)) + 1) + trained)
    return len(users) - len(pairs), len(users) - int((lengths > 0).sum())

"""Histories and targets as item ids; knows no semantic IDs and no model.

Shape legend: E = examples, U = users, S = history items, B = rows of a batch, M = interactions.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from genrec.data.prepared import PreparedDataset
from genrec.data.schemas import SequenceBatch
from genrec.data.user_hashes import hash_users
from genrec.errors import ConfigError, did_you_mean

__all__ = ["SPLITS", "SeqData", "hash_users", "user_buckets"]

SPLITS = ("train", "valid", "test")


class SeqData(Dataset[SequenceBatch]):
    """The examples of one split: a target and the items before it.

    A training example's target lies in the training part of its user's run, so no validation or
    test item is ever a training target. The history of a validation or test example is
    everything before the target, as a recommender would know it then.

    Args:
        data: A prepared data set or its folder.
        split: ``train``, ``valid`` or ``test``.
        max_history: Newest items kept of a history, >= 1.

    Attributes:
        positions: Where each example's target lies in ``data.sequence_items``, ``(E,)``, int64.
        users: User of each example, ``(E,)``, int64.
        lengths: History items of each example, ``(E,)``, int64, from 1 to ``max_history``.

    Raises:
        ConfigError: If the split is unknown or ``max_history`` is below 1.
    """

    def __init__(
        self,
        data: PreparedDataset | str | os.PathLike[str],
        split: str = "train",
        *,
        max_history: int = 20,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"split must be known, got {split!r}; {did_you_mean(split, SPLITS)}")
        if max_history < 1:
            raise ConfigError(f"max_seq_len must be >= 1, got {max_history}; 20 is the usual value")
        self.data = data if isinstance(data, PreparedDataset) else PreparedDataset.load(data)
        self.split = split
        self.max_history = max_history
        offsets, ends = self.data.sequence_offsets, self.data.sequence_offsets[1:]
        begin, end = {
            "train": (offsets[:-1], self.data.train_ends),
            "valid": (self.data.train_ends, self.data.valid_ends),
            "test": (self.data.valid_ends, ends),
        }[split]
        begin = np.maximum(begin, offsets[:-1] + 1)  # an example needs one item of history
        count = np.maximum(np.asarray(end) - begin, 0)
        self.users = np.repeat(np.arange(self.data.num_users), count)
        self.positions = _ranges(begin, count)
        self.lengths = np.minimum(self.positions - offsets[self.users], max_history)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> SequenceBatch:
        return self.gather(np.array([range(len(self))[index]]))

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """Target item of each example, shape ``(E,)``, int64."""
        return np.asarray(self.data.sequence_items[self.positions], dtype=np.int64)

    def gather(self, indices: npt.NDArray[np.integer[Any]]) -> SequenceBatch:
        """Assemble examples.

        Args:
            indices: Which, shape ``(B,)``.

        Returns:
            The batch on the CPU, as wide as its longest history.
        """
        rows = (self.positions[indices], self.lengths[indices], self.users[indices])
        return gather_rows(self._items, *rows)

    @cached_property
    def _items(self) -> Tensor:
        """All interactions, copied: torch cannot hold a read-only memory map."""
        return torch.from_numpy(np.array(self.data.sequence_items))

    @cached_property
    def user_hashes(self) -> Tensor:
        """Hash of each user of the data set, shape ``(U,)``, int64; see :func:`hash_users`."""
        return torch.from_numpy(hash_users(self.data.user_keys))

    def packed_windows(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Cut every user's training part into windows of ``max_history + 1`` items.

        Windows overlap by half, and an item is the target of the first window in which it has
        a history, so that each training example appears exactly once.

        Returns:
            ``(starts, lengths, firsts, users)``, each of shape ``(windows,)``, int64: position
            of the first item, number of items, the first of them that is a target, the user.
        """
        offsets = self.data.sequence_offsets[:-1]
        sizes = np.asarray(self.data.train_ends) - offsets
        users = np.flatnonzero(sizes >= 2)
        sizes = sizes[users]
        width = self.max_history + 1
        stride = max(1, width // 2)
        count = 1 + np.maximum(0, -(-(sizes - width) // stride))
        number = _ranges(np.zeros_like(count), count)
        sizes, users = np.repeat(sizes, count), np.repeat(users, count)
        latest = np.maximum(sizes - width, 0)
        starts = np.minimum(number * stride, latest)
        # What the window before this one has covered; the first window covers from item 1.
        covered = np.where(number == 0, 1, np.minimum((number - 1) * stride, latest) + width)
        lengths = np.minimum(sizes - starts, width)
        return starts + offsets[users], lengths, covered - starts, users


def gather_rows(
    items: Tensor,
    positions: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    users: npt.NDArray[np.int64],
) -> SequenceBatch:
    """Look up the histories before some positions, and the targets at them.

    Args:
        items: All interactions, shape ``(M,)``, int32, on any device.
        positions: Target positions, shape ``(B,)``.
        lengths: History items, shape ``(B,)``.
        users: Shape ``(B,)``.

    Returns:
        The batch, on the device of ``items``.
    """
    longest = int(lengths.max(initial=1))
    padded = bool((lengths != longest).any())
    at, size, user = _to_device(np.stack([positions, lengths, users]), items.device)
    columns = torch.arange(longest, device=items.device)
    rows = (at - size).unsqueeze(1) + columns  # (B, S)
    if padded:
        inside = columns < size.unsqueeze(1)
        history = items[rows.where(inside, 0)].long().where(inside, -1)
    else:
        history = items[rows].long()
    targets = items[at].long().unsqueeze(1)
    return SequenceBatch(history, targets, user, packed=False, padded=padded)


def gather_windows(
    items: Tensor,
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    firsts: npt.NDArray[np.int64],
    users: npt.NDArray[np.int64],
) -> SequenceBatch:
    """Look up windows in which every item from ``firsts`` on is the target of those before it.

    Args:
        items: All interactions, shape ``(M,)``, int32, on any device.
        starts: First item of each window, shape ``(B,)``.
        lengths: Items of each window, at least 2, shape ``(B,)``.
        firsts: First item of each window that is a target, shape ``(B,)``.
        users: Shape ``(B,)``.

    Returns:
        A packed batch, on the device of ``items``.
    """
    longest = int(lengths.max(initial=2)) - 1
    padded = bool((lengths - 1 != longest).any())
    live = _ranges(np.arange(len(starts)) * longest + firsts - 1, lengths - firsts)
    sent = _to_device(np.concatenate([starts, lengths, firsts, users, live]), items.device)
    start, size, first, user = sent[: 4 * len(starts)].view(4, -1, 1)
    columns = torch.arange(longest, device=items.device)
    inside = columns < size - 1
    rows = torch.where(inside, start + columns, 0)  # (B, S)
    history = items[rows].long().where(inside, -1)
    wanted = inside & (columns + 1 >= first)
    targets = items[torch.where(wanted, rows + 1, 0)].long().where(wanted, -1)
    return SequenceBatch(
        history,
        targets,
        user.squeeze(-1),
        packed=True,
        padded=padded,
        live=sent[4 * len(starts) :],
    )


def user_buckets(hashes: Tensor, num_buckets: int) -> Tensor:
    """Spread hashed users over buckets: the hash as an unsigned number modulo ``num_buckets``.

    Args:
        hashes: From :func:`hash_users`, any shape, int64.
        num_buckets: Number of buckets, >= 1.

    Returns:
        Same shape, int64, in ``[0, num_buckets)``.
    """
    # A negative int64 stands for itself plus 2^64, which torch cannot hold.
    wrapped = torch.where(hashes < 0, 2**64 % num_buckets, 0)
    return (hashes % num_buckets + wrapped) % num_buckets


def _to_device(array: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """Copy to a device; the host does not wait for it."""
    found = torch.from_numpy(array)
    # Only page-locked memory can be read while the host goes on.
    return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found


def _ranges(begin: npt.NDArray[Any], count: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Concatenate ``begin[i], begin[i] + 1, ...`` of ``count[i]`` numbers each."""
    ends = np.cumsum(count)
    steps = np.arange(ends[-1] if len(ends) else 0, dtype=np.int64)
    return steps + np.repeat(begin - (ends - count), count)

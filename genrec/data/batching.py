"""Batches whose cost follows the real items: sorted by length, or whole sequences at once.

Shape legend: E = examples, B = rows of a batch, N = items, L = levels, U = users. Everything is
an index into arrays that lie on the device, so a batch costs no copy of the data and no worker
process. What a batch holds depends on (seed, epoch, position) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from genrec.data.schemas import SequenceBatch, TokenizedBatch
from genrec.data.sequence_dataset import SeqData, gather_rows, gather_windows, user_buckets
from genrec.errors import ConfigError

__all__ = ["EvaluationBatches", "TokenTable", "TrainingBatches", "length_buckets"]

TRAIN_MODES = ("bucketed", "packed", "padded")


class TokenTable:
    """Turns item ids into codes by look-up.

    Args:
        ids: Semantic IDs, shape ``(N, L)``, integer.
        users: Bucket of each user of the data set, shape ``(U,)``, int64, or None.
        device: Where the tables live.
    """

    def __init__(
        self,
        ids: npt.NDArray[np.integer],
        users: torch.Tensor | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        codes = torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64))
        # One more row answers for padding, since index -1 means the last.
        self.codes = torch.cat([codes, torch.full_like(codes[:1], -1)]).to(device)
        self.users = None if users is None else users.to(device)

    def tokenize(self, batch: SequenceBatch) -> TokenizedBatch:
        """Look a batch up.

        Args:
            batch: Item ids, on the device of the tables.

        Returns:
            The same as codes, with hashed users.
        """
        users = batch.user_ids if self.users is None else self.users[batch.user_ids]
        return TokenizedBatch(
            history=self.codes[batch.history],
            targets=self.codes[batch.targets],
            user_ids=users,
            packed=batch.packed,
            padded=batch.padded,
        )

    @classmethod
    def build(
        cls,
        data: SeqData,
        ids: npt.NDArray[np.integer],
        *,
        num_users: int = 0,
        device: torch.device | str = "cpu",
    ) -> TokenTable:
        """Build the tables of a data set.

        Args:
            data: Its user keys are hashed.
            ids: Semantic IDs, shape ``(N, L)``.
            num_users: User tokens of the model, 0 for none.
            device: Where the tables live.

        Returns:
            The tables.
        """
        buckets = user_buckets(data.user_hashes, num_users) if num_users else None
        return cls(ids, buckets, device=device)


class TrainingBatches:
    """The training examples of each epoch in shuffled batches; see ``EpochLoader``.

    Modes: ``bucketed`` groups examples of like length, so that next to nothing is padded.
    ``packed`` takes windows of whole sequences, each item of which is a target; it needs a
    model with an item-causal encoder. ``padded`` shuffles without looking at lengths: the
    plain way, kept as the reference of the other two.

    Args:
        data: The training split.
        batch_size: Rows of a batch on one process: examples, or windows when packed.
        mode: ``bucketed``, ``packed`` or ``padded``.
        seed: Of the order.
        one_per_user: Take one random example of each user an epoch, instead of all.
        rank: Number of this process.
        world_size: Number of processes.
        accumulate: Batches of a process that make one step, >= 1. What a step holds, and how it is
            cut, depends on ``world_size * accumulate`` alone: on the shards, not on who takes them.
        pool: Steps that are sorted together; more means less padding and less mixing.
        device: Where the batches live.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(
        self,
        data: SeqData,
        *,
        batch_size: int,
        mode: str = "bucketed",
        seed: int = 0,
        one_per_user: bool = False,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        pool: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        if mode not in TRAIN_MODES:
            raise ConfigError(
                f"train_mode must be one of {', '.join(TRAIN_MODES)}, got {mode!r}; bucketed "
                "works with every model"
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size must be >= 1, got {batch_size}; try 256")
        if mode == "packed" and one_per_user:
            raise ConfigError(
                "train_data_subsample must be off with train_mode='packed', got both; packed "
                "already trains every target of a sequence in one pass"
            )
        self.mode, self.seed = mode, seed
        self.num_shards = world_size * accumulate
        self.step_size = batch_size * self.num_shards
        self.rank, self.world_size, self.pool = rank, world_size, pool
        self.accumulate = accumulate
        self.one_per_user = one_per_user
        self.items = torch.from_numpy(np.array(data.data.sequence_items)).to(device)
        if mode == "packed":
            self.columns: tuple[npt.NDArray[np.int64], ...] = data.packed_windows()
            _, self.sizes, firsts, _ = self.columns
            self.num_targets = self.sizes - firsts
        else:
            self.columns = (data.positions, data.lengths, data.users)
            self.sizes = data.lengths
            self.num_targets = np.ones_like(self.sizes)
        users = self.columns[-1]
        self._user_starts = np.flatnonzero(np.diff(users, prepend=-1))
        self.num_rows = len(self._user_starts) if one_per_user else len(users)

    def __len__(self) -> int:
        return self.accumulate * self._num_steps()

    def _num_steps(self) -> int:
        full, rest = divmod(self.num_rows, self.step_size)
        # The last step is dropped, unless it is all there is: the next epoch draws anew.
        return full if full else int(rest >= self.num_shards)

    def batches(self, epoch: int, start: int = 0) -> Iterator[SequenceBatch]:
        """Yield this process's share of each batch of an epoch.

        Args:
            epoch: Number of the epoch.
            start: Batches to leave out.

        Yields:
            Batches of item ids.
        """
        gather = gather_windows if self.mode == "packed" else gather_rows
        steps = self.plan(epoch)
        for number in range(start, len(self)):
            step, turn = divmod(number, self.accumulate)
            rows = steps[step]
            mine = rows[turn * self.world_size + self.rank :: self.num_shards]
            batch = gather(self.items, *(c[mine] for c in self.columns))
            share = self.num_targets[mine].sum() / self.num_targets[rows].sum()
            yield replace(batch, weight=float(share * self.num_shards))

    def plan(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Draw the steps of an epoch, the same on every process.

        Args:
            epoch: Number of the epoch.

        Returns:
            Rows of each step, over all its shards.
        """
        rng = np.random.default_rng([self.seed, epoch])
        if self.one_per_user:
            counts = np.diff(self._user_starts, append=len(self.sizes))
            drawn = (rng.random(len(counts)) * counts).astype(np.int64)
            order = rng.permutation(self._user_starts + drawn)
        else:
            order = rng.permutation(len(self.sizes))
        count, size = self._num_steps(), self.step_size
        order = order[: count * size]
        if self.mode == "padded":
            return [order[i * size : (i + 1) * size] for i in range(count)]
        return length_buckets(order, self.sizes, size, self.pool, rng)


def length_buckets(
    order: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    batch_size: int,
    pool: int,
    rng: np.random.Generator,
) -> list[npt.NDArray[np.int64]]:
    """Cut shuffled rows into batches of like size, in shuffled order.

    Args:
        order: Rows in random order.
        sizes: Size of every row.
        batch_size: Rows of a batch.
        pool: Batches that are sorted together.
        rng: Of the order of the batches.

    Returns:
        The batches; every row once.
    """
    chunk = np.arange(len(order)) // (batch_size * pool)
    ordered = order[np.lexsort((sizes[order], chunk))]
    batches = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


class EvaluationBatches:
    """Every example of a split once, sorted by length and cut by a budget of items.

    Histories of one length lie together wherever they fill a batch, so most batches have no
    padding at all. The cut does not depend on the number of processes; they take turns.

    Args:
        data: The split.
        device: Where the batches live.
        budget: Most history items of a batch, padding included.
        max_rows: Most rows of a batch.
        rank: Number of this process.
        world_size: Number of processes.
        limit: Use only this many examples, evenly spread, or None for all.
    """

    def __init__(
        self,
        data: SeqData,
        *,
        device: torch.device | str = "cpu",
        budget: int = 2048,
        max_rows: int = 256,
        rank: int = 0,
        world_size: int = 1,
        limit: int | None = None,
    ) -> None:
        self.data = data
        self.items = torch.from_numpy(np.array(data.data.sequence_items)).to(device)
        if limit is None or limit >= len(data):
            self.examples = np.arange(len(data))
        else:
            self.examples = np.linspace(0, len(data) - 1, limit).astype(np.int64)
        order = self.examples[np.argsort(data.lengths[self.examples], kind="stable")]
        cuts = _budget_cuts(data.lengths[order], budget, max_rows)
        self.rows = [order[a:b] for a, b in cuts][rank::world_size]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[npt.NDArray[np.int64], SequenceBatch]:
        rows, data = self.rows[number], self.data
        columns = (data.positions[rows], data.lengths[rows], data.users[rows])
        return rows, gather_rows(self.items, *columns)

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.int64], SequenceBatch]]:
        return map(self.__getitem__, range(len(self)))


def _budget_cuts(
    lengths: npt.NDArray[np.int64], budget: int, max_rows: int
) -> list[tuple[int, int]]:
    """Cut rows, sorted by length, into batches of at most ``budget`` padded items."""
    cuts = []
    begin = 0
    while begin < len(lengths):
        end = begin + 1
        limit = min(len(lengths), begin + max_rows)
        # The widest row is the last one, so shrink until the padded size fits.
        ends = np.arange(end, limit + 1)
        fits = ends[lengths[ends - 1] * (ends - begin) <= budget]
        end = int(fits[-1]) if len(fits) else end
        if lengths[end - 1] != lengths[begin]:  # cut where the length changes, if that is full
            same = int(np.searchsorted(lengths, lengths[end - 1], side="left"))
            if same - begin >= (end - begin) // 2:
                end = same
        cuts.append((begin, end))
        begin = end
    return cuts

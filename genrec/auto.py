"""Which recipe suits a data set and a machine: the rules behind ``genrec train auto``.

Shape legend: U = users, M = interactions.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genrec.errors import ConfigError, DataError
from genrec.stages import Options

if TYPE_CHECKING:
    from genrec.data.prepared import PreparedDataset

__all__ = [
    "ADJUSTMENTS",
    "AUTO",
    "RULES",
    "Choice",
    "Facts",
    "choose",
    "facts_of",
    "pick",
    "rules_table",
]

AUTO = "auto"  # what stands in place of a recipe


@dataclass(frozen=True)
class Facts:
    """What the choice depends on.

    Attributes:
        users: Users with two items of training or more.
        items: Items of the catalogue.
        interactions: Interactions of the training part.
        median_length: Median number of items of these users in the training part.
        repeats: Share of the training part's interactions with an item that the user had before.
        cores: CPU cores for training.
        gpu: Whether there is a GPU.
    """

    users: int
    items: int
    interactions: int
    median_length: float
    repeats: float
    cores: int
    gpu: bool

    def __str__(self) -> str:
        where = "a GPU" if self.gpu else f"{self.cores} CPU core" + "s" * (self.cores > 1)
        return (
            f"{self.users:,} users with two items to train on or more, {self.items:,} items, "
            f"histories of {self.median_length:g} at the median, {100 * self.repeats:.1f} % "
            f"repeats, {where}"
        )


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        when: The condition, for people.
        holds: The same, as code.
        then: Recipe, or settings as words of ``--gin``.
        why: Why, for people.
    """

    when: str
    holds: Callable[[Facts], bool]
    then: tuple[str, ...]
    why: str


#: The first that holds names the recipe.
RULES = (
    Rule(
        "at most 3,000 items",
        lambda facts: facts.items <= 3_000,
        ("sample",),
        "3 x 32 codes are enough, and small batches make enough steps",
    ),
    Rule(
        "median history of 30 items or more",
        lambda facts: facts.median_length >= 30,
        ("movielens",),
        "it reads the newest 50 items, not 20",
    ),
    Rule(
        "everything else",
        lambda facts: True,
        ("amazon",),
        "3 x 256 codes, the newest 20 items",
    ),
)

#: Each that holds adds its settings; ``--gin`` wins over them.
ADJUSTMENTS = (
    Rule(
        "more than 100,000 items, and no GPU",
        lambda facts: facts.items > 100_000 and not facts.gpu,
        ("decoder.num_negatives=1024", "decoder.root_items=False"),
        "a softmax over all items would be most of the time",
    ),
)


@dataclass(frozen=True)
class Choice:
    """What suits.

    Attributes:
        recipe: Its name.
        bindings: Settings that differ from it, as words of ``--gin``.
        reasons: Why, in the order of the rules.
    """

    recipe: str
    bindings: tuple[str, ...]
    reasons: tuple[str, ...]


def choose(facts: Facts) -> Choice:
    """Apply the rules to facts."""
    rule = next(rule for rule in RULES if rule.holds(facts))
    more = [rule for rule in ADJUSTMENTS if rule.holds(facts)]
    reasons = tuple(f"{rule.when}: {rule.why}" for rule in (rule, *more))
    return Choice(rule.then[0], tuple(word for rule in more for word in rule.then), reasons)


#: What Amazon Beauty has, and its minutes on two cores: stage one goes by items, stage two by
#: interactions to train on.
_BEAUTY_ITEMS, _BEAUTY_INTERACTIONS, _BEAUTY_MINUTES = 12_101, 153_776, (2, 7)


def minutes(facts: Facts) -> int:
    """Estimate the time of both stages on a CPU from that of Amazon Beauty on two cores."""
    one, two = _BEAUTY_MINUTES
    both = one * facts.items / _BEAUTY_ITEMS + two * facts.interactions / _BEAUTY_INTERACTIONS
    return max(1, round(both * 2 / facts.cores))


def estimate(facts: Facts) -> str:
    """Say how long both stages take, and what that is computed from."""
    one, two = _BEAUTY_MINUTES
    cores = f"{facts.cores} core" + "s" * (facts.cores > 1)
    return (
        f"about {minutes(facts):,} min for both stages on {cores}, by those of Amazon Beauty on "
        f"two: {one} min x {facts.items:,} of {_BEAUTY_ITEMS:,} items, and {two} min x "
        f"{facts.interactions:,} of {_BEAUTY_INTERACTIONS:,} interactions to train on; a full "
        "machine takes longer"
    )


def facts_of(data: PreparedDataset) -> Facts:
    """Count what the choice depends on; the machine is this one.

    Raises:
        DataError: If nobody has two interactions to train on.
    """
    import torch

    begins = np.asarray(data.sequence_offsets[:-1])
    lengths = np.asarray(data.train_ends) - begins  # (U,)
    long = lengths[lengths >= 2]
    if len(long) == 0:
        raise DataError(
            f"data for auto must have users with two interactions to train on, got none in "
            f"{data.path}; train stage one alone, `genrec train rqvae --data {data.path}`"
        )
    users = np.repeat(np.arange(data.num_users), np.diff(data.sequence_offsets))  # (M,)
    trained = np.arange(data.num_interactions) < np.repeat(
        data.train_ends, np.diff(data.sequence_offsets)
    )
    pairs = users[trained] * np.int64(data.num_items) + data.sequence_items[trained]
    return Facts(
        users=len(long),
        items=data.num_items,
        interactions=int(lengths.sum()),
        median_length=float(np.median(long)),
        repeats=1 - len(np.unique(pairs)) / max(1, len(pairs)),
        cores=torch.get_num_threads(),
        gpu=torch.cuda.is_available(),
    )


def pick(words: Sequence[str], options: Options) -> tuple[Sequence[str], Options, list[str]]:
    """Put a recipe in place of the word ``auto``, preparing the data where that is to be done.

    Args:
        words: Those of ``genrec train``.
        options: Its options.

    Returns:
        Words and options with the recipe, and lines that say which and why; none where ``auto``
        is not among the words.

    Raises:
        GenRecError: If ``auto`` does not stand alone, or has no data.
    """
    if AUTO not in words:
        return words, options, []
    if len(words) > 1:
        raise ConfigError(
            f"auto must stand alone, got {' '.join(words)}; it picks the recipe of both stages"
        )
    if options.data is None:
        raise ConfigError(
            "auto must have data to choose by, got none; add --data with a prepared data set or "
            "the folder of a source"
        )
    data = _open(Path(options.data), options.split)
    facts = facts_of(data)
    choice = choose(facts)
    name = options.name or Path(options.data).resolve().name
    told = ["genrec", "train", choice.recipe, "--data", str(data.path), "--name", name]
    told += [word for binding in choice.bindings for word in ("--gin", binding)]
    told += [word for binding in options.bindings for word in ("--gin", binding)]
    lines = [f"auto: {facts}"]
    lines += [f"auto: {reason}" for reason in choice.reasons]
    if not facts.gpu:
        lines.append(f"auto: {estimate(facts)}")
    lines += [f"auto: the same as {shlex.join(told)}"]
    options = dataclasses.replace(
        options,
        data=str(data.path),
        split=None,
        name=name,
        bindings=[*choice.bindings, *options.bindings],
    )
    return [choice.recipe], options, lines


def rules_table() -> str:
    """Write the rules as the table of the README."""
    lines = ["| data and machine | recipe or settings | why |", "| --- | --- | --- |"]
    for rule in (*RULES, *ADJUSTMENTS):
        then = ", ".join(f"`{word}`" for word in rule.then)
        lines.append(f"| {rule.when} | {then} | {rule.why} |")
    return "\n".join(lines)


def _open(folder: Path, split: str | None) -> PreparedDataset:
    """Open a prepared data set, or prepare a source as training would."""
    from genrec.data.prepared import PreparedDataset, is_prepared
    from genrec.data.processed import load_or_prepare
    from genrec.data.readers.registry import detect_kind
    from genrec.errors import MissingPathError

    if is_prepared(folder):
        return PreparedDataset.load(folder)
    if not folder.is_dir():
        raise MissingPathError(f"--data must be an existing folder, got {folder}; check the path")
    if os.environ.get("RANK", "0") == "0":
        print(f"auto: preparing {folder} with the encoder tfidf", flush=True)
    return load_or_prepare(detect_kind(folder, split), folder, split=split)

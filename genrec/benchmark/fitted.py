"""Models that are fitted in one go, with their settings chosen on validation."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from genrec.data.prepared import PreparedDataset
from genrec.errors import ConfigError, did_you_mean
from genrec.rankers import Cooccurrence, OwnHistory, Popularity, Ranker
from genrec.rankers_linear import Ease, ItemKnn

__all__ = ["FITTED", "Fit", "check_grid", "fit_best"]

#: What ``benchmark.models`` may name besides recipes.
FITTED: Mapping[str, type[Any]] = {
    "popularity": Popularity,
    "co-occurrence": Cooccurrence,
    "own-history": OwnHistory,
    "item-knn": ItemKnn,
    "ease": Ease,
}

#: Attribute that holds what was learned; the others count.
_WEIGHTS = {"item-knn": "similarities", "ease": "weights"}


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    Attributes:
        ranker: The model.
        seconds: Wall time of fitting this one.
        parameters: Weights; 0 where it only counts.
        chosen: Its settings that were chosen on validation.
    """

    ranker: Ranker
    seconds: float
    parameters: int
    chosen: Mapping[str, float]


def check_grid(kind: str, grid: Mapping[str, Sequence[float]]) -> None:
    """Refuse a grid whose names are no settings of the model, or that has no values.

    Args:
        kind: Key of :data:`FITTED`.
        grid: Values by setting.

    Raises:
        ConfigError: If it does not fit.
    """
    known = [name for name in _settings(kind) if name not in ("max_history", "max_bytes")]
    for name, values in grid.items():
        if name not in known:
            near = did_you_mean(name, known) if known else "leave it out: there are none"
            raise ConfigError(f"grid must name settings of {kind}, got {name!r}; {near}")
        if not values:
            raise ConfigError(f"grid must hold values, got none for {name} of {kind}; add some")


def fit_best(
    kind: str,
    data: PreparedDataset,
    grid: Mapping[str, Sequence[float]],
    score: Callable[[Ranker], float],
    *,
    max_history: int = 20,
    device: torch.device | str = "cpu",
) -> Fit:
    """Fit a model with each setting of a grid, and keep the best.

    Args:
        kind: Key of :data:`FITTED`.
        data: The data set, of which the training part is read.
        grid: Values by setting, from :func:`check_grid`; where empty, the model's own are taken
            and nothing is scored.
        score: How good a ranker is on validation; of equals the first is kept.
        max_history: Longest history that it is asked with, for models that want to know.
        device: Where it ranks.

    Returns:
        The best one. At most two fitted models are in memory at a time.

    Raises:
        GenRecError: If a value is out of range, or the data do not fit the model.
    """
    fixed = {"max_history": max_history} if "max_history" in _settings(kind) else {}
    # The decay weighs histories, not training data: one fit serves all of its values.
    decays = grid.get("decay", ())
    names = [name for name in grid if name != "decay"]
    best, best_score = None, -float("inf")
    for values in itertools.product(*(grid[name] for name in names)):
        given = dict(zip(names, values, strict=True))
        began = time.perf_counter()
        first = dict(given, decay=decays[0]) if decays else given
        ranker = FITTED[kind].fit(data, device=device, **fixed, **_whole(kind, first))
        seconds = time.perf_counter() - began
        weights = getattr(ranker, _WEIGHTS[kind]).numel() if kind in _WEIGHTS else 0
        if not grid:
            return Fit(ranker, seconds, weights, {})
        for decay in decays or (None,):
            chosen = given if decay is None else dict(given, decay=decay)
            one = ranker if decay is None else dataclasses.replace(ranker, decay=decay)
            found = score(one)
            print(f"{kind} {_words(chosen)}: {found:.4f} on validation", flush=True)
            if found > best_score:
                best, best_score = Fit(one, seconds, weights, chosen), found
    assert best is not None, "a grid has values, and scores are numbers"
    return best


def _settings(kind: str) -> list[str]:
    """List what ``fit`` can be told of the model itself."""
    parameters = inspect.signature(FITTED[kind].fit).parameters
    return [name for name in parameters if name not in ("data", "device")]


def _whole(kind: str, given: Mapping[str, float]) -> dict[str, float]:
    """Turn values of settings that are whole numbers by default into such."""
    parameters = inspect.signature(FITTED[kind].fit).parameters
    return {
        name: int(value) if isinstance(parameters[name].default, int) else value
        for name, value in given.items()
    }


def _words(chosen: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in chosen.items())

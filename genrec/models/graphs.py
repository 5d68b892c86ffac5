"""The parts of a model that run elsewhere: tensors in, tensors out, and nothing decided by shapes.

What lies between the parts, the search over the prefix index, is the caller's. A model that can
be taken apart has a method ``graphs(catalogue, options)`` that returns :class:`Graphs`.

Shape legend: B = users, S = history items, W = beams, R = results, C = widest fan-out of a level,
L = levels, N = items, P = numbers that a decoded position leaves for later ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor, nn

from genrec.decoding.trie import PrefixIndex

__all__ = ["SIZES", "Graph", "Graphs", "on_cpu", "widened"]

M = TypeVar("M", bound=nn.Module)

#: Sizes of the axes that vary in examples, all different; T, the encoder's tokens, follows from S.
SIZES = {"B": 7, "S": 3, "W": 4, "R": 5}
_VARYING = frozenset((*SIZES, "T"))


@dataclass(frozen=True)
class Graph:
    """One part.

    Attributes:
        module: Takes a mapping of names to tensors, returns a tuple of tensors.
        inputs: Examples by name, each with the letters of its first axes, of which B, S, T, W
            and R vary.
        outputs: Names of what it returns.
    """

    module: nn.Module
    inputs: Mapping[str, tuple[Tensor, str]]
    outputs: tuple[str, ...]

    @property
    def axes(self) -> dict[str, dict[int, str]]:
        """Letters of the axes of each input that vary; those of one entry have to stay so."""
        return {
            name: {
                place: letter
                for place, letter in enumerate(letters)
                if letter in _VARYING and example.shape[place] > 1
            }
            for name, (example, letters) in self.inputs.items()
        }


@dataclass(frozen=True)
class Graphs:
    """A model taken apart, and how to put it together.

    A model that scores all items has one graph, ``scores``, from ``history``, shape ``(B, S)``,
    int64, -1 for padding at the end, to ``scores``, shape ``(B, N)``. A model that searches has

    - ``encoder``: from ``history`` and perhaps ``user``, shape ``(B,)``, int64, to whatever the
      others take by these names, one row a user;
    - ``step_0`` to ``step_<L - 1>``: from ``children``, states after each code that continues a
      beam, shape ``(B, W, C)``, int32, and ``legal``, whether it exists, bool, to ``log_probs``,
      the same shape. From ``step_1`` on also from ``states`` of the beams, shape ``(B, W)``,
      int32, and ``past``, shape ``(B, W, level, P)``: what each earlier step left as ``present``,
      shape ``(B, W, P)``, for the beam that this one continues;
    - perhaps ``rescore``: from ``items`` of the results, shape ``(B, R)``, int64, to ``scores``.

    Attributes:
        graphs: The parts by name.
        name: What tables call the ranker.
        max_history: Newest history items that it takes.
        index: Prefix index of the catalogue; None for a model that scores all items.
        num_beams: Beams of the search, with ``index``.
        rescore: How many times the log-probability of an item's ID is added to its new score;
            None where results are not scored anew.
        skip_history: Whether what the history holds is never found.
        num_users: Buckets of users that ``user`` means, 0 for none.
    """

    graphs: Mapping[str, Graph]
    name: str
    max_history: int
    index: PrefixIndex | None = None
    num_beams: int = field(default=0, kw_only=True)
    rescore: float | None = field(default=None, kw_only=True)
    skip_history: bool = field(default=False, kw_only=True)
    num_users: int = field(default=0, kw_only=True)


def on_cpu(module: M) -> M:
    """Return a module on the CPU in evaluation mode: itself where it is so already."""
    there = all(weight.device.type == "cpu" for weight in module.parameters())
    return module if there and not module.training else copy.deepcopy(module).cpu().eval()


def widened(index: PrefixIndex) -> PrefixIndex:
    """Copy an index into integers of 64 bits: graphs take no others as positions."""
    offsets = index.leaf_offsets
    return PrefixIndex(
        level_sizes=index.level_sizes,
        first_child=[table.cpu().long() for table in index.first_child],
        child_codes=[codes.cpu().long() for codes in index.child_codes],
        leaf_items=index.leaf_items.cpu().long(),
        leaf_offsets=None if offsets is None else offsets.cpu().long(),
    )

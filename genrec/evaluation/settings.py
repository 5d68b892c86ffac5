"""How recommenders are evaluated, and who takes part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from genrec.errors import ConfigError

__all__ = ["DEFAULT_KS", "EvaluationSettings", "OneProcess", "Processes"]

DEFAULT_KS = (1, 5, 10, 20)


@dataclass(frozen=True)
class EvaluationSettings:
    """How a run is evaluated; kept in its ``meta.json``.

    Attributes:
        num_beams: Beams of models that search, >= 1.
        ks: Lengths of the result list, each >= 1.
        exclude_history: Whether validation, which chooses the best step, hides items of the
            history. Tables show both.
        max_history: Newest items of the history that a model sees, >= 1.
        budget: Most history items of a batch.
        max_rows: Most users of a batch.

    Raises:
        ConfigError: If a length of the result list is below 1.
    """

    num_beams: int = 30
    ks: tuple[int, ...] = DEFAULT_KS
    exclude_history: bool = False
    max_history: int = 20
    budget: int = 1024
    max_rows: int = 128

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise ConfigError(
                f"top_k_eval_list must hold numbers >= 1, got {list(self.ks)}; use [5, 10]"
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> EvaluationSettings:
        """Read ``meta["evaluation"]`` of a run; what other versions wrote beside is ignored."""
        known = {name: options[name] for name in (f.name for f in fields(cls)) if name in options}
        if "ks" in known:
            known["ks"] = tuple(known["ks"])
        return cls(**known)


class Processes(Protocol):
    """The processes that share an evaluation; an ``accelerate.Accelerator`` is one."""

    @property
    def device(self) -> torch.device: ...  # noqa: D102
    @property
    def process_index(self) -> int: ...  # noqa: D102
    @property
    def num_processes(self) -> int: ...  # noqa: D102

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the tensors of all processes along the first dimension."""
        ...


@dataclass(frozen=True)
class OneProcess:
    """This process alone.

    Attributes:
        device: Where to compute.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    process_index: int = 0
    num_processes: int = 1

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensor itself."""
        return tensor

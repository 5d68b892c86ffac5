"""How recommenders are evaluated, and who takes part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from genrec.errors import ConfigError
from genrec.settings import Settings, setting

__all__ = ["DEFAULT_KS", "EvaluationSettings", "OneProcess", "Processes"]

DEFAULT_KS = (1, 5, 10, 20)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Settings):
    """How a run is evaluated; kept in its ``meta.json``."""

    num_beams: int = setting("Beams of models that search", 30, least=1)
    ks: tuple[int, ...] = setting("Lengths of the result list", DEFAULT_KS, least=1)
    exclude_history: bool = setting(
        "Whether validation, which chooses the best step, hides items of the history; tables show "
        "both",
        False,
    )
    max_history: int = setting("Newest items of a history that a model sees", 20, least=1)
    budget: int = setting("Most history items of a batch; 8 times as many on a GPU", 1024, least=1)
    max_rows: int = setting("Most users of a batch; 8 times as many on a GPU", 128, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ks:
            raise ConfigError("top_k_eval_list must hold numbers >= 1, got []; use [5, 10]")

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

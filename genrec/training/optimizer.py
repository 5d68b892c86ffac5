"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from genrec.settings import Settings, setting

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "OptimizerSettings",
    "build_optimizer",
    "build_schedule",
    "schedule_factor",
]

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}
SCHEDULES = ("constant", "linear", "cosine", "one_cycle", "inverse_sqrt")

_FUSED = {"adamw", "adam", "sgd", "adagrad"}


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings):
    """Optimiser and learning-rate schedule."""

    optimizer: str = setting("Update rule", "adamw", choices=tuple(OPTIMIZERS))
    learning_rate: float = setting("Peak learning rate", 1e-3, above=0)
    weight_decay: float = setting("Decoupled decay of matrices, never of vectors", 0.0, least=0)
    adam_betas: tuple[float, float] = setting(
        "Decay of the moments of Adam and AdamW",
        (0.9, 0.999),
        least=0,
        below=1,
        when={"optimizer": ("adamw", "adam")},
    )
    momentum: float = setting(
        "Momentum of SGD and RMSprop", 0.0, least=0, when={"optimizer": ("sgd", "rmsprop")}
    )
    schedule: str = setting("Shape of the learning rate over the run", "cosine", choices=SCHEDULES)
    schedule_floor: float = setting(
        "Last learning rate as a share of the peak",
        0.0,
        least=0,
        most=1,
        when={"schedule": ("linear", "cosine", "one_cycle")},
    )
    warmup_steps: int = setting("Steps of linear warm-up", 0, least=0)
    max_grad_norm: float | None = setting(
        "Clip the global gradient norm at this; None for no clipping", 1.0, above=0
    )


def build_optimizer(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> Optimizer:
    """Build an optimiser; matrices decay, vectors (norms, biases) do not.

    Args:
        parameters: What to train, on the device where it stays.
        settings: Its name and numbers.

    Returns:
        The optimiser; fused where the device offers it.
    """
    name, weight_decay = settings.optimizer, settings.weight_decay
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    if weight_decay == 0:  # nothing to tell apart, and an update costs a call for each group
        groups = [{"params": trained, "weight_decay": 0.0}]
    options: dict[str, object] = {"lr": settings.learning_rate}
    if name in ("adamw", "adam"):
        options["betas"] = settings.adam_betas
    if name in ("sgd", "rmsprop"):
        options["momentum"] = settings.momentum
    if name in _FUSED and trained and all(p.device.type in ("cpu", "cuda") for p in trained):
        options["fused"] = True
    return OPTIMIZERS[name]([g for g in groups if g["params"]], **options)  # type: ignore[arg-type]


def schedule_factor(
    step: int, *, name: str, warmup_steps: int, num_steps: int, floor: float = 0.0
) -> float:
    """Compute the share of the peak learning rate at a step.

    Args:
        step: Steps done so far, from 0.
        name: One of :data:`SCHEDULES`.
        warmup_steps: Steps of linear warm-up; the first step already moves.
        num_steps: Steps of the whole run.
        floor: Share of the peak at which linear, cosine and one-cycle end.

    Returns:
        A factor in ``(0, 1]``, or ``floor`` at the end.
    """
    if name == "one_cycle":  # cosine up over the warm-up, cosine down over the rest
        start = 1 / 25
        if step < warmup_steps:
            return start + (1 - start) * 0.5 * (1 - math.cos(math.pi * step / warmup_steps))
    elif step < warmup_steps:
        return (step + 1) / warmup_steps
    if name == "constant":
        return 1.0
    if name == "inverse_sqrt":
        return math.sqrt(max(1, warmup_steps) / max(1, warmup_steps, step + 1))
    done = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    if name == "linear":
        return 1.0 - (1.0 - floor) * done
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))


def build_schedule(
    optimizer: Optimizer, settings: OptimizerSettings, *, num_steps: int
) -> LambdaLR:
    """Build a learning-rate schedule, stepped once an optimiser step.

    Args:
        optimizer: What it drives.
        settings: Its name and numbers.
        num_steps: Steps of the whole run, >= 1.

    Returns:
        The schedule. Never prepare it with Accelerate, which would step it once a process.
    """
    factor: Callable[[int], float] = partial(
        schedule_factor,
        name=settings.schedule,
        warmup_steps=settings.warmup_steps,
        num_steps=num_steps,
        floor=settings.schedule_floor,
    )
    return LambdaLR(optimizer, factor)

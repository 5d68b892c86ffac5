"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from genrec.errors import ConfigError, did_you_mean

__all__ = ["OPTIMIZERS", "SCHEDULES", "build_optimizer", "build_schedule", "schedule_factor"]

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}
SCHEDULES = ("constant", "linear", "cosine", "one_cycle", "inverse_sqrt")

_FUSED = {"adamw", "adam", "sgd", "adagrad"}


def build_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.0,
) -> Optimizer:
    """Build an optimiser; matrices decay, vectors (norms, biases) do not.

    Args:
        name: One of ``adamw``, ``adam``, ``sgd``, ``adagrad``, ``rmsprop``.
        parameters: What to train.
        learning_rate: Peak rate, > 0.
        weight_decay: >= 0, on parameters of two or more dimensions.
        betas: Of Adam and AdamW.
        momentum: Of SGD and RMSprop.

    Returns:
        The optimiser; fused where the device offers it.

    Raises:
        ConfigError: If the name is unknown or a number is out of range.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(
            f"optimizer must be known, got {name!r}; {did_you_mean(name, OPTIMIZERS)}"
        )
    if not learning_rate > 0:
        raise ConfigError(f"learning_rate must be > 0, got {learning_rate}; try 1e-3")
    if weight_decay < 0:
        raise ConfigError(f"weight_decay must be >= 0, got {weight_decay}; use 0 for none")
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    if weight_decay == 0:  # nothing to tell apart, and an update costs a call for each group
        groups = [{"params": trained, "weight_decay": 0.0}]
    options: dict[str, object] = {"lr": learning_rate}
    if name in ("adamw", "adam"):
        options["betas"] = betas
    if name in ("sgd", "rmsprop"):
        options["momentum"] = momentum
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
    name: str,
    optimizer: Optimizer,
    *,
    warmup_steps: int,
    num_steps: int,
    floor: float = 0.0,
) -> LambdaLR:
    """Build a learning-rate schedule, stepped once an optimiser step.

    Args:
        name: One of ``constant``, ``linear``, ``cosine``, ``one_cycle``, ``inverse_sqrt``.
        optimizer: What it drives.
        warmup_steps: >= 0.
        num_steps: Steps of the whole run, >= 1.
        floor: Share of the peak at the end, in ``[0, 1]``.

    Returns:
        The schedule. Never prepare it with Accelerate, which would step it once a process.

    Raises:
        ConfigError: If the name is unknown or a number is out of range.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"schedule must be known, got {name!r}; {did_you_mean(name, SCHEDULES)}")
    if warmup_steps < 0:
        raise ConfigError(f"warmup_steps must be >= 0, got {warmup_steps}; use 0 for none")
    if not 0 <= floor <= 1:
        raise ConfigError(f"the schedule's floor must lie in [0, 1], got {floor}; try 0.1")
    factor: Callable[[int], float] = partial(
        schedule_factor, name=name, warmup_steps=warmup_steps, num_steps=num_steps, floor=floor
    )
    return LambdaLR(optimizer, factor)

"""Randomness as a function of (seed, step, shard), so that resuming needs no saved state."""

from __future__ import annotations

import random

import numpy as np
import torch

__all__ = ["mix_seed", "seed_everything"]


def mix_seed(seed: int, *parts: int) -> int:
    """Derive a seed in ``[0, 2**63)`` from a seed and counters >= 0, the same on any machine."""
    return int(np.random.SeedSequence([seed, *parts]).generate_state(1, np.uint64)[0] >> 1)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on all devices with an integer >= 0."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  third parties draw from the global generator
    torch.manual_seed(seed)

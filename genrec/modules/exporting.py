"""Whether a graph is being written for elsewhere, where what is fast here means nothing."""

from __future__ import annotations

import torch

__all__ = ["is_exporting"]


def is_exporting() -> bool:
    """Tell whether PyTorch is tracing a graph."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined]

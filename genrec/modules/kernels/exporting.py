"""Whether a graph is being written for elsewhere, where what is fast here means nothing."""

from __future__ import annotations

import torch

__all__ = ["is_exporting"]


def is_exporting() -> bool:
    """Tell whether ``torch.export`` is tracing; PyTorch says so from 2.7 on."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()

"""Where to compute."""

from __future__ import annotations

import torch

from genrec.errors import ConfigError

__all__ = ["pick_device"]


def pick_device(name: torch.device | str | None) -> torch.device:
    """Take the device that was asked for, or a GPU where there is one.

    Args:
        name: For example ``cpu`` or ``cuda:1``; None chooses.

    Returns:
        The device.

    Raises:
        ConfigError: If this machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from builds without CUDA
        count = torch.cuda.device_count()
        known = ", ".join(["cpu", *(f"cuda:{index}" for index in range(count))])
        raise ConfigError(
            f"device must be one that PyTorch finds here, {known}, got {name}; leave it out to "
            "take the fastest"
        ) from error
    return device

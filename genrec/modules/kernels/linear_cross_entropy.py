"""Cross-entropy over a large table, whose scores never lie in memory all at once.

Equals ``F.cross_entropy(x @ table.T + extra, targets)``.
Shown by: tests/unit/modules/kernels/test_linear_cross_entropy.py.
Shape legend: M = states, N = rows of the table, D = width, P = listed pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.errors import ConfigError, did_you_mean

__all__ = ["HEAD_DTYPES", "block_size", "fast_bfloat16", "head_dtype", "linear_cross_entropy"]

HEAD_DTYPES = ("float32", "bfloat16", "auto")

#: Bytes of scores that are worked on together: on a CPU as many as its caches hold.
_CPU_BYTES, _GPU_BYTES = 2**22, 2**28
#: States at a time are a multiple of this, from :data:`_SOME` on: matrix products of 86 states take
#: 1.7 times as long for each as those of 80 or 128.
_MULTIPLE, _SOME = 64, 16


@dataclass(frozen=True)
class ListedPairs:
    """What is added to the scores of some rows of a table for some states.

    Attributes:
        states: Shape ``(P,)``, int64, rising.
        rows: Rows of the table, shape ``(P,)``, int64. No pair is listed twice, unless with 0.
        extra: What is added, shape ``(P,)``, floating point.
        each: Pairs of each state where all have as many; None where the host must look.
    """

    states: Tensor
    rows: Tensor
    extra: Tensor
    each: int | None = None

    def bounds(self, num_states: int, size: int) -> list[int]:
        """Say where the pairs of each block of ``size`` states begin, and the last ones end."""
        firsts = range(0, num_states + size, size)
        if self.each is not None:
            return [self.each * min(first, num_states) for first in firsts]
        starts = torch.tensor(firsts, device=self.states.device)
        found: list[int] = torch.searchsorted(self.states, starts).tolist()
        return found

    @classmethod
    def none(cls, x: Tensor) -> ListedPairs:
        """List nothing, on the device of the states."""
        empty = torch.zeros(0, dtype=torch.long, device=x.device)
        return cls(empty, empty, x.new_zeros(0), each=0)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 faster than those of float32."""
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def head_dtype(name: str, device: torch.device) -> torch.dtype:
    """Choose the dtype of a large softmax: by name, or for ``auto`` what the device does fast."""
    if name not in HEAD_DTYPES:
        raise ConfigError(
            f"head_dtype must be known, got {name!r}; {did_you_mean(name, HEAD_DTYPES)}"
        )
    rough = name == "bfloat16" or (name == "auto" and fast_bfloat16(device))
    return torch.bfloat16 if rough else torch.float32


def block_size(device: torch.device, num_rows: int, dtype: torch.dtype) -> int:
    """How many states' scores of all rows of a table are worked on together."""
    limit = _CPU_BYTES if device.type == "cpu" else _GPU_BYTES
    size = max(1, limit // (num_rows * dtype.itemsize))
    return size if size < _SOME else -(-size // _MULTIPLE) * _MULTIPLE


@torch.compiler.disable
def linear_cross_entropy(
    x: Tensor,
    table: Tensor,
    targets: Tensor,
    pairs: ListedPairs | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Score all rows of a table for each state and take the mean cross-entropy of the targets.

    Scores are made, turned into gradients and forgotten a few states at a time, which more than
    halves the time on a CPU and bounds the memory.

    Args:
        x: States, shape ``(M, D)``, M >= 1.
        table: Shape ``(N, D)``.
        targets: Row of the table for each state, shape ``(M,)``, int64.
        pairs: What is added to some scores; None for nothing.
        dtype: Of the scores and their gradients; sums are kept in float32. In bfloat16 a
            probability is off by up to 0.4 %, and a processor that knows it takes a quarter of
            the time.

    Returns:
        Scalar, float32; its gradient reaches ``x``, ``table`` and ``extra``.

    Source:
        The fused head of Liger, https://arxiv.org/abs/2410.10989, section 3.2. Differs: scores
        of some pairs can be changed.
    """
    pairs = pairs or ListedPairs.none(x)
    bounds = pairs.bounds(len(x), block_size(x.device, len(table), dtype))
    loss: Tensor = _LinearCrossEntropy.apply(
        x.float(),
        table.float(),
        targets,
        pairs.states,
        pairs.rows,
        pairs.extra.float(),
        bounds,
        dtype,
    )
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient is made together with the loss, which it is a multiple of."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        table: Tensor,
        targets: Tensor,
        states: Tensor,
        rows: Tensor,
        extra: Tensor,
        bounds: Sequence[int],
        dtype: torch.dtype,
    ) -> Tensor:
        size = block_size(x.device, len(table), dtype)
        to_x, to_table = torch.empty_like(x), torch.zeros_like(table)
        to_extra = torch.empty_like(extra)
        losses = x.new_empty(len(x))
        rough_x, rough_table, rough_extra = x.to(dtype), table.to(dtype), extra.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            for number, begin in enumerate(range(0, len(x), size)):
                part = slice(begin, begin + size)
                listed = slice(bounds[number], bounds[number + 1])
                at = (states[listed] - begin, rows[listed])
                scores = F.linear(rough_x[part], rough_table)  # (m, N)
                scores.index_put_(at, rough_extra[listed], accumulate=True)
                own = (torch.arange(len(scores), device=x.device), targets[part])
                top, best = scores.max(dim=1)
                behind = top.float() - scores[own].float()
                probs = torch.softmax(scores, dim=1)
                # The target's own probability may be too small for its logarithm to exist.
                losses[part] = behind - probs.gather(1, best.unsqueeze(1)).squeeze(1).float().log()
                probs[own] -= 1.0
                to_extra[listed] = probs[at].float()
                to_x[part] = probs @ rough_table
                to_table += probs.t() @ rough_x[part]
        ctx.save_for_backward(to_x, to_table, to_extra)
        return losses.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        to_x, to_table, to_extra = ctx.saved_tensors
        share = of_loss / len(to_x)
        return to_x * share, to_table * share, None, None, None, to_extra * share, None, None

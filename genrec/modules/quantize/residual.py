"""Residual quantisation: L codebooks, each of which quantises what the ones before left over.

Shape legend: B = batch, N = items, D = latent width, L = code levels, K = codes of a level.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.modules.quantize.estimators import straight_through
from genrec.modules.quantize.modes import QuantizeForwardMode
from genrec.modules.quantize.separation import separate_last_level
from genrec.modules.quantize.vector_quantizer import (
    LevelOutput,
    QuantizerSettings,
    VectorQuantizer,
)

__all__ = ["Quantized", "ResidualQuantizer", "distinct_share", "per_level"]

_ODD = 0x1E3779B97F4A7C15


class Quantized(NamedTuple):
    """A batch of latents and their codes.

    Attributes:
        embeddings: Sum of what the levels passed on; the decoder's input, shape ``(B, D)``.
        residuals: What each level quantised, L tensors of shape ``(B, D)``; a gradient reaches
            the latents only.
        outputs: What each level passed on, L tensors of shape ``(B, D)``: the code, or a soft
            choice's mixture of codes.
        sem_ids: Codes as ids, shape ``(B, L)``, int64.
        codebook_losses: Mean over items of the squared distance of code to residual, one a level,
            shape ``(L,)``; each reaches its own codebook only.
        commitment_losses: The same values, shape ``(L,)``; reach the latents only.
        separation: Mean over the batch of the squared distance of a last residual to the code
            that it should move to, 0 for items that need not; scalar. None without aims.
    """

    embeddings: Tensor
    residuals: list[Tensor]
    outputs: list[Tensor]
    sem_ids: Tensor
    codebook_losses: Tensor
    commitment_losses: Tensor
    separation: Tensor | None = None


class ResidualQuantizer(nn.Module):
    """Writes a latent as a sum of codes, one a level.

    Level d picks the code ``e_d`` nearest to ``r_d`` and hands down ``r_{d+1} = r_d - e_d``,
    subtracted as a constant: commitment terms of all levels reach the encoder, and none reaches
    a codebook. Each level's estimator sends the reconstruction's gradient to its own residual,
    and so to the encoder; the mean over levels is taken, so that with straight-through levels
    the encoder receives the gradient once and not once a level.

    Args:
        sizes: K of each level.
        dim: Latent width D.
        modes: Gradient through the choice of a code, of each level.
        kmeans_init: Whether :meth:`initialize` has to run before the codes mean anything.
        normalize_first: Scale the first level's codes to unit length. Deeper levels hold
            residuals, whose length means something.
        sim_vq: Learn one linear map of each fixed codebook instead of its codes.
        settings: How codes are picked and kept alive.

    Attributes:
        initialized: Buffer, whether the codebooks hold more than random numbers.
    """

    initialized: Tensor

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int,
        *,
        modes: Sequence[QuantizeForwardMode],
        kmeans_init: bool,
        normalize_first: bool,
        sim_vq: bool,
        settings: QuantizerSettings,
    ) -> None:
        super().__init__()
        self.levels: Sequence[VectorQuantizer] = nn.ModuleList(  # type: ignore[assignment]
            VectorQuantizer(
                size,
                dim,
                mode=mode,
                normalize=normalize_first and index == 0,
                sim_vq=sim_vq,
                settings=settings,
            )
            for index, (size, mode) in enumerate(zip(sizes, modes, strict=True))
        )
        self.register_buffer("initialized", torch.tensor(not kmeans_init))
        self.reseeds = settings.dead_code_steps > 0
        self._ready: bool | None = None  # the buffer as the host knows it; None: not read yet
        self._worst: list[Tensor] | None = None
        self.register_load_state_dict_post_hook(_forget_ready)

    @property
    def is_ready(self) -> bool:
        """Whether the codebooks are initialised; reads the device only after loading."""
        if self._ready is None:
            self._ready = bool(self.initialized)
        return self._ready

    def forward(
        self, z: Tensor, temperature: float | Tensor, aims: Tensor | None = None
    ) -> Quantized:
        """Choose codes for a batch, level by level.

        Args:
            z: Latents, shape ``(B, D)``.
            temperature: Of ``GUMBEL_SOFTMAX`` levels in training, > 0.
            aims: Ids that items should move to, shape ``(B, L)``, from :meth:`separate`. An aim
                counts while its first L - 1 codes are the item's, and its last one is not -1.

        Returns:
            Codes, ids and the sum that the decoder receives.
        """
        residuals: list[Tensor] = []
        levels: list[LevelOutput] = []
        separation = None
        # Half precision cannot tell near codes apart.
        with torch.autocast(device_type=z.device.type, enabled=False):
            residual = z.float()  # (B, D)
            for index, level in enumerate(self.levels):
                last_aims = None
                if aims is not None and index == len(self.levels) - 1:
                    last_aims = _valid_aims(aims, [found.ids for found in levels])  # (B,)
                    target = level.codes().detach()[last_aims.clamp_min(0)]  # (B, D)
                    apart = (residual - target).square().sum(dim=-1)  # (B,)
                    separation = torch.where(last_aims >= 0, apart, 0.0).mean()
                residuals.append(residual)
                levels.append(level(residual, temperature, last_aims))
                residual = levels[-1].rest
            ids, outputs, _, codebook_losses, commitment_losses = zip(*levels, strict=True)
            return Quantized(
                self._sum(residuals[0], outputs),
                residuals,
                list(outputs),
                torch.stack(ids, dim=-1),
                torch.stack(codebook_losses),
                torch.stack(commitment_losses),
                separation,
            )

    def _sum(self, z: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Add up the levels' outputs ``(B, D)``; the gradient is the mean over levels."""
        total = functools.reduce(torch.add, outputs)  # (B, D)
        copied = sum(not output.requires_grad for output in outputs)
        if copied == len(outputs):
            return straight_through(z, total)
        # A straight-through level's output is a constant here; the gradient it owes goes to z, from
        # which its residual differs by a constant: 0 in value, once a level in gradient.
        share = straight_through(z, z.new_zeros(())) * copied if copied else 0.0
        # The value stays the sum to the last bit; only the gradient is divided. Undivided, every
        # level would hand the encoder the decoder's whole gradient, L times too much.
        return total.detach() + (total - total.detach() + share) / len(outputs)

    @torch.no_grad()
    def assign(self, z: Tensor) -> Tensor:
        """Choose the nearest code of every level, ``(B, L)``, for latents ``(B, D)``, float32."""
        ids, residual = [], z
        for level in self.levels:
            codes = level.codes()
            chosen = level.assign(residual, codes)
            residual = residual - codes[chosen]
            ids.append(chosen)
        return torch.stack(ids, dim=-1)

    @torch.no_grad()
    def separate(self, z: Tensor) -> Tensor:
        """Find ids ``(N, L)`` for items that share theirs; the last code is -1 where one stays.

        See :func:`~genrec.modules.quantize.separation.separate_last_level`.
        """
        ids = self.assign(z)
        residual = z - self.embed(ids) + self.levels[-1].codes()[ids[:, -1]]
        aims = separate_last_level(ids, residual, self.levels[-1].codes())
        return torch.cat([ids[:, :-1], aims[:, None]], dim=1)

    @torch.no_grad()
    def embed(self, ids: Tensor) -> Tensor:
        """Sum the codes of ids ``(B, L)``: ``(B, D)``."""
        parts = [level.codes()[ids[:, index]] for index, level in enumerate(self.levels)]
        return torch.stack(parts).sum(dim=0)

    @torch.no_grad()
    def initialize(self, z: Tensor, *, num_iters: int, seed: int) -> None:
        """Set all codebooks by k-means, level by level on the residuals.

        Args:
            z: Latents, shape ``(N, D)``, N >= 1.
            num_iters: Most k-means iterations a level.
            seed: The same seed gives the same codebooks.
        """
        residual = z.float()
        for index, level in enumerate(self.levels):
            ids = level.initialize(residual, num_iters=num_iters, seed=seed + index)
            residual = residual - level.codes()[ids]
        self.initialized.fill_(True)
        self._ready = True

    @torch.no_grad()
    def note_errors(self, errors: Tensor, residuals: Sequence[Tensor]) -> None:
        """Keep L residuals ``(B, D)``, the item of largest error first, as seeds of dead codes."""
        if self.training and self.reseeds:
            order = errors.detach().argsort(descending=True)  # (B,)
            self._worst = [residual.detach()[order] for residual in residuals]

    @torch.no_grad()
    def update(self) -> None:
        """Move EMA codebooks and re-seed dead codes, from all batches since the last call.

        All processes do the same: usage is summed over them, seeds are the first one's.
        """
        for index, level in enumerate(self.levels):
            taken = level.take_statistics()
            if taken is None:
                continue
            counts, sums = taken
            candidates = self._worst[index] if self._worst is not None else None
            if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(counts)
                dist.all_reduce(sums)
                if candidates is not None:
                    candidates = candidates.contiguous()
                    dist.broadcast(candidates, src=0)
            level.update(counts, sums, candidates)
        self._worst = None


def _valid_aims(aims: Tensor, ids: Sequence[Tensor]) -> Tensor:
    """Return the last aims, -1 where an earlier code is no longer the one they were made for."""
    last = aims[:, -1]
    for column, chosen in enumerate(ids):
        last = torch.where(aims[:, column] == chosen, last, -1)
    return last


def _forget_ready(module: nn.Module, incompatible_keys: object) -> None:
    """Read the buffer anew after loading: the host's copy is of the weights before."""
    module._ready = None  # type: ignore[assignment]


@torch.no_grad()
def distinct_share(ids: Tensor) -> Tensor:
    """Count distinct rows of ``(B, L)`` as a share of all, without waiting for the device."""
    keys = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)  # (B,)
    for column in ids.unbind(dim=1):
        keys = keys * _ODD + column  # a hash modulo 2**64: no limit on levels and codes
    keys = keys.sort().values
    return ((keys[1:] != keys[:-1]).sum() + 1) / len(ids)


def per_level(name: str, value: Any, num_levels: int) -> list[Any]:
    """Spread a setting, one value or a sequence with one a level, over L levels.

    Raises:
        ConfigError: If there are more or fewer values than levels.
    """
    if not isinstance(value, Sequence):
        return [value] * num_levels
    if len(value) != num_levels:
        raise ConfigError(
            f"{name} must be one value or one a level, {num_levels}, got {len(value)}; "
            "give as many as n_layers"
        )
    return list(value)

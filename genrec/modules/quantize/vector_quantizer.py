"""One level of residual quantisation: a codebook, the choice of codes, and its upkeep.

Shape legend: B = items in the batch, K = codes of this level, D = latent width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.modules.kernels.hard_code import subtract_code
from genrec.modules.kernels.nearest import nearest
from genrec.modules.kmeans import kmeans
from genrec.modules.losses import quantization_losses
from genrec.modules.quantize.ema import ema_update
from genrec.modules.quantize.estimators import gumbel_noise, gumbel_softmax, rotation_trick
from genrec.modules.quantize.modes import QuantizeForwardMode
from genrec.modules.quantize.sinkhorn import balanced_codes
from genrec.settings import Settings, setting

__all__ = ["LevelOutput", "QuantizerSettings", "VectorQuantizer"]


@dataclass(frozen=True, kw_only=True)
class QuantizerSettings(Settings):
    """How codes are picked and kept alive, for all levels."""

    distance: str = setting("What nearest means", "l2", choices=("l2", "cosine"))
    codebook_update: str = setting(
        "How codes follow their items: by the codebook loss or as a moving average",
        "gradient",
        choices=("gradient", "ema"),
    )
    ema_decay: float = setting(
        "Weight of the past in the moving average",
        0.99,
        least=0,
        below=1,
        when={"codebook_update": ("ema",)},
    )
    ema_epsilon: float = setting(
        "Laplace smoothing of the moving average, as a share of the items",
        1e-5,
        above=0,
        when={"codebook_update": ("ema",)},
    )
    dead_code_steps: int = setting(
        "Updates without an item after which a code is re-seeded; 0 for never", 0, least=0
    )
    sinkhorn_epsilon: float = setting(
        "Entropy weight of SINKHORN, relative to the spread of the distances", 0.05, above=0
    )
    sinkhorn_iters: int = setting("Sweeps of SINKHORN over rows and columns", 20, least=1)


class LevelOutput(NamedTuple):
    """What one level makes of a residual.

    Attributes:
        ids: Code of each item, shape ``(B,)``, int64.
        output: What the decoder receives of this level, shape ``(B, D)``. Its gradient is the
            estimator's, but for straight-through levels, where it has none: all of them together
            copy theirs to the latent.
        rest: The residual less ``output``, shape ``(B, D)``; a gradient reaches the residual only.
        codebook_loss: Scalar, pulls the codes to the residuals; reaches this codebook only.
        commitment_loss: Scalar, pulls the residuals to the codes; reaches the residual only.
    """

    ids: Tensor
    output: Tensor
    rest: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class VectorQuantizer(nn.Module):
    """A codebook, and the rule that picks one of its codes for each item.

    Args:
        num_codes: K, >= 1.
        dim: D, >= 1.
        mode: How a gradient passes the choice, in training.
        normalize: Scale the codes to unit length.
        sim_vq: Keep the codebook fixed and learn one linear map of all its codes.
        settings: How codes are measured, moved and re-seeded.

    Attributes:
        codebook: Shape ``(K, D)``; a parameter, or a buffer where EMA or ``sim_vq`` keep it.
        ema_shares, ema_sums: Buffers of the moving average, ``(K,)`` and ``(K, D)``.
        idle_steps: Buffer, updates since each code last had an item, ``(K,)``, int64.

    Source:
        ``sim_vq``: Zhu et al. 2024, https://arxiv.org/abs/2411.02038.
    """

    codebook: Tensor
    ema_shares: Tensor
    ema_sums: Tensor
    idle_steps: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        *,
        mode: QuantizeForwardMode = QuantizeForwardMode.STE,
        normalize: bool = False,
        sim_vq: bool = False,
        settings: QuantizerSettings | None = None,
    ) -> None:
        super().__init__()
        settings = settings or QuantizerSettings()
        if num_codes < 1:
            raise ConfigError(f"codebook_size must be >= 1, got {num_codes}; try 256")
        self.uses_ema = settings.codebook_update == "ema"
        if self.uses_ema and sim_vq:
            raise ConfigError(
                "sim_vq learns a map of a fixed codebook by gradient, got codebook_update='ema'; "
                "use one of the two"
            )
        self.num_codes, self.dim = num_codes, dim
        self.mode, self.normalize, self.settings = mode, normalize, settings
        # As far apart as codes that share a unit ball; k-means replaces them where it is on.
        initial = torch.randn(num_codes, dim) * dim**-0.5
        if self.uses_ema or sim_vq:
            self.register_buffer("codebook", initial)
        else:
            self.codebook = nn.Parameter(initial)
        self.projection = nn.Linear(dim, dim, bias=False) if sim_vq else None
        if self.projection is not None:
            nn.init.eye_(self.projection.weight)
        self.tracks_usage = self.uses_ema or settings.dead_code_steps > 0
        if self.uses_ema:
            self.register_buffer("ema_shares", torch.full((num_codes,), 1 / num_codes))
            self.register_buffer("ema_sums", initial / num_codes)
        if self.tracks_usage:
            self.register_buffer("idle_steps", torch.zeros(num_codes, dtype=torch.int64))
        # What was seen since the last update; no buffers, which DDP would overwrite.
        self._counts: Tensor | None = None
        self._sums: Tensor | None = None

    def codes(self) -> Tensor:
        """Compute the codes as used, ``(K, D)``: mapped by ``sim_vq``, scaled by ``normalize``."""
        vectors = self.codebook if self.projection is None else self.projection(self.codebook)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def cost(self, residual: Tensor, codes: Tensor) -> Tensor:
        """Compute the distance of each residual ``(B, D)`` to each of :meth:`codes`: ``(B, K)``.

        For ``l2`` the squared distance less ``||residual||^2``, which does not change which code is
        nearest; for ``cosine`` the negative similarity.
        """
        if self.settings.distance == "cosine":
            return -F.normalize(residual, dim=-1) @ F.normalize(codes, dim=-1).T
        return torch.addmm(codes.square().sum(dim=-1), residual, codes.T, alpha=-2)

    @torch.no_grad()
    def assign(self, residual: Tensor, codes: Tensor | None = None) -> Tensor:
        """Pick the nearest of :meth:`codes` for ``(B, D)``: ``(B,)``; the lowest id wins a tie."""
        return nearest(self.cost(residual, self.codes() if codes is None else codes))

    def forward(
        self,
        residual: Tensor,
        temperature: float | Tensor,
        aims: Tensor | None = None,
    ) -> LevelOutput:
        """Quantise the residuals of a batch.

        Args:
            residual: Shape ``(B, D)``, float32.
            temperature: Of the Gumbel softmax, > 0.
            aims: Codes to pick whatever is nearest, shape ``(B,)``, -1 for none; soft choices
                do not heed them.

        Returns:
            Codes and their gradients. In training the usage is noted for
            :meth:`update`.
        """
        codes = self.codes()
        if self.training and self.mode is QuantizeForwardMode.GUMBEL_SOFTMAX:
            found = self._soft(residual, codes, temperature)
        else:
            found = self._hard(residual, codes, aims)
        if self.training and self.tracks_usage:
            self._note(found.ids, residual.detach())
        return found

    def _hard(self, residual: Tensor, codes: Tensor, aims: Tensor | None) -> LevelOutput:
        """Pick a code for each of ``(B, D)``: the nearest, a balanced one, or the aim."""
        with torch.no_grad():
            cost = self.cost(residual, codes)  # (B, K)
            if self.training and self.mode is QuantizeForwardMode.SINKHORN:
                ids = balanced_codes(
                    cost,
                    epsilon=self.settings.sinkhorn_epsilon,
                    num_iters=self.settings.sinkhorn_iters,
                )
            else:
                ids = nearest(cost)
            if aims is not None:
                ids = torch.where(aims >= 0, aims, ids)
        code, rest, codebook_loss, commitment_loss = subtract_code(residual, codes, ids)
        if self.mode is QuantizeForwardMode.ROTATION_TRICK:
            code = rotation_trick(residual, code)
        return LevelOutput(ids, code, rest, codebook_loss, commitment_loss)

    def _soft(self, residual: Tensor, codes: Tensor, temperature: float | Tensor) -> LevelOutput:
        """Mix codes by the Gumbel softmax, log-preferences in units of the quantisation error.

        Without a scale the noise, of size 1, would drown the distances of a small latent space.
        """
        cost = self.cost(residual, codes)  # (B, K)
        least, ids = cost.min(dim=-1)  # (B,)
        with torch.no_grad():
            if self.settings.distance == "l2":
                error = (least + residual.square().sum(dim=-1)).clamp_min(0)
            else:
                error = 1 + least
            scale = error.mean().clamp_min(1e-6)
        # The noise shrinks with the temperature, so that training ends where evaluation begins.
        logits = -cost / scale
        noise = temperature * gumbel_noise(logits)
        weights = gumbel_softmax(logits, temperature=temperature, noise=noise)  # (B, K)
        code, output = weights.detach() @ codes, weights @ codes  # (B, D)
        losses = quantization_losses(residual, code, output)
        return LevelOutput(ids, output, residual - output.detach(), *losses)

    @torch.no_grad()
    def _note(self, ids: Tensor, residual: Tensor) -> None:
        """Add a batch to what the next :meth:`update` works with."""
        if self._counts is None or self._sums is None:
            self._counts = torch.zeros(self.num_codes, device=residual.device)
            self._sums = torch.zeros(self.num_codes, self.dim, device=residual.device)
        self._counts.index_add_(0, ids, torch.ones_like(ids, dtype=torch.float32))
        if self.uses_ema:
            self._sums.index_add_(0, ids, residual.float())

    def take_statistics(self) -> tuple[Tensor, Tensor] | None:
        """Hand over the counts ``(K,)`` and sums ``(K, D)`` noted since the last call, if any."""
        if self._counts is None or self._sums is None:
            return None
        taken, self._counts, self._sums = (self._counts, self._sums), None, None
        return taken

    @torch.no_grad()
    def initialize(self, residual: Tensor, *, num_iters: int, seed: int) -> Tensor:
        """Set the codes by k-means on residuals.

        Args:
            residual: Shape ``(N, D)``; may have fewer rows than codes.
            num_iters: Most k-means iterations.
            seed: Of k-means.

        Returns:
            Cluster of each row, shape ``(N,)``.
        """
        points = residual.float()
        cosine = self.settings.distance == "cosine"
        found = kmeans(
            F.normalize(points, dim=-1) if cosine else points,
            self.num_codes,
            num_iters=num_iters,
            seed=seed,
        )
        ids = found.assignments
        counts = torch.zeros(self.num_codes, device=points.device)
        counts.index_add_(0, ids, torch.ones_like(ids, dtype=torch.float32))
        centroids = found.centroids
        if cosine:  # directions come from the clusters, lengths from their members
            sums = torch.zeros_like(centroids).index_add_(0, ids, points)
            means = sums / counts.clamp_min(1)[:, None]
            centroids = torch.where(counts[:, None] > 0, means, centroids)
        self.codebook.copy_(centroids)
        if self.projection is not None:
            nn.init.eye_(self.projection.weight)
        if self.uses_ema:
            self.ema_shares.copy_(counts / counts.sum())
            self.ema_sums.copy_(self.codebook * self.ema_shares[:, None])
        if self.tracks_usage:
            self.idle_steps.zero_()
            self.take_statistics()
        return self.assign(points)

    @torch.no_grad()
    def update(self, counts: Tensor, sums: Tensor, candidates: Tensor | None) -> None:
        """Move the EMA codebook and re-seed dead codes; never waits for the device.

        Args:
            counts: Items that picked each code, shape ``(K,)``, of all processes.
            sums: Sums of their residuals, shape ``(K, D)``.
            candidates: Residuals that are served worst, worst first, shape ``(R, D)``; None
                leaves dead codes as they are.
        """
        settings = self.settings
        if self.uses_ema:
            shares, new_sums, codebook = ema_update(
                self.ema_shares,
                self.ema_sums,
                counts,
                sums,
                decay=settings.ema_decay,
                epsilon=settings.ema_epsilon,
            )
            self.ema_shares.copy_(shares)
            self.ema_sums.copy_(new_sums)
            self.codebook.copy_(codebook)
        self.idle_steps.add_(1).masked_fill_(counts > 0, 0)
        if settings.dead_code_steps > 0 and candidates is not None:
            self._reseed(self.idle_steps >= settings.dead_code_steps, candidates)

    def _reseed(self, is_dead: Tensor, candidates: Tensor) -> None:
        """Move dead codes onto candidates, one each, in order."""
        rank = (is_dead.cumsum(0) - 1).clamp_min(0) % len(candidates)  # (K,)
        seeds = candidates[rank].to(self.codebook.dtype)  # (K, D)
        if self.projection is not None:  # find what the map turns into the seed
            solved, _ = torch.linalg.solve_ex(self.projection.weight, seeds.T)
            seeds = torch.where(solved.T.isfinite(), solved.T, seeds)
        self.codebook.copy_(torch.where(is_dead[:, None], seeds, self.codebook))
        self.idle_steps.masked_fill_(is_dead, 0)
        if self.uses_ema:
            share = self.ema_shares.sum() / self.num_codes
            self.ema_shares.copy_(torch.where(is_dead, share, self.ema_shares))
            self.ema_sums.copy_(torch.where(is_dead[:, None], share * seeds, self.ema_sums))

    def extra_repr(self) -> str:
        """Describe the level in one line."""
        return f"num_codes={self.num_codes}, dim={self.dim}, mode={self.mode.name}"

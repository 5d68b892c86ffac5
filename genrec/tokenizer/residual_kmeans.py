"""Residual k-means: semantic IDs by clustering embeddings, then what the clusters left.

Shape legend: B = items in a batch, N = catalogue items, L = code levels, D = embedding width,
K_l = codes of level l.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from genrec.checkpoint import load_model_files, write_model_files
from genrec.errors import ArtifactError, ConfigError, DataError
from genrec.modules.kmeans import kmeans, nearest_centroid
from genrec.tokenizer.quantizer import read_rows

__all__ = ["MODEL_NAME", "ResidualKMeans"]

MODEL_NAME = "residual_kmeans"  # what config.json calls this model


class ResidualKMeans(nn.Module):
    """A quantiser without an encoder: each level clusters the residuals of the one before.

    It is the simplest :class:`~genrec.tokenizer.quantizer.ItemQuantizer`: latents are the
    embeddings themselves, and fitting takes seconds. Use it where an RQ-VAE is not worth its
    training, or as the baseline that one has to beat.

    Args:
        input_dim: Width ``D`` of the embeddings.
        codebook_sizes: Codes of each level.
        balanced: Whether the clusters were fitted with a cap on their size. Codes are always
            the nearest ones, so that an item's ID does not depend on the items beside it.

    Attributes:
        codebook_0, codebook_1, ...: Codes of each level, buffers, shape ``(K_l, D)``.
        config: What the constructor was given, JSON-able.
        distance: Always ``"l2"``.

    Raises:
        ConfigError: If a size is not positive.

    Source:
        Residual k-means as in https://arxiv.org/abs/2306.08121 and OneRec,
        https://arxiv.org/abs/2502.18965 (balanced). Differs: balance holds in the fit and is
        found by optimal transport, not by filling one cluster after another.

    Example:
        >>> items = np.random.default_rng(0).normal(size=(500, 16)).astype("float32")
        >>> model = ResidualKMeans.fit(items, codebook_sizes=(8, 8, 8))
        >>> model.get_semantic_ids(torch.from_numpy(items[:2])).shape
        torch.Size([2, 3])
    """

    distance = "l2"

    def __init__(
        self, input_dim: int, *, codebook_sizes: Sequence[int], balanced: bool = False
    ) -> None:
        super().__init__()
        if not codebook_sizes or min(codebook_sizes) < 1 or input_dim < 1:
            raise ConfigError(
                f"input_dim and codebook_sizes must be >= 1, got {input_dim} and "
                f"{tuple(codebook_sizes)}; use for example codebook_sizes=(256, 256, 256)"
            )
        self.input_dim = int(input_dim)
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.config: dict[str, Any] = {
            "model": MODEL_NAME,
            "input_dim": self.input_dim,
            "codebook_sizes": list(self.codebook_sizes),
            "balanced": bool(balanced),
        }
        for level, size in enumerate(self.codebook_sizes):
            self.register_buffer(f"codebook_{level}", torch.zeros(size, self.input_dim))

    @classmethod
    def fit(
        cls,
        embeddings: npt.NDArray[Any] | Tensor,
        *,
        codebook_sizes: Sequence[int],
        balanced: bool = False,
        num_iters: int = 50,
        seed: int = 0,
        max_samples: int = 100_000,
        device: torch.device | str = "cpu",
        on_level: Callable[[int, float], None] | None = None,
    ) -> ResidualKMeans:
        """Cluster a catalogue level by level.

        Args:
            embeddings: Shape ``(N, D)``, in memory or memory-mapped, finite.
            codebook_sizes: Codes of each level.
            balanced: Let no cluster of the fit hold more than its share of the items.
            num_iters: Most iterations of each level's k-means.
            seed: Seed of the sampling and of the k-means starts.
            max_samples: Most items to fit on, drawn at random from all of them.
            device: Where to compute and where the model will lie.
            on_level: Called with each level's number, from 0, and the share of the samples'
                variance that the levels so far explain (R2).

        Returns:
            The fitted quantiser.

        Raises:
            DataError: If the embeddings are empty or not finite.
            ConfigError: If a size is not positive.
        """
        if embeddings.ndim != 2 or len(embeddings) == 0:
            raise DataError(
                f"embeddings must have shape (N, D) with N >= 1, got {tuple(embeddings.shape)}; "
                "embed the items first"
            )
        model = cls(embeddings.shape[1], codebook_sizes=codebook_sizes, balanced=balanced)
        residual = _sample(embeddings, max_samples, seed).to(device)  # (M, D)
        if not torch.isfinite(residual).all():
            bad = int((~torch.isfinite(residual)).any(dim=1).sum())
            raise DataError(
                f"embeddings must be finite, got NaN or inf in {bad} of {len(residual)} items; "
                "embed them again or replace the values with 0"
            )
        variance = float((residual - residual.mean(dim=0)).square().sum())
        for level, size in enumerate(model.codebook_sizes):
            clusters = kmeans(
                residual, size, num_iters=num_iters, seed=seed + level, balanced=balanced
            )
            # The residual of the nearest code, which is what serving will subtract.
            codes = nearest_centroid(residual, clusters.centroids)  # (M,)
            residual = residual - clusters.centroids[codes]
            setattr(model, f"codebook_{level}", clusters.centroids)
            if on_level is not None:
                on_level(level, 1 - float(residual.square().sum()) / max(variance, 1e-30))
        return model.eval()

    def get_codebook(self) -> list[Tensor]:
        """Return the codes of each level, shape ``(K_l, D)``."""
        return [self.get_buffer(f"codebook_{level}") for level in range(len(self.codebook_sizes))]

    def get_codebook_entry(self, ids: Tensor) -> Tensor:
        """Sum the codes of ids ``(B, L)``: latents ``(B, D)``."""
        parts = [
            codebook[ids[:, level]] for level, codebook in enumerate(self.get_codebook())
        ]  # L of (B, D)
        return torch.stack(parts).sum(dim=0)

    def encode(self, x: Tensor) -> Tensor:
        """Return the embeddings themselves, in the dtype of the codes."""
        return x.to(self.get_buffer("codebook_0").dtype)

    def decode(self, z: Tensor) -> Tensor:
        """Return the latents themselves: they are reconstructed embeddings."""
        return z

    @torch.no_grad()
    def get_semantic_ids(self, x: Tensor) -> Tensor:
        """Choose the nearest code of every level for ``(B, D)``: ``(B, L)``, int64."""
        residual = self.encode(x)
        ids = []
        for codebook in self.get_codebook():
            codes = nearest_centroid(residual, codebook)  # (B,)
            residual = residual - codebook[codes]
            ids.append(codes)
        return torch.stack(ids, dim=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the quantiser to a folder that explains itself, in place of an old one."""
        write_model_files(path, weights=self.state_dict(), config=self.config)

    @classmethod
    def load_from_checkpoint(cls, path: str | os.PathLike[str]) -> ResidualKMeans:
        """Read a quantiser that :meth:`save` or a training run wrote.

        Args:
            path: Its folder, or a run folder.

        Returns:
            The quantiser, on the CPU.

        Raises:
            MissingPathError: If there is none.
            ArtifactError: If it is another model or damaged.
        """
        config, weights = load_model_files(path)
        if config.get("model") != MODEL_NAME:
            raise ArtifactError(
                f"model must be {MODEL_NAME}, got {config.get('model')} in {path}; "
                "load it with the class that wrote it"
            )
        try:
            model = cls(
                config["input_dim"],
                codebook_sizes=config["codebook_sizes"],
                balanced=config["balanced"],
            )
            model.load_state_dict(weights)
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(
                f"{MODEL_NAME} must be complete, got {path} with {error}; fit it again"
            ) from error
        return model.eval()


def _sample(embeddings: npt.NDArray[Any] | Tensor, max_samples: int, seed: int) -> Tensor:
    """Draw rows in ascending order, so that a file is read from front to back."""
    rows = np.arange(len(embeddings))
    if len(embeddings) > max_samples:
        rows = np.random.default_rng(seed).choice(len(embeddings), max_samples, replace=False)
        rows.sort()
    if isinstance(embeddings, Tensor):
        return embeddings[torch.from_numpy(rows).to(embeddings.device)].float()
    return torch.from_numpy(read_rows(embeddings, rows))

"""How embeddings enter an encoder and leave a decoder.

Shape legend: B = batch, X = features, C = categorical ones, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec.settings import Settings, setting

__all__ = ["FeatureSettings", "Features"]


@dataclass(frozen=True, kw_only=True)
class FeatureSettings(Settings):
    """How inputs enter the encoder and leave the decoder; concerns the dense features only."""

    scale: float = setting(
        "Factor on the inputs, divided out of reconstructions and, squared, of the quantisation "
        "loss; the square root of the width brings embeddings of unit length to size 1, which "
        "activations and learning rates expect",
        1.0,
        above=0,
        below=float("inf"),
    )
    normalize_input: bool = setting(
        "Scale inputs to unit length, and reconstruct these; a public run found harm", False
    )
    normalize_output: bool = setting("Scale reconstructions to unit length", False)


@dataclass(frozen=True)
class Features:
    """Scales the dense features of a batch; the categorical ones at the end pass unchanged.

    Args:
        num_categorical: C, >= 0.
        settings: The scale, and what is brought to unit length.
    """

    num_categorical: int
    settings: FeatureSettings

    def target(self, x: Tensor) -> Tensor:
        """Compute what a reconstruction is compared with, ``(B, X)``."""
        return self._apply(x, unit=self.settings.normalize_input)

    def enter(self, x: Tensor) -> Tensor:
        """Scale inputs, ``(B, X)``, for the encoder."""
        return self._apply(x, unit=self.settings.normalize_input, scale=self.settings.scale)

    def leave(self, y: Tensor) -> Tensor:
        """Undo the scale of the decoder's output, ``(B, X)``: a reconstruction."""
        unit = self.settings.normalize_output
        return self._apply(y, unit=unit, scale=1.0 if unit else 1 / self.settings.scale)

    def _apply(self, x: Tensor, *, unit: bool, scale: float = 1.0) -> Tensor:
        if not unit and scale == 1.0:
            return x
        dense = x[:, : x.shape[1] - self.num_categorical]
        scaled = F.normalize(dense, dim=-1) if unit else dense
        if scale != 1.0:
            scaled = scaled * scale
        if self.num_categorical == 0:
            return scaled
        return torch.cat([scaled, x[:, dense.shape[1] :]], dim=1)

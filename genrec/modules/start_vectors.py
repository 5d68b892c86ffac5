"""Embedding tables that start from vectors at hand, such as text embeddings.

Shape legend: N = items, X = features, D = width.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["QUIET", "start_vectors"]

#: Size of random vectors beside start vectors, which they are added to, as a share of these.
QUIET = 0.2


@torch.no_grad()
def start_vectors(vectors: Tensor, width: int) -> Tensor:
    """Turn given vectors into the start of an embedding table.

    The directions of greatest variance remain, and the numbers get the size ``D ** -0.5`` that
    random ones would have.

    Args:
        vectors: Shape ``(N, X)``, floating point, any X.
        width: D; where it is more than X the rest is zero.

    Returns:
        Shape ``(N, D)``, float32.
    """
    centred = vectors.float()
    centred = centred - centred.mean(dim=0)
    _, directions = torch.linalg.eigh(centred.t() @ centred)  # in rising order of variance
    turned = centred @ directions.flip(1)[:, :width]
    size = turned.square().mean().sqrt().clamp(min=1e-12)
    turned = turned * (width**-0.5 / size)
    return torch.nn.functional.pad(turned, (0, width - turned.shape[1]))

"""Names of the ways in which a gradient passes the choice of a code."""

from __future__ import annotations

from enum import Enum

__all__ = ["QuantizeForwardMode"]


class QuantizeForwardMode(Enum):
    """How codes are picked in training, and what gradient the encoder receives.

    In evaluation every mode picks the nearest code.

    Attributes:
        GUMBEL_SOFTMAX: A random soft mixture of the codes, harder as the temperature falls; the
            reconstruction loss reaches encoder and codebook through the mixture's weights.
        STE: The nearest code; the gradient is copied to the encoder.
        ROTATION_TRICK: The nearest code; the gradient is turned and scaled as the latent was.
        SINKHORN: A code from an assignment that is balanced over the batch; gradient as STE.
    """

    GUMBEL_SOFTMAX = 1
    STE = 2
    ROTATION_TRICK = 3
    SINKHORN = 4

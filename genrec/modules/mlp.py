"""Multi-layer perceptron.

Shape legend: B = batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.settings import Settings, setting

__all__ = ["ACTIVATIONS", "WEIGHT_INITS", "Mlp", "MlpSettings"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
WEIGHT_INITS = ("kaiming", "orthogonal", "xavier", "normal", "default")


@dataclass(frozen=True, kw_only=True)
class MlpSettings(Settings):
    """What stands between the layers of an MLP, and how they start."""

    activation: str = setting("Between layers", "gelu", choices=tuple(ACTIVATIONS))
    dropout: float = setting("Share of hidden units dropped in training", 0.0, least=0, below=1)
    batch_norm: bool = setting(
        "Normalise hidden units over the batch, before the activation", False
    )
    weight_init: str = setting(
        "Start of weights, biases being 0: orthogonal and kaiming keep the scale of the signal, "
        "xavier nearly; normal draws from N(0, 0.02), which lets it fade; default is torch's",
        "orthogonal",
        choices=WEIGHT_INITS,
    )


class Mlp(nn.Module):
    """Linear layers with an activation, and where asked batch norm and dropout, in between.

    Args:
        dims: Widths from input to output, two or more.
        settings: What stands between the layers, and how they start.

    Raises:
        ConfigError: If there are too few widths, or one is below 1.
    """

    def __init__(self, dims: Sequence[int], settings: MlpSettings | None = None) -> None:
        super().__init__()
        settings = settings or MlpSettings()
        if len(dims) < 2 or min(dims) < 1:
            raise ConfigError(
                f"layer widths must be two or more numbers >= 1, got {list(dims)}; "
                "check vae_input_dim, vae_hidden_dims and vae_embed_dim"
            )
        layers: list[nn.Module] = []
        last = len(dims) - 2
        for index, (width_in, width_out) in enumerate(pairwise(dims)):
            linear = nn.Linear(width_in, width_out)
            _init_linear(linear, settings, is_output=index == last)
            layers.append(linear)
            if index == last:
                break
            if settings.batch_norm:
                layers.append(nn.BatchNorm1d(width_out))
            layers.append(ACTIVATIONS[settings.activation]())
            if settings.dropout > 0:
                layers.append(nn.Dropout(settings.dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, dims[0])`` to ``(B, dims[-1])``."""
        out: Tensor = self.layers(x)
        return out


def _init_linear(linear: nn.Linear, settings: MlpSettings, *, is_output: bool) -> None:
    """Start one layer as ``settings.weight_init`` says, its bias at 0."""
    kind = settings.weight_init
    if kind == "default":
        return
    nn.init.zeros_(linear.bias)
    # Units like ReLU halve the signal's energy; the gain makes up for it.
    gain = 2.0**0.5 if settings.activation != "tanh" and not is_output else 1.0
    if kind == "orthogonal":
        nn.init.orthogonal_(linear.weight, gain=gain)
    elif kind == "kaiming":
        nn.init.normal_(linear.weight, std=gain * linear.in_features**-0.5)
    elif kind == "xavier":
        nn.init.xavier_normal_(linear.weight)
    else:
        nn.init.normal_(linear.weight, std=0.02)

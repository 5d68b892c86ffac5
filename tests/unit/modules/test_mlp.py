from __future__ import annotations

import pytest
import torch
from torch import nn

from genrec.errors import ConfigError
from genrec.modules.features import Features, FeatureSettings
from genrec.modules.mlp import ACTIVATIONS, WEIGHT_INITS, Mlp, MlpSettings


def test_layers_stand_in_order() -> None:
    net = Mlp((6, 4, 2), MlpSettings(activation="relu", dropout=0.1, batch_norm=True))
    kinds = [type(layer) for layer in net.layers]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear]
    assert net(torch.randn(3, 6)).shape == (3, 2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("weight_init", WEIGHT_INITS)
def test_every_choice_runs_on_a_batch_of_one(activation: str, weight_init: str) -> None:
    net = Mlp((6, 4, 2), MlpSettings(activation=activation, weight_init=weight_init))
    assert net(torch.randn(1, 6)).isfinite().all()


def test_normal_init_is_small_and_without_bias() -> None:
    torch.manual_seed(0)
    linear = Mlp((400, 300), MlpSettings(weight_init="normal")).layers[0]
    assert isinstance(linear, nn.Linear)
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not linear.bias.any()


@pytest.mark.parametrize("weight_init", ["orthogonal", "kaiming"])
def test_the_signal_keeps_its_size(weight_init: str) -> None:
    torch.manual_seed(0)
    dims = (384, 512, 256, 128, 32)
    net = Mlp(dims, MlpSettings(activation="relu", weight_init=weight_init))
    out = net(torch.randn(512, 384))
    assert 0.4 < out.square().mean().sqrt() < 2.5
    faded = Mlp(dims, MlpSettings(activation="relu", weight_init="normal"))
    assert faded(torch.randn(512, 384)).square().mean().sqrt() < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "rellu"}, "activation must be known, got 'rellu'; did you mean relu"),
        ({"weight_init": "norm"}, "weight_init must be known, got 'norm'; did you mean normal"),
        ({"dropout": 1.0}, "dropout must be >= 0 and < 1, got 1.0"),
    ],
)
def test_wrong_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MlpSettings(**settings)


def test_widths_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"two or more numbers >= 1, got \[3\]"):
        Mlp((3,))
    with pytest.raises(ConfigError, match=r"got \[3, 0\]"):
        Mlp((3, 0))


@pytest.mark.parametrize("num_categorical", [0, 2])
def test_features_scale_the_dense_part_only(num_categorical: int) -> None:
    x = torch.rand(4, 6) + 0.1
    features = Features(num_categorical, FeatureSettings(scale=3.0))
    dense = 6 - num_categorical
    torch.testing.assert_close(features.enter(x)[:, :dense], 3 * x[:, :dense])
    torch.testing.assert_close(features.enter(x)[:, dense:], x[:, dense:])
    torch.testing.assert_close(features.leave(features.enter(x)), x)
    assert torch.equal(features.target(x), x)


@pytest.mark.parametrize("num_categorical", [0, 2])
def test_features_at_unit_length(num_categorical: int) -> None:
    x = torch.rand(4, 6) + 0.1
    settings = FeatureSettings(scale=3.0, normalize_input=True, normalize_output=True)
    features = Features(num_categorical, settings)
    dense = 6 - num_categorical
    ones = torch.ones(4)
    torch.testing.assert_close(features.target(x)[:, :dense].norm(dim=1), ones)
    torch.testing.assert_close(features.enter(x)[:, :dense].norm(dim=1), 3 * ones)
    torch.testing.assert_close(features.leave(x)[:, :dense].norm(dim=1), ones)
    torch.testing.assert_close(features.leave(x)[:, dense:], x[:, dense:])


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_scale_must_be_positive(scale: float) -> None:
    with pytest.raises(ConfigError, match="scale must be > 0 and < inf, got"):
        FeatureSettings(scale=scale)

"""Optimisers and schedules against values worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from genrec.errors import ConfigError
from genrec.training.optimizer import (
    OPTIMIZERS,
    SCHEDULES,
    OptimizerSettings,
    build_optimizer,
    build_schedule,
    schedule_factor,
)


def factors(name: str, steps: list[int], *, warmup: int = 4, total: int = 12, floor: float = 0.0):
    return [
        schedule_factor(step, name=name, warmup_steps=warmup, num_steps=total, floor=floor)
        for step in steps
    ]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "inverse_sqrt"])
def test_warm_up_is_linear_and_the_first_step_moves(name):
    assert factors(name, [0, 1, 2, 3]) == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_each_schedule_by_hand():
    steps = [4, 8, 12]
    assert factors("constant", steps) == [1.0, 1.0, 1.0]
    assert factors("linear", steps) == pytest.approx([1.0, 0.5, 0.0])
    assert factors("linear", steps, floor=0.2) == pytest.approx([1.0, 0.6, 0.2])
    assert factors("cosine", steps) == pytest.approx([1.0, 0.5, 0.0])
    assert factors("cosine", [6, 10]) == pytest.approx(
        [(1 + math.cos(math.pi / 4)) / 2, (1 + math.cos(3 * math.pi / 4)) / 2]
    )
    assert factors("cosine", steps, floor=0.1) == pytest.approx([1.0, 0.55, 0.1])
    # T5: the rate at step n is the peak times sqrt(warm-up / n), counted from 1.
    assert factors("inverse_sqrt", [4, 8, 15, 99]) == pytest.approx(
        [math.sqrt(4 / n) for n in (5, 9, 16, 100)]
    )
    assert factors("one_cycle", [0, 2, 4, 8, 12]) == pytest.approx([0.04, 0.52, 1.0, 0.5, 0.0])


@given(
    st.sampled_from(SCHEDULES),
    st.integers(0, 50),
    st.integers(1, 200),
    st.floats(0, 1),
)
def test_factors_stay_in_range_and_fall_after_the_warm_up(name, warmup, total, floor):
    steps = list(range(total + 20))
    values = factors(name, steps, warmup=warmup, total=total, floor=floor)
    assert all(0 <= value <= 1 + 1e-12 for value in values)
    after = values[warmup:]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(after))
    if name in ("linear", "cosine", "one_cycle") and warmup < total:
        assert values[total] == pytest.approx(floor)


def test_the_schedule_drives_the_optimizer():
    parameter = nn.Parameter(torch.zeros(2, 2))
    settings = OptimizerSettings(
        optimizer="sgd", learning_rate=0.5, schedule="linear", warmup_steps=2
    )
    optimizer = build_optimizer([parameter], settings)
    schedule = build_schedule(optimizer, settings, num_steps=4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.25, 0.5, 0.5, 0.25])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_lowers_a_loss_and_takes_its_options(name):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    x, y = torch.randn(32, 4), torch.randn(32, 1)
    settings = OptimizerSettings(
        optimizer=name, learning_rate=0.02, weight_decay=0.01, momentum=0.5
    )
    optimizer = build_optimizer(model.parameters(), settings)
    assert isinstance(optimizer, OPTIMIZERS[name])

    def loss() -> torch.Tensor:
        return (model(x) - y).square().mean()

    first = float(loss().detach())
    for _ in range(20):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss().detach()) < first


def test_only_matrices_decay_and_frozen_parameters_stay_out():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Embedding(5, 3))
    model[2].weight.requires_grad_(False)
    optimizer = build_optimizer(model.parameters(), OptimizerSettings(weight_decay=0.1))
    decays = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert decays == {
        id(model[0].weight): 0.1,
        id(model[0].bias): 0.0,
        id(model[1].weight): 0.0,
        id(model[1].bias): 0.0,
    }


def test_betas_and_momentum_reach_the_optimizer():
    parameters = [nn.Parameter(torch.ones(2, 2))]
    adam = build_optimizer(parameters, OptimizerSettings(optimizer="adam", adam_betas=(0.8, 0.7)))
    assert adam.param_groups[0]["betas"] == (0.8, 0.7)
    rms = build_optimizer(parameters, OptimizerSettings(optimizer="rmsprop", momentum=0.3))
    assert rms.param_groups[0]["momentum"] == 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamww"}, r"optimizer must be known, got 'adamww'; did you mean adamw"),
        ({"learning_rate": 0.0}, r"learning_rate must be > 0, got 0\.0; the default is 0\.001"),
        ({"learning_rate": float("nan")}, "learning_rate must be > 0, got nan"),
        ({"weight_decay": -0.1}, r"weight_decay must be >= 0, got -0\.1"),
        ({"adam_betas": (0.9, 1.0)}, r"adam_betas must be >= 0 and < 1, got 1\.0"),
        ({"schedule": "cosin"}, r"schedule must be known, got 'cosin'; did you mean cosine"),
        ({"warmup_steps": -1}, "warmup_steps must be >= 0, got -1"),
        ({"schedule_floor": 1.5}, r"schedule_floor must be >= 0 and <= 1, got 1\.5"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        OptimizerSettings(**changes)

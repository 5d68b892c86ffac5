"""The training loop on a model small enough to follow by hand."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from genrec.checkpoint import RunDirectory, load_model_files
from genrec.errors import ArtifactError, ConfigError, TrainingError
from genrec.training.loop import BestRule, FitResult, Learner, Rhythm, _length, fit
from genrec.training.optimizer import OptimizerSettings, build_optimizer, build_schedule
from genrec.training.tracking import Tracker


class Batches:
    """Five batches an epoch, each a function of (epoch, position)."""

    def __init__(self, rows: int = 4, count: int = 5) -> None:
        self.rows, self.count = rows, count
        self.drawn: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.count

    def at(self, epoch: int, position: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * epoch + position)
        return torch.randn(self.rows, 3, generator=generator)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        for position in range(start, self.count):
            self.drawn.append((epoch, position))
            yield self.at(epoch, position)


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(3, 4), nn.Linear(4, 1)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        hidden = self.dropout(torch.tanh(self.hidden(x)))
        return (self.out(hidden).squeeze(-1) - x.sum(dim=1)).square().mean()


RHYTHM = {field.name for field in fields(Rhythm)}
LEARNER = {field.name for field in fields(Learner)}


def loss_step(model: nn.Module, batch: Tensor, step: int):
    loss = model(batch)
    return loss, {"loss": loss}


def train(
    path: Path,
    *,
    steps: int = 12,
    dropout: float = 0.0,
    optimizer_name: str = "adamw",
    learning_rate: float = 0.05,
    schedule_name: str = "cosine",
    loader: Batches | None = None,
    tracked: bool = False,
    keep_last: int = 99,
    **options,
) -> tuple[FitResult, Net, RunDirectory]:
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    net = Net(dropout)
    settings = OptimizerSettings(
        optimizer=optimizer_name,
        learning_rate=learning_rate,
        schedule=schedule_name,
        warmup_steps=2,
    )
    raw = build_optimizer(net.parameters(), settings)
    model, optimizer = accelerator.prepare(net, raw)
    run = RunDirectory(path, keep_last=keep_last)
    rhythm = {k: options.pop(k) for k in RHYTHM if k in options}
    learner = {"loss_step": loss_step} | {k: options.pop(k) for k in LEARNER if k in options}
    if tracked:
        options["tracker"] = Tracker(accelerator, path)
    result = fit(
        accelerator,
        Learner(
            model=model,
            config={"dropout": dropout},
            optimizer=optimizer,
            schedule=build_schedule(raw, settings, num_steps=12),
            loader=Batches() if loader is None else loader,
            **learner,
        ),
        Rhythm(**{"num_steps": steps, "log_every": 1} | rhythm),
        run_dir=run,
        **options,
    )
    return result, net, run


def same(a: nn.Module | dict, b: nn.Module | dict) -> bool:
    first, second = (x.state_dict() if isinstance(x, nn.Module) else x for x in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def rows(run: RunDirectory) -> list[dict]:
    """``metrics.jsonl`` without what depends on the clock."""
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k != "train/steps_per_s"} for line in lines
    ]


def test_equals_a_loop_written_out(tmp_path):
    result, net, run = train(tmp_path, steps=7, max_grad_norm=0.5)
    torch.manual_seed(0)
    expected = Net()
    optimizer = torch.optim.AdamW(
        [
            {"params": [expected.hidden.weight, expected.out.weight]},
            {"params": [expected.hidden.bias, expected.out.bias]},
        ],
        lr=0.05,
        weight_decay=0.0,
        fused=True,
    )
    settings = OptimizerSettings(schedule="cosine", warmup_steps=2, learning_rate=0.05)
    schedule = build_schedule(optimizer, settings, num_steps=12)
    batches = Batches()
    for step in range(7):
        loss = expected(batches.at(*divmod(step, 5)))
        loss.backward()
        nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    assert same(net, expected)
    assert result.step == 7
    assert run.pointed("latest") == run.step_path(7)
    config, weights = load_model_files(run.path)
    assert config == {"dropout": 0.0}
    assert same(weights, expected.state_dict())


def test_the_order_of_a_step(tmp_path, monkeypatch):
    events: list[str] = []

    def note(owner, name: str, label: str) -> None:
        inner = getattr(owner, name)

        def noted(*args, **kwargs):
            events.append(label)
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)

    note(Accelerator, "backward", "backward")
    note(Accelerator, "clip_grad_norm_", "clip")
    note(torch.optim.AdamW, "step", "update")
    note(torch.optim.lr_scheduler.LambdaLR, "step", "schedule")
    note(Tracker, "log", "log")
    note(RunDirectory, "save", "save")

    class Noted(Batches):
        def batches(self, epoch, start=0):
            for batch in super().batches(epoch, start):
                events.append("batch")
                yield batch

    def noted_loss(model, batch, step):
        events.append("loss")
        return loss_step(model, batch, step)

    def evaluate(model, step):
        events.append("evaluate")
        return {"valid/x": 1.0}

    accumulated = ["batch", "loss", "backward", "batch", "loss", "backward"]
    train(
        tmp_path,
        steps=2,
        loader=Noted(),
        loss_step=noted_loss,
        evaluate=evaluate,
        max_grad_norm=1.0,
        accumulate=2,
        tracked=True,
    )
    start = events.index("batch")  # the schedule steps once when it is built
    update = [*accumulated, "clip", "update", "schedule", "log"]
    assert events[start:] == [*update, *update, "evaluate", "log", "save"]


def test_accumulated_batches_equal_one_big_batch(tmp_path):
    class Big(Batches):
        """Two small batches as one."""

        def __init__(self) -> None:
            super().__init__(count=2)

        def at(self, epoch, position):
            small = Batches(count=4)
            return torch.cat([small.at(epoch, 2 * position + i) for i in range(2)])

    _, small, run = train(
        tmp_path / "small", steps=4, loader=Batches(count=4), accumulate=2, tracked=True
    )
    _, big, big_run = train(tmp_path / "big", steps=4, loader=Big(), tracked=True)
    for a, b in zip(small.parameters(), big.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    losses = [[row["train/loss"] for row in rows(r)] for r in (run, big_run)]
    assert losses[0] == pytest.approx(losses[1])


def test_the_schedule_counts_updates_and_not_batches(tmp_path):
    _, _, run = train(
        tmp_path, steps=4, accumulate=3, schedule_name="linear", learning_rate=1.0, tracked=True
    )
    # The rate that the next step will use: warm-up over 2 steps, then down to 0 at step 12.
    assert [row["train/lr"] for row in rows(run)] == pytest.approx([1.0, 1.0, 0.9, 0.8])


def test_logs_are_means_since_the_last_line(tmp_path):
    _, _, every = train(tmp_path / "every", steps=6, tracked=True)
    _, _, third = train(tmp_path / "third", steps=6, log_every=3, tracked=True)
    losses = [row["train/loss"] for row in rows(every)]
    assert [row["step"] for row in rows(third)] == [3, 6]
    assert [row["train/loss"] for row in rows(third)] == pytest.approx(
        [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
    )


def poisoned(step_to_fail: int, value: float):
    def step(model, batch, step):
        loss = model(batch)
        if step == step_to_fail:
            loss = loss * value
        return loss, {"loss": loss}

    return step


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path, value, clip):
    _, before, _ = train(tmp_path / "good", steps=5, max_grad_norm=clip)
    nets = []

    def remember(model, batch, step):
        nets.append(model)
        return poisoned(5, value)(model, batch, step)

    with pytest.raises(TrainingError, match=r"got NaN or Inf at step 6; the update was not made"):
        train(tmp_path / "bad", loss_step=remember, save_every=2, max_grad_norm=clip)
    for a, b in zip(nets[-1].parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b)
    assert RunDirectory(tmp_path / "bad").pointed("latest").name == "step_4"


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    def root(model, batch, step):
        loss = model(batch)
        if step == 3:  # finite at 0, with an infinite slope
            loss = loss + (next(model.parameters()).sum() * 0).sqrt()
        return loss, {"loss": loss}

    with pytest.raises(TrainingError, match="at step 4"):
        train(tmp_path, loss_step=root, max_grad_norm=1.0)


def validation(model: nn.Module, step: int) -> dict[str, float]:
    assert not model.training
    assert not torch.is_grad_enabled()
    return {"valid/loss": float(model(torch.ones(2, 3)))}


OPTIONS = {
    "dropout": 0.3,
    "max_grad_norm": 1.0,
    "evaluate": validation,
    "eval_every": 4,
    "save_every": 3,
    "best": (BestRule("best", "valid/loss", "min"),),
    "tracked": True,
}


@pytest.mark.parametrize(
    ("stop", "accumulate", "optimizer_name"),
    # After the first step, at an evaluation, at and beside the end of an epoch.
    [(1, 1, "adamw"), (4, 1, "adamw"), (5, 1, "adamw"), (6, 1, "sgd"), (5, 2, "adagrad")],
)
def test_resume_is_never_having_stopped(tmp_path, stop, accumulate, optimizer_name):
    """Bit for bit: weights, buffers, optimiser, logs, best; at any place of an epoch."""
    options = OPTIONS | {"accumulate": accumulate, "optimizer_name": optimizer_name}
    options |= {"save_every": 1}
    whole, net, run = train(tmp_path / "whole", **options)
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    for step in range(stop + 1, 13):
        shutil.rmtree(copy / f"step_{step}")
    again, resumed, run_again = train(copy, resume=copy / f"step_{stop}", **options)
    assert same(net, resumed)
    assert rows(run) == rows(run_again)
    assert (again.step, again.best, again.history) == (whole.step, whole.best, whole.history)
    states = [r.load_trainer(r.step_path(12)) for r in (run, run_again)]
    assert str(states[0]) == str(states[1])


def test_resume_does_not_repeat_the_start_of_an_epoch(tmp_path):
    starts: list[int] = []
    _, _, run = train(tmp_path, steps=7, save_every=1, on_epoch_start=starts.append)
    assert starts == [0, 1]
    starts.clear()
    loader = Batches()
    train(tmp_path, resume=run.step_path(7), loader=loader, on_epoch_start=starts.append)
    assert starts == [2]
    assert loader.drawn[0] == (1, 2)
    starts.clear()
    train(tmp_path, resume=run.step_path(5), on_epoch_start=starts.append)
    assert starts == [1, 2]


def test_resume_of_a_finished_run_trains_nothing(tmp_path):
    whole, net, run = train(tmp_path, **OPTIONS)
    again, same_net, _ = train(tmp_path, resume=run.step_path(12), **OPTIONS)
    assert same(net, same_net)
    assert (again.step, again.metrics) == (12, whole.metrics)


def test_resume_of_something_else_is_refused(tmp_path):
    _, _, run = train(tmp_path, steps=2)
    config, weights = load_model_files(run.path)
    run.save(2, weights={**weights, "extra": torch.ones(1)}, config=config, trainer={"step": 2})
    with pytest.raises(ArtifactError, match="resume needs the model that the run was started with"):
        train(tmp_path, resume=run.step_path(2))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step_and_resume_goes_on(tmp_path, number, capsys):
    def interrupt(model, batch, step):
        if step == 6:
            os.kill(os.getpid(), number)
        return loss_step(model, batch, step)

    _, net, _ = train(tmp_path / "whole", **OPTIONS)
    before = signal.getsignal(number)
    stopped, _, run = train(tmp_path / "run", loss_step=interrupt, **OPTIONS)
    assert signal.getsignal(number) == before
    assert stopped.interrupted == number
    assert stopped.step == 7
    assert run.pointed("latest") == run.step_path(7)
    assert "stopping after this step" in capsys.readouterr().err
    again, resumed, _ = train(tmp_path / "run", resume=run.step_path(7), **OPTIONS)
    assert not again.interrupted
    assert same(net, resumed)


def test_checkpoints_by_time_change_nothing_and_lose_no_line(tmp_path):
    """Bit for bit, lines of ``metrics.jsonl`` too that steps on both sides of the stop share."""
    options = OPTIONS | {"log_every": 5}
    _, net, run = train(tmp_path / "whole", **options)
    always = options | {"save_every_s": 1e-9, "keep_last": 99}
    _, timed, often = train(tmp_path / "often", **always)
    assert often.steps() == list(range(1, 13))
    assert same(net, timed)
    assert rows(often) == rows(run)
    for stop in (3, 7):
        copy = tmp_path / f"from {stop}"
        shutil.copytree(often.path, copy)
        _, resumed, again = train(copy, resume=copy / f"step_{stop}", **options)
        assert same(net, resumed)
        assert rows(again) == rows(run)


def test_a_resumed_run_takes_the_settings_given_now(tmp_path):
    _, _, run = train(tmp_path, steps=4, save_every=1, learning_rate=0.1, schedule_name="constant")
    train(tmp_path, resume=run.step_path(4), steps=5, learning_rate=0.02, schedule_name="constant")
    (group, *_) = run.load_trainer(run.step_path(5))["optimizer"]["param_groups"]
    assert (group["lr"], group["initial_lr"]) == (pytest.approx(0.02), 0.02)


def test_a_launcher_that_dies_ends_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr("genrec.training.processes._PARENT", -1)
    stopped, _, run = train(tmp_path, **OPTIONS)
    assert (stopped.step, stopped.interrupted) == (1, signal.SIGTERM)
    assert run.pointed("latest") == run.step_path(1)
    assert "the launcher of this process died" in capsys.readouterr().err
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # as when a terminal is closed
    assert train(tmp_path / "alone", **OPTIONS)[0].step == 12


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    def impatient(model, batch, step):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return loss_step(model, batch, step)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, loss_step=impatient)
    assert signal.getsignal(signal.SIGINT) is before


def scripted(values: list[dict[str, float]]):
    remaining = iter(values)
    return lambda model, step: next(remaining)


def test_best_pointers_follow_their_rules(tmp_path):
    nan = float("nan")
    values = [
        {"recall": 0.1, "loss": 3.0},
        {"recall": 0.3, "loss": 2.0},
        {"loss": 1.0},  # evaluated in part: says nothing about recall
        {"recall": nan, "loss": nan},
        {"recall": 0.3, "loss": 5.0},  # no better than before, so the earlier step stays
        {"recall": 0.2, "loss": 0.5},
    ]
    result, _, run = train(
        tmp_path,
        evaluate=scripted(values),
        eval_every=2,
        keep_last=1,
        best=(BestRule("best", "recall"), BestRule("lowest", "loss", "min")),
    )
    assert result.best == {"best": (4, 0.3), "lowest": (12, 0.5)}
    assert run.pointers() == {"best": "step_4", "lowest": "step_12", "latest": "step_12"}
    assert run.steps() == [4, 12]
    assert [step for step, _ in result.history] == [2, 4, 6, 8, 10, 12]


def test_patience_counts_whole_evaluations_of_the_first_rule(tmp_path):
    values = [{"recall": v} for v in (0.1, 0.3, 0.2)] + [{}] + [{"recall": 0.1}, {"recall": 0.9}]
    result, _, run = train(
        tmp_path,
        evaluate=scripted(values),
        eval_every=2,
        best=(BestRule("best", "recall"),),
        patience=2,
    )
    assert result.stopped_early
    assert result.step == 10
    assert result.best == {"best": (4, 0.3)}
    assert run.pointed("latest") == run.step_path(10)


def test_the_last_step_is_always_evaluated_and_saved(tmp_path):
    seen = []

    def evaluate(model, step):
        seen.append(step)
        return {}

    _, net, run = train(tmp_path, steps=7, evaluate=evaluate, eval_every=5)
    assert seen == [5, 7]
    assert run.pointed("latest") == run.step_path(7)
    assert net.training


def test_dropout_depends_on_seed_and_step_alone(tmp_path):
    def with_noise(model, step):
        torch.rand(step)  # an evaluation that draws numbers
        return {}

    _, plain, _ = train(tmp_path / "a", dropout=0.5)
    _, noisy, _ = train(tmp_path / "b", dropout=0.5, evaluate=with_noise, eval_every=1)
    _, other, _ = train(tmp_path / "c", dropout=0.5, seed=1)
    assert same(plain, noisy)
    assert not same(plain, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "must be >= 1, got 0, 1 and 1"),
        ({"accumulate": 0}, "must be >= 1, got 12, 0 and 1"),
        ({"loader": Batches(count=0)}, r"at least one batch an epoch.*lower train\.batch_size"),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, **options)


def test_the_loop_learns(tmp_path):
    batch = Batches().at(0, 0)
    torch.manual_seed(0)
    first = float(Net()(batch).detach())
    _, net, _ = train(tmp_path, steps=100, schedule_name="constant", log_every=50)
    assert float(net.eval()(batch).detach()) < 0.2 * first


@pytest.mark.parametrize(
    ("steps", "every", "words"),
    [(310, 100, "every 100"), (150, 310, "at the end"), (310, 310, "at the end"), (5, 0, "at the")],
)
def test_the_length_is_said_as_it_will_be(steps, every, words):
    rhythm = Rhythm(num_steps=steps, eval_every=every)
    assert f"{steps} steps; evaluation {words}" in _length(rhythm, 0)

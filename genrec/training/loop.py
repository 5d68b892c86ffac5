"""The training loop of both stages.

A step is: batches, loss, backward, clip, finite check, optimiser, schedule; then log, evaluate
and save. It is cut into shards, one for each batch of each process. Randomness inside a step
depends on (seed, step, shard) alone, and batches on (epoch, position): a resumed run repeats what
an unbroken one would have done, and 1 process with 2 batches a step what 2 processes do with 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from genrec.checkpoint import RunDirectory, load_model_files
from genrec.errors import ArtifactError, ConfigError, GenRecError, TrainingError
from genrec.training.progress import Progress
from genrec.training.seeding import mix_seed
from genrec.training.stopping import Watch
from genrec.training.tracking import Tracker

__all__ = ["BestRule", "EpochLoader", "FitResult", "Learner", "Rhythm", "Stateful", "fit"]

#: Entries of a parameter group that are not settings.
_MOVING = ("params", "lr", "initial_lr")

LossStep = Callable[[nn.Module, Any, int], tuple[Tensor, Mapping[str, Tensor]]]
Evaluate = Callable[[nn.Module, int], Mapping[str, float]]


class EpochLoader(Protocol):
    """Batches as a function of the epoch: on the device, and this process's share only."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield the batches of an epoch, leaving out the first ``start``."""


class Stateful(Protocol):
    """Something of a stage that a resumed run must find as it was."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps of it."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` returned."""


@dataclass(frozen=True)
class BestRule:
    """Which step a pointer such as ``best`` names.

    Attributes:
        name: File in the run folder that names the step.
        metric: A key of what ``evaluate`` returns.
        mode: Which values are better, ``max`` or ``min``.
    """

    name: str
    metric: str
    mode: str = "max"

    def improves(self, value: float, best: float | None) -> bool:
        """Tell whether a value beats the best so far; NaN never does."""
        if value != value:
            return False
        return best is None or (value > best if self.mode == "max" else value < best)


@dataclass
class FitResult:
    """What a run came to.

    Attributes:
        step: Optimiser steps done, over all sessions of the run.
        seconds: Wall time of the training steps of this session, evaluation left out.
        metrics: What the last evaluation gave.
        best: Pointer name to ``(step, value)``.
        history: Every evaluation as ``(step, metrics)``.
        stopped_early: Whether patience ran out.
        interrupted: Number of the signal that ended it, 0 for none; the run is saved.
    """

    step: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, tuple[int, float]] = field(default_factory=dict)
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    stopped_early: bool = False
    interrupted: int = 0


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """How long to train, and what happens how often, in optimiser steps.

    Attributes:
        num_steps: Steps of the whole run, >= 1.
        eval_every: Steps between evaluations; 0 for only at the end.
        save_every: Steps between checkpoints; 0 for only with evaluations and at the end.
        save_every_s: Seconds between checkpoints besides those; 0 for none. They change neither
            weights nor logs.
        log_every: Steps between reads of the losses from the device, >= 1.
        accumulate: Batches a step, >= 1.
        patience: Evaluations without improvement before stopping, or None.
        seed: Of the randomness inside steps.
    """

    num_steps: int
    eval_every: int = 0
    save_every: int = 0
    save_every_s: float = 0.0
    log_every: int = 50
    accumulate: int = 1
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_steps, self.accumulate, self.log_every) < 1:
            raise ConfigError(
                "iterations, gradient_accumulate_every and log_every must be >= 1, got "
                f"{self.num_steps}, {self.accumulate} and {self.log_every}; set train.iterations, "
                "train.gradient_accumulate_every and train.log_every"
            )


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What is trained, and how.

    Attributes:
        model: Prepared by the accelerator.
        config: Saved beside the weights, enough to build the model again.
        optimizer: Prepared by the accelerator.
        schedule: Not prepared; stepped once an optimiser step.
        loader: Source of batches, endless over epochs.
        loss_step: ``(model, batch, step) -> (loss, logs)``; everything stays on the device.
        max_grad_norm: Clip the global gradient norm at this, or None.
        evaluate: ``(unwrapped model in eval mode, step) -> metrics``, on every process; or None.
        best: Pointers to keep at the best evaluations; the first one drives ``patience``.
        stateful: State of the stage that is saved and restored besides.
        on_epoch_start: Called with the epoch number before its first batch.
    """

    model: nn.Module
    config: Mapping[str, Any]
    optimizer: Any
    schedule: LRScheduler
    loader: EpochLoader
    loss_step: LossStep
    max_grad_norm: float | None = None
    evaluate: Evaluate | None = None
    best: Sequence[BestRule] = ()
    stateful: Stateful | None = None
    on_epoch_start: Callable[[int], None] | None = None


def fit(
    accelerator: Accelerator,
    learner: Learner,
    rhythm: Rhythm,
    *,
    run_dir: RunDirectory,
    resume: str | Path | None = None,
    tracker: Tracker | None = None,
    label: str = "train",
) -> FitResult:
    """Train a model.

    Args:
        accelerator: Its mixed precision and processes are used.
        learner: What to train.
        rhythm: For how many steps, and what happens how often.
        run_dir: Where checkpoints go.
        resume: A step folder to go on from, or None.
        tracker: Where metrics go.
        label: Shown before the progress bar.

    Returns:
        The result, on every process.

    Raises:
        TrainingError: If the loss or the gradient norm is not finite, before the update.
    """
    model, optimizer, schedule = learner.model, learner.optimizer, learner.schedule
    evaluate, num_steps = learner.evaluate, rhythm.num_steps
    state = _State(accelerator, learner, rhythm, run_dir)
    result = state.result
    if resume is not None:
        state.load(Path(resume))
        if tracker is not None:
            tracker.truncate(result.step)
    guard = _FiniteGuard(accelerator, optimizer)
    batches = _stream(learner, state)
    shown = accelerator.is_main_process
    progress = Progress(label, total=num_steps, done=result.step, shown=shown)
    if shown:
        print(_length(rhythm, result.step), flush=True)
    since_log = state.pending
    watch = Watch(accelerator, save_every_s=rhythm.save_every_s, log_every=rhythm.log_every)
    stop, saving = 0, True
    clock = logged_at = time.perf_counter()
    logged_step = result.step
    model.train()
    with progress, watch:
        while result.step < num_steps and not result.stopped_early and not stop:
            step = result.step
            for micro in range(rhythm.accumulate):
                shard = micro * accelerator.num_processes + accelerator.process_index
                torch.manual_seed(mix_seed(rhythm.seed, step, shard))
                batch = next(batches)
                last = micro == rhythm.accumulate - 1
                with nullcontext() if last else accelerator.no_sync(model):
                    loss, logs = learner.loss_step(model, batch, step)
                    guard.watch(loss)
                    accelerator.backward(loss / rhythm.accumulate)
                since_log.append(logs)
            norm = None
            if learner.max_grad_norm is not None:
                norm = accelerator.clip_grad_norm_(model.parameters(), learner.max_grad_norm)
                since_log[-1] = {**logs, "grad_norm": norm.detach()}
            guard.before_update(step, norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            result.step += 1
            progress.advance(result.step)

            stop, due = watch.look(result.step)
            done = result.step == num_steps
            evaluating = evaluate is not None and (done or _due(result.step, rhythm.eval_every))
            saving = done or evaluating or _due(result.step, rhythm.save_every)
            if saving or _due(result.step, rhythm.log_every):
                guard.check()
                means = _mean_logs(accelerator, since_log)
                now = time.perf_counter()
                rate = (result.step - logged_step) / max(now - logged_at, 1e-9)
                since_log, logged_at, logged_step = [], now, result.step
                progress.report(result.step, means.get("loss", float("nan")), rate)
                if tracker is not None:
                    extra = {"lr": float(schedule.get_last_lr()[0]), "steps_per_s": rate}
                    tracker.log(
                        result.step, {f"train/{k}": v for k, v in {**means, **extra}.items()}
                    )
            if saving:
                result.seconds += time.perf_counter() - clock
                pointers = ["latest"]
                if evaluating and evaluate is not None:
                    model.eval()
                    with torch.no_grad():
                        metrics = dict(evaluate(_plain(accelerator, model), result.step))
                    model.train()
                    pointers += state.judge(metrics)
                    if tracker is not None:
                        tracker.log(result.step, metrics)
                state.save(tuple(pointers), since_log)
                watch.saved()
                clock = logged_at = time.perf_counter()
            elif due or stop:
                guard.check()
                now = time.perf_counter()
                result.seconds += now - clock
                state.save(("latest",), since_log)
                watch.saved()
                clock = time.perf_counter()
                logged_at += clock - now
        result.seconds += time.perf_counter() - clock
        finished = result.step == num_steps or result.stopped_early
        result.interrupted = 0 if finished else stop
    return result


def _length(rhythm: Rhythm, done: int) -> str:
    """Say how long a run is, before its first step."""
    left = f", {rhythm.num_steps - done:,} left" if done else ""
    often = 0 < rhythm.eval_every < rhythm.num_steps
    every = f"every {rhythm.eval_every:,}" if often else "at the end"
    return f"{rhythm.num_steps:,} steps{left}; evaluation {every}"


class _State:
    """What a checkpoint holds, and how it is written and read."""

    def __init__(
        self, accelerator: Accelerator, learner: Learner, rhythm: Rhythm, run_dir: RunDirectory
    ) -> None:
        self.accelerator, self.learner, self.rhythm = accelerator, learner, rhythm
        self.run_dir = run_dir
        self.epoch = self.batch = 0
        self.without_improvement = 0
        self.pending: list[Mapping[str, Tensor]] = []
        self.result = FitResult()

    def judge(self, metrics: dict[str, float]) -> list[str]:
        """Take in an evaluation; return the pointers that move to this step."""
        result = self.result
        result.metrics = metrics
        result.history.append((result.step, metrics))
        moved = []
        for index, rule in enumerate(self.learner.best):
            if rule.metric not in metrics:  # a partial evaluation chooses nothing
                continue
            known = result.best.get(rule.name)
            if rule.improves(metrics[rule.metric], known[1] if known else None):
                result.best[rule.name] = (result.step, metrics[rule.metric])
                moved.append(rule.name)
                if index == 0:
                    self.without_improvement = 0
            elif index == 0:
                self.without_improvement += 1
        patience = self.rhythm.patience
        result.stopped_early = patience is not None and self.without_improvement >= patience
        return moved

    def save(self, pointers: tuple[str, ...], since_log: Sequence[Mapping[str, Tensor]]) -> None:
        """Write a checkpoint on the main process, with what is not logged yet; the others wait."""
        pending = [{k: float(v.detach()) for k, v in row.items()} for row in since_log]
        of_each = gather_object([pending]) if pending else []
        if self.accelerator.is_main_process:
            scaler, learner = self.accelerator.scaler, self.learner
            self.run_dir.save(
                self.result.step,
                weights=_plain(self.accelerator, learner.model).state_dict(),
                config=learner.config,
                trainer={
                    "step": self.result.step,
                    "epoch": self.epoch,
                    "batch": self.batch,
                    "seed": self.rhythm.seed,
                    "num_processes": self.accelerator.num_processes,
                    "without_improvement": self.without_improvement,
                    "best": {k: list(v) for k, v in self.result.best.items()},
                    "history": [[s, dict(m)] for s, m in self.result.history],
                    "pending": of_each,
                    "optimizer": learner.optimizer.state_dict(),
                    "schedule": learner.schedule.state_dict(),
                    "scaler": scaler.state_dict() if scaler is not None else None,
                    "stage": {} if learner.stateful is None else learner.stateful.state_dict(),
                },
                pointers=pointers,
            )
        self.accelerator.wait_for_everyone()

    def load(self, step_path: Path) -> None:
        """Take weights, optimiser, schedule and position of a step folder."""
        _, weights = load_model_files(step_path)
        try:
            _plain(self.accelerator, self.learner.model).load_state_dict(weights)
        except RuntimeError as error:
            raise ArtifactError(
                f"resume needs the model that the run was started with, got {step_path} with "
                f"{str(error).splitlines()[-1].strip()}; use the same settings"
            ) from error
        trainer = self.run_dir.load_trainer(step_path)
        try:
            self._take(trainer)
        except GenRecError:
            raise
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"resume needs a whole step, got {step_path} whose state lacks or bends something "
                f"({type(error).__name__}: {error}); delete that folder to use the step before it"
            ) from error

    def _take(self, trainer: Mapping[str, Any]) -> None:
        """Go on from what :meth:`save` wrote besides the weights."""
        learner, accelerator = self.learner, self.accelerator
        _load_optimizer(learner, trainer["optimizer"], trainer["schedule"])
        if accelerator.scaler is not None and trainer["scaler"] is not None:
            accelerator.scaler.load_state_dict(trainer["scaler"])
        if learner.stateful is not None:
            learner.stateful.load_state_dict(trainer["stage"])
        self.epoch, self.batch = trainer["epoch"], trainer["batch"]
        self.without_improvement = trainer["without_improvement"]
        self.result.step = trainer["step"]
        self.result.best = {k: (int(v[0]), float(v[1])) for k, v in trainer["best"].items()}
        self.result.history = [(int(s), dict(m)) for s, m in trainer["history"]]
        if self.result.history:
            self.result.metrics = self.result.history[-1][1]
        of_each = trainer.get("pending", [])
        if len(of_each) == accelerator.num_processes:
            self.pending = [
                {
                    name: torch.tensor(value, device=accelerator.device)
                    for name, value in row.items()
                }
                for row in of_each[accelerator.process_index]
            ]


def _load_optimizer(learner: Learner, optimizer: Any, schedule: Any) -> None:
    """Take the state of optimiser and schedule back, and keep the settings given now.

    They are those of the checkpoint, unless the run goes on with changed ones.
    """
    bases = list(learner.schedule.base_lrs)
    given = [{k: v for k, v in g.items() if k not in _MOVING} for g in _groups(learner)]
    try:
        learner.optimizer.load_state_dict(optimizer)
        learner.schedule.load_state_dict(schedule)
    except (KeyError, ValueError) as error:
        raise ArtifactError(
            f"resume needs the optimiser that the run was begun with, got another: {error}; use "
            "the same train.optimizer and train.weight_decay"
        ) from error
    for group, base, settings in zip(_groups(learner), bases, given, strict=True):
        group.update(settings)
        if group["initial_lr"] != base:
            group["lr"] *= base / group["initial_lr"]
            group["initial_lr"] = base
    learner.schedule.base_lrs = bases


def _groups(learner: Learner) -> list[dict[str, Any]]:
    """Give the parameter groups of the optimiser."""
    groups: list[dict[str, Any]] = learner.schedule.optimizer.param_groups
    return groups


class _FiniteGuard:
    """Stops before an update that a loss or gradient that is not finite would spoil.

    Reading a flag every step would make the host wait for the device. A fused optimiser on an
    accelerator takes the flag as a tensor and skips the update there; the host reads it when it
    logs. Everywhere else the flag is read at once, which costs nothing on a CPU.
    """

    def __init__(self, accelerator: Accelerator, optimizer: Any) -> None:
        self.raw = getattr(optimizer, "optimizer", optimizer)
        fused = bool(self.raw.defaults.get("fused"))
        self.on_device = fused and accelerator.device.type != "cpu" and accelerator.scaler is None
        self.scaled = accelerator.scaler is not None
        self.losses: list[Tensor] = []
        self.first_bad: Tensor | None = None

    def watch(self, loss: Tensor) -> None:
        """Remember a loss of the present step."""
        self.losses.append(loss.detach())

    def before_update(self, step: int, norm: Tensor | None) -> None:
        """Refuse, or make the device refuse, an update with a value that is not finite."""
        watched, self.losses = self.losses, []
        if norm is not None and not self.scaled:  # a scaler skips steps that overflow by itself
            watched = [*watched, norm.detach()]
        bad = ~torch.isfinite(torch.stack([value.float().reshape(()) for value in watched])).all()
        if self.on_device:
            if self.first_bad is None:
                self.first_bad = torch.full_like(bad, -1, dtype=torch.long)
            self.first_bad = torch.where(bad & (self.first_bad < 0), step, self.first_bad)
            self.raw.grad_scale = None
            self.raw.found_inf = bad.float()
        elif bool(bad):
            self._fail(step)

    def check(self) -> None:
        """Read the flag from the device."""
        if self.first_bad is not None and (step := int(self.first_bad)) >= 0:
            self._fail(step)

    def _fail(self, step: int) -> None:
        raise TrainingError(
            f"loss and gradient norm must be finite, got NaN or Inf at step {step + 1}; the update "
            "was not made. Lower train.learning_rate, set train.max_grad_norm=1.0, or use "
            "train.mixed_precision_type='bf16'"
        )


def _due(step: int, every: int) -> bool:
    """Tell whether something that happens every so many steps, 0 for never, happens now."""
    return every > 0 and step % every == 0


def _plain(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Take off what launchers and compilers have put around a model."""
    plain: nn.Module = accelerator.unwrap_model(model, keep_torch_compile=False)
    return plain


def _stream(learner: Learner, state: _State) -> Iterator[Any]:
    """Yield batches for ever, keeping the position in ``state``."""
    loader, on_epoch_start = learner.loader, learner.on_epoch_start
    if len(loader) < 1:
        raise ConfigError(
            "training needs at least one batch an epoch, got an empty loader; lower "
            "train.batch_size or use more data"
        )
    while True:
        if state.batch == 0 and on_epoch_start is not None:
            on_epoch_start(state.epoch)
        for batch in loader.batches(state.epoch, state.batch):
            state.batch += 1
            yield batch
        state.epoch, state.batch = state.epoch + 1, 0


def _mean_logs(accelerator: Accelerator, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Average the logs of some steps over steps and processes, reading the device once."""
    if not rows:
        return {}
    names = sorted(set().union(*rows))
    columns = [[row[n].detach().float() for row in rows if n in row] for n in names]
    local = torch.stack([torch.stack(column).mean() for column in columns])
    means = accelerator.reduce(local, reduction="mean").tolist()
    return dict(zip(names, means, strict=True))

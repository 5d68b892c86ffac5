"""Training of an RQ-VAE on a catalogue's embeddings, without gin.

Shape legend: N = items, X = features, B = batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.optim import Optimizer

from genrec.data.item_dataset import ItemData
from genrec.errors import ConfigError, DataError
from genrec.evaluation.codebook import CodebookReport, Described, collapse_alarms, evaluate_codebook
from genrec.models.rqvae import QuantizeForwardMode, RqVae
from genrec.training.item_loader import ItemLoader, ItemRows
from genrec.training.loop import BestRule, FitResult, fit
from genrec.training.optimizer import build_optimizer, build_schedule
from genrec.training.seeding import mix_seed
from genrec.training.session import Session

__all__ = [
    "CodebookStart",
    "Optimization",
    "Ramp",
    "Rhythm",
    "StageOneSettings",
    "evaluate_rqvae",
    "feature_scale",
    "load_items",
    "train_rqvae",
]

BEST_RULES = (
    BestRule("best_loss", "eval/reconstruction_loss", "min"),
    BestRule("best_collision", "eval/collision_rate", "min"),
)
HELD_OUT_RULES = (BestRule("best_loss", "val/reconstruction_loss", "min"), BEST_RULES[1])


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A number that changes from step to step, then stays: beta while it warms up.

    Attributes:
        start: Value at step 0.
        end: Value from step ``steps`` on.
        steps: Length of the change; 0 for ``end`` from the beginning.
    """

    start: float
    end: float
    steps: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or min(self.start, self.end) < 0:
            raise ConfigError(
                f"a ramp must have steps and values >= 0, got {self}; check "
                "train.commitment_start, commitment_weight and commitment_warmup_steps"
            )

    def at(self, step: int) -> float:
        """Compute the value at a step, from 0."""
        done = min(1.0, step / self.steps) if self.steps else 1.0
        return self.start + (self.end - self.start) * done


@dataclass(frozen=True, kw_only=True)
class CodebookStart:
    """How the codebooks get their first values.

    Attributes:
        kmeans: Whether k-means sets them.
        after_epochs: Epochs of training the plain autoencoder before; 0 for k-means before the
            first step. The later, the better the latents that it clusters.
        max_samples: Items that k-means looks at.
        num_iters: Its iterations a level.
    """

    kmeans: bool = True
    after_epochs: int = 0
    max_samples: int = 100_000
    num_iters: int = 50

    def __post_init__(self) -> None:
        if self.after_epochs < 0 or self.max_samples < 1 or self.num_iters < 1:
            raise ConfigError(
                "kmeans_after_epochs must be >= 0, kmeans_max_samples and kmeans_iters >= 1, got "
                f"{self.after_epochs}, {self.max_samples} and {self.num_iters}; try 10, 100000, 50"
            )
        if self.after_epochs and not self.kmeans:
            raise ConfigError(
                f"kmeans_after_epochs must be 0 without k-means, got {self.after_epochs}; set "
                "train.use_kmeans_init=True, or train.kmeans_after_epochs=0"
            )


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """Optimiser and schedule; names and rules are those of :mod:`genrec.training.optimizer`."""

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0
    schedule: str = "cosine"
    warmup_steps: int = 0
    floor: float = 0.0
    max_grad_norm: float | None = 1.0
    accumulate: int = 1


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """How long to train, and what happens how often, in optimiser steps.

    Attributes:
        epochs: Passes over the items, or None.
        iterations: Steps, or None. The shorter of the two counts.
        eval_every: Steps between evaluations; 0 for the end only.
        save_every: Steps between checkpoints beside those of evaluations.
        log_every: Steps between lines of ``metrics.jsonl``.
        do_eval: Whether to evaluate.
        patience: Evaluations without a better loss before stopping, or None.
    """

    epochs: int | None = None
    iterations: int | None = None
    eval_every: int = 0
    save_every: int = 0
    log_every: int = 50
    do_eval: bool = True
    patience: int | None = None

    def num_steps(self, steps_per_epoch: int) -> int:
        """Compute the steps of the run.

        Args:
            steps_per_epoch: Optimiser steps that see every item once.

        Returns:
            Steps, >= 1.
        """
        lengths = [] if self.iterations is None else [self.iterations]
        if self.epochs is not None:
            lengths.append(self.epochs * steps_per_epoch)
        if not lengths or min(lengths) < 1:
            raise ConfigError(
                f"iterations or epochs must be given and >= 1, got {self.iterations} and "
                f"{self.epochs}; set train.epochs=100"
            )
        return min(lengths)


@dataclass(frozen=True, kw_only=True)
class StageOneSettings:
    """Everything about the training that is not the model.

    Attributes:
        batch_size: Items a batch and process.
        split_batches: Whether ``batch_size`` is that of all processes together.
        seed: Of order, k-means and sampling.
        val_ratio: Share of the items held out, 0 for none.
        start: First values of the codebooks.
        optimization: Optimiser and schedule.
        rhythm: Lengths and intervals.
        temperature: Of ``GUMBEL_SOFTMAX``, at the first and the last step; it changes by a
            constant factor in between.
        commitment: beta over the run; None keeps the model's.
        separate_after_epochs: From this epoch on, look before every epoch for items that share
            an id, and train them towards free ones; None for never. The model's
            ``separation_weight`` says how strongly. Most effective late, when codes rest.
    """

    batch_size: int = 256
    split_batches: bool = False
    seed: int = 0
    val_ratio: float = 0.0
    start: CodebookStart = field(default_factory=CodebookStart)
    optimization: Optimization = field(default_factory=Optimization)
    rhythm: Rhythm = field(default_factory=Rhythm)
    temperature: tuple[float, float] = (1.0, 1.0)
    commitment: Ramp | None = None
    separate_after_epochs: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.val_ratio < 1:
            raise ConfigError(f"val_ratio must lie in [0, 1), got {self.val_ratio}; use 0 for none")
        if not min(self.temperature) > 0:
            raise ConfigError(
                f"gumbel_temperature must be > 0 at start and end, got {self.temperature}; try "
                "1.0 and 0.1"
            )


def load_items(
    embeddings: npt.NDArray[Any], *, num_categorical: int = 0, replace_non_finite: bool = False
) -> tuple[Tensor, int]:
    """Read a catalogue's embeddings into memory and check them.

    Args:
        embeddings: Shape ``(N, X)``, an array or a memory map.
        num_categorical: Features at the end that must be 0 or 1.
        replace_non_finite: Put 0 where a value is NaN or Inf.

    Returns:
        ``(items (N, X) in their dtype, number of values replaced)``.

    Raises:
        DataError: If a value is not finite and is not to be replaced, or a categorical feature
            is neither 0 nor 1.
    """
    items = torch.from_numpy(np.array(embeddings))
    finite = items.isfinite()
    num_bad = int(finite.numel() - finite.sum())
    if num_bad:
        rows = int((~finite).any(dim=1).sum())
        if not replace_non_finite:
            raise DataError(
                f"embeddings must be finite, got {num_bad} values NaN or Inf in {rows} of "
                f"{len(items)} items; repair them, or set train.replace_non_finite=True for 0"
            )
        items = torch.where(finite, items, torch.zeros((), dtype=items.dtype))
    tail = items[:, items.shape[1] - num_categorical :]
    if not ((tail == 0) | (tail == 1)).all():
        raise DataError(
            f"the last vae_n_cat_feats = {num_categorical} features must be 0 or 1, got others; "
            "put the multi-hot features at the end, or set train.vae_n_cat_feats=0"
        )
    return items, num_bad


def feature_scale(items: Tensor, *, num_categorical: int = 0) -> float:
    """Compute the factor that brings dense features to a root mean square of 1.

    Args:
        items: Shape ``(N, X)``, finite.
        num_categorical: Features at the end that do not count.

    Returns:
        The factor, rounded to four digits; 1 for features that are all zero. The square root of
        X for embeddings of unit length.
    """
    dense = items[:, : items.shape[1] - num_categorical]
    total = sum(float(rows.double().square().sum()) for rows in dense.split(65_536))
    size = math.sqrt(total / max(1, dense.numel()))
    return float(f"{1 / size:.4g}") if size > 0 else 1.0


def evaluate_rqvae(model: RqVae, items: Tensor, *, batch_size: int = 8192) -> CodebookReport:
    """Measure an RQ-VAE with the codes it would serve.

    Args:
        model: In evaluation mode.
        items: Shape ``(N, X)``, any device.
        batch_size: Items at once.

    Returns:
        The report. Categorical features count in the loss and not in R2 and cosine.
    """
    dense = model.input_dim - model.n_cat_features
    device = model.residual_quantizer.initialized.device

    def describe(rows: Tensor) -> Described:
        rows = rows.to(device).float()
        latents = model.encode(rows).float()
        ids = model.residual_quantizer.assign(latents)
        codes = model.get_codebook_entry(ids)
        x_hat = model.decode(codes)
        return Described(
            ids=ids,
            target=model.features.target(rows)[:, :dense],
            reconstruction=x_hat[:, :dense].float(),
            unquantized=model.decode(latents)[:, :dense].float(),
            latents=latents,
            quantized=codes,
            loss=model.reconstruction_losses(rows, x_hat),
        )

    return evaluate_codebook(
        describe, items, codebook_sizes=model.codebook_sizes, batch_size=batch_size
    )


def train_rqvae(
    session: Session,
    model: RqVae,
    items: Tensor,
    settings: StageOneSettings,
) -> FitResult:
    """Train an RQ-VAE on a catalogue.

    Args:
        session: Processes, run folder and tracker.
        model: To be trained, in place; moved to the session's device.
        items: Shape ``(N, X)``, the whole catalogue.
        settings: How.

    Returns:
        The result. ``model`` holds the weights of the last step.
    """
    accelerator, rhythm = session.accelerator, settings.rhythm
    items = items.to(accelerator.device)
    trained, held_out = _share_out(items, settings)
    loader = ItemLoader(
        trained,
        batch_size=settings.batch_size,
        seed=settings.seed,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        split_batches=settings.split_batches,
    )
    choice = settings.optimization
    _check_balance(model, loader.batch_size)
    num_steps = rhythm.num_steps(math.ceil(len(loader) / choice.accumulate))
    model.to(accelerator.device)
    optimizer = build_optimizer(
        choice.optimizer,
        model.parameters(),
        learning_rate=choice.learning_rate,
        weight_decay=choice.weight_decay,
        momentum=choice.momentum,
    )
    schedule = build_schedule(
        choice.schedule,
        optimizer,
        warmup_steps=choice.warmup_steps,
        num_steps=num_steps,
        floor=choice.floor,
    )
    optimizer.register_step_post_hook(lambda *_: model.update_codebooks())
    stage = _Stage(session, model, optimizer, items, trained, held_out, settings, num_steps)
    wrapped, prepared = accelerator.prepare(model, optimizer)
    return fit(
        accelerator=accelerator,
        model=wrapped,
        optimizer=prepared,
        schedule=schedule,
        train_loader=loader,
        loss_step=stage.loss_step,
        num_steps=num_steps,
        run_dir=session.run_dir,
        model_config=model.config,
        evaluate=stage.evaluate if rhythm.do_eval else None,
        eval_every=rhythm.eval_every,
        save_every=rhythm.save_every,
        log_every=rhythm.log_every,
        max_grad_norm=choice.max_grad_norm,
        accumulate=choice.accumulate,
        seed=settings.seed,
        best=BEST_RULES if held_out is None else HELD_OUT_RULES,
        patience=rhythm.patience,
        resume=session.resume_step,
        stateful=stage,
        on_epoch_start=stage.on_epoch_start,
        tracker=session.tracker,
        label="stage one",
    )


class _Stage:
    """What the loop asks of this stage: losses, evaluations, and the upkeep between epochs."""

    def __init__(
        self,
        session: Session,
        model: RqVae,
        optimizer: Optimizer,
        items: Tensor,
        trained: Tensor,
        held_out: Tensor | None,
        settings: StageOneSettings,
        num_steps: int,
    ) -> None:
        self.session, self.model, self.optimizer = session, model, optimizer
        self.items, self.trained, self.held_out = items, trained, held_out
        self.settings, self.num_steps = settings, num_steps
        self.aims: Tensor | None = None  # (N, L)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.aims is None else {"aims": self.aims}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        aims = state.get("aims")
        self.aims = None if aims is None else aims.to(self.items.device)

    def on_epoch_start(self, epoch: int) -> None:
        settings, start = self.settings, self.settings.start
        quantizer = self.model.residual_quantizer
        if quantizer.is_ready:
            late = settings.separate_after_epochs
            if late is not None and epoch >= late:
                self.aims = self.model.separate(self.trained)
            return
        if epoch < start.after_epochs:
            return
        self.model.initialize_codebooks(
            self.trained,
            num_iters=start.num_iters,
            max_samples=start.max_samples,
            seed=mix_seed(settings.seed, epoch) % 2**31,
        )
        if self.session.accelerator.num_processes > 1:  # rounding may differ between machines
            for tensor in [*quantizer.parameters(), *quantizer.buffers()]:
                tensor.data.copy_(broadcast(tensor.data))
        for parameter in quantizer.parameters():
            self.optimizer.state.pop(parameter, None)  # moments of the warm-up mean nothing now

    def loss_step(
        self, wrapped: nn.Module, batch: ItemRows, step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        settings = self.settings
        hot, cold = settings.temperature
        out = wrapped(
            batch,
            hot * (cold / hot) ** (step / self.num_steps),
            commitment_weight=None if settings.commitment is None else settings.commitment.at(step),
            aims=None if self.aims is None else self.aims[batch.rows],
            quantize=self.model.residual_quantizer.is_ready,
        )
        logs = {
            "loss": out.loss,
            "reconstruction_loss": out.reconstruction_loss,
            "rqvae_loss": out.rqvae_loss,
        }
        if (step + 1) % settings.rhythm.log_every == 0:  # of one batch: they take their time
            logs |= {"p_unique_ids": out.p_unique_ids, "embs_norm": out.embs_norm.mean()}
        return out.loss, logs

    def evaluate(self, model: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(model, RqVae)
        if not model.residual_quantizer.is_ready:
            return {}  # no codes yet, nothing to choose by
        report = evaluate_rqvae(model, self.items)
        metrics = report.metrics("eval")
        self.session.say(f"step {step:,}/{self.num_steps:,} | {report}")
        if self.held_out is not None:
            held_out = evaluate_rqvae(model, self.held_out)
            metrics |= held_out.metrics("val")
            self.session.say(f"  held out | R2 {held_out.r2:.4f} | loss {held_out.loss:.4f}")
        for alarm in collapse_alarms(report):
            self.session.say(f"warning: {alarm}")
        return metrics


def _check_balance(model: RqVae, batch_size: int) -> None:
    """Refuse balanced codes where a batch cannot use each code once: they would be plain STE."""
    sizes = zip(model.modes, model.codebook_sizes, strict=True)
    needed = max((k for mode, k in sizes if mode is QuantizeForwardMode.SINKHORN), default=0)
    if batch_size < needed:
        raise ConfigError(
            f"a batch of SINKHORN must hold at least as many items as a level has codes, {needed}, "
            f"got {batch_size} on each process; set train.batch_size={2 * needed}, with more "
            "train.epochs for as many steps, or fewer train.vae_codebook_size"
        )


def _share_out(items: Tensor, settings: StageOneSettings) -> tuple[Tensor, Tensor | None]:
    """Split off the held-out items."""
    if settings.val_ratio == 0:
        return items, None
    parts = [
        torch.from_numpy(
            ItemData(
                np.empty((len(items), 1), dtype=np.float16),
                train_test_split=part,
                val_ratio=settings.val_ratio,
                seed=settings.seed,
            ).item_ids
        ).to(items.device)
        for part in ("train", "eval")
    ]
    return items[parts[0]], items[parts[1]]

"""The retrieval model's training: data, loader, optimiser and validation around the loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from genrec.data.batching import TokenTable, TrainingBatches
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset
from genrec.data.schemas import TokenizedBatch
from genrec.data.sequence_dataset import SeqData
from genrec.errors import ConfigError
from genrec.evaluation.evaluator import Evaluator
from genrec.evaluation.settings import EvaluationSettings
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import with_ids
from genrec.training.loop import BestRule, FitResult, fit
from genrec.training.optimizer import build_optimizer, build_schedule
from genrec.training.session import Session

__all__ = ["RetrievalTraining", "count_steps", "train_retrieval"]


@dataclass(frozen=True)
class RetrievalTraining:
    """Settings of stage two; :func:`genrec.training.decoder.train` says what each means."""

    iterations: int | None = None
    epochs: float | None = None
    batch_size: int = 256
    split_batches: bool = True
    mode: str = "bucketed"
    one_per_user: bool = False
    accumulate: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    schedule: str = "inverse_sqrt"
    schedule_floor: float = 0.0
    warmup_steps: int = 1000
    max_grad_norm: float | None = 1.0
    label_smoothing: float = 0.0
    level_weights: tuple[float, ...] | None = None
    do_eval: bool = True
    partial_eval_every: int = 0
    full_eval_every: int = 0
    partial_eval_users: int = 1000
    patience: int | None = None
    save_every: int = 0
    log_every: int = 50
    seed: int = 0
    compile: bool = False
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)


def train_retrieval(
    session: Session,
    model: EncoderDecoderRetrievalModel,
    tokenizer: SemanticIdTokenizer,
    data: PreparedDataset,
    settings: RetrievalTraining,
) -> FitResult:
    """Train a retrieval model and leave its checkpoints in the session's run folder.

    Args:
        session: Processes, folder and tracking.
        model: To be trained, on any device.
        tokenizer: The ID table of the data set's items.
        data: The data set.
        settings: How to train.

    Returns:
        The result; the run's pointer ``best`` names the step with the best validation
        Recall@10 (or the length next to 10 that is evaluated).

    Raises:
        ArtifactError: If the IDs are those of other items.
        ConfigError: If a setting is out of range.
        TrainingError: If the loss is not finite.
    """
    tokenizer.check_items(data.items_fingerprint)
    accelerator = session.accelerator
    world = accelerator.num_processes
    per_process = settings.batch_size // world if settings.split_batches else settings.batch_size
    examples = SeqData(data, "train", max_history=settings.evaluation.max_history)
    table = TokenTable.build(
        examples, tokenizer.ids, num_users=model.layout.num_users, device=accelerator.device
    )
    loader = TrainingBatches(
        examples,
        table,
        batch_size=per_process,
        mode=settings.mode,
        seed=settings.seed,
        one_per_user=settings.one_per_user,
        rank=accelerator.process_index,
        world_size=world,
    )
    num_steps = count_steps(settings.iterations, settings.epochs, len(loader), settings.accumulate)
    model_config = model.saved_config()
    compiled: nn.Module = torch.compile(model, dynamic=True) if settings.compile else model  # type: ignore[assignment]
    optimizer = build_optimizer(
        settings.optimizer,
        model.to(accelerator.device).parameters(),
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
    )
    prepared, optimizer = accelerator.prepare(compiled, optimizer)
    schedule = build_schedule(
        settings.schedule,
        getattr(optimizer, "optimizer", optimizer),
        warmup_steps=settings.warmup_steps,
        num_steps=num_steps,
        floor=settings.schedule_floor,
    )
    validator = None
    if settings.do_eval:
        validator = _Validator(session, tokenizer, data, table, settings, num_steps)

    def loss_step(
        module: nn.Module, batch: TokenizedBatch, step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        out = module(
            batch,
            label_smoothing=settings.label_smoothing,
            level_weights=settings.level_weights,
        )
        loss, by_level = out.loss * batch.weight, out.level_losses * batch.weight
        return loss, {
            "loss": loss,
            **{f"loss_level_{i + 1}": x for i, x in enumerate(by_level.unbind())},
        }

    return fit(
        accelerator=accelerator,
        model=prepared,
        optimizer=optimizer,
        schedule=schedule,
        train_loader=loader,
        loss_step=loss_step,
        num_steps=num_steps,
        run_dir=session.run_dir,
        model_config=model_config,
        evaluate=validator,
        eval_every=math.gcd(settings.partial_eval_every, settings.full_eval_every),
        save_every=settings.save_every,
        log_every=settings.log_every,
        max_grad_norm=settings.max_grad_norm,
        accumulate=settings.accumulate,
        seed=settings.seed,
        best=() if validator is None else (BestRule("best", f"valid/{validator.chooser}"),),
        patience=settings.patience,
        resume=session.resume_step,
        tracker=session.tracker,
        label="stage two",
    )


class _Validator:
    """Evaluates on validation users: some of them often, all of them when it is time."""

    def __init__(
        self,
        session: Session,
        tokenizer: SemanticIdTokenizer,
        data: PreparedDataset,
        table: TokenTable,
        settings: RetrievalTraining,
        num_steps: int,
    ) -> None:
        self.session, self.settings, self.num_steps = session, settings, num_steps
        self.table = table
        self.catalogue = with_ids(Catalogue.from_data(data), tokenizer)
        examples = SeqData(data, "valid", max_history=settings.evaluation.max_history)
        if len(examples) == 0:
            raise ConfigError(
                "validation needs users with at least 3 interactions, got none; use more data or "
                "another split rule"
            )
        self.full, self.partial = (
            Evaluator(
                examples,
                num_items=data.num_items,
                ks=settings.evaluation.ks,
                processes=session.accelerator,
                budget=settings.evaluation.budget,
                max_rows=settings.evaluation.max_rows,
                limit=limit,
            )
            for limit in (None, settings.partial_eval_users)
        )
        self.chooser = self.full.chooser

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(model, EncoderDecoderRetrievalModel)
        every = self.settings.full_eval_every
        whole = step == self.num_steps or bool(every and step % every == 0)
        evaluator, label = (self.full, "valid") if whole else (self.partial, "valid_partial")
        ranker = model.ranker(self.catalogue, asdict(self.settings.evaluation))
        metrics = evaluator.run(ranker, hide_history=self.settings.evaluation.exclude_history)
        loss = self._loss(model)
        shown = [self.chooser, self.chooser.replace("recall", "ndcg")]
        self.session.say(
            f"step {step:,}: {label} loss {loss:.4f}, "
            + ", ".join(f"{name} {metrics[name]:.4f}" for name in shown)
            + f" ({int(metrics['users']):,} users, {metrics['users_per_s']:,.0f} users/s)"
        )
        return {f"{label}/{k}": v for k, v in metrics.items()} | {"valid/loss": loss}

    def _loss(self, model: EncoderDecoderRetrievalModel) -> float:
        """Compute the mean loss over the partial set, on every process alike."""
        total = torch.zeros(2, dtype=torch.float64, device=self.session.accelerator.device)
        for rows, batch in self.partial.batches:
            loss = model(self.table.tokenize(batch)).loss
            total += torch.stack([loss.double() * len(rows), loss.new_tensor(len(rows)).double()])
        total = self.session.accelerator.reduce(total, reduction="sum")
        return float(total[0] / total[1])


def count_steps(
    iterations: int | None, epochs: float | None, batches: int, accumulate: int = 1
) -> int:
    """Count the optimiser steps of a run.

    Args:
        iterations: Steps, or None.
        epochs: Passes over the batches, or None.
        batches: Batches of an epoch.
        accumulate: Batches of a step.

    Returns:
        At least 1, but for ``iterations`` as given.

    Raises:
        ConfigError: Unless exactly one of the first two is given.
    """
    if iterations is not None and epochs is None:
        return iterations
    if epochs is None or iterations is not None:
        raise ConfigError(
            f"exactly one of iterations and epochs must be set, got {iterations} and {epochs}; set "
            "the other to None"
        )
    return max(1, round(epochs * batches / accumulate))

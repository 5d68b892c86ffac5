"""The baseline's training and test, in the loop and the harness of the retrieval model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from torch import Tensor, nn

from genrec.data.batching import TokenTable, TrainingBatches
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset
from genrec.data.schemas import TokenizedBatch
from genrec.data.sequence_dataset import SeqData
from genrec.errors import ConfigError
from genrec.evaluation.compare import compare
from genrec.evaluation.evaluator import Evaluator
from genrec.evaluation.settings import EvaluationSettings
from genrec.evaluation.tables import format_table, write_metrics
from genrec.models.sasrec import SasRec
from genrec.rankers import baselines
from genrec.training.loop import BestRule, FitResult, fit
from genrec.training.optimizer import build_optimizer, build_schedule
from genrec.training.session import Session
from genrec.training.stage_two import count_steps

__all__ = ["SasRecTraining", "evaluate_sasrec", "train_sasrec"]


@dataclass(frozen=True)
class SasRecTraining:
    """Settings of the baseline; :func:`genrec.training.sasrec.train` says what each means."""

    iterations: int | None = None
    epochs: float | None = None
    batch_size: int = 128
    split_batches: bool = True
    num_negatives: int | None = None
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    schedule: str = "constant"
    schedule_floor: float = 0.0
    warmup_steps: int = 200
    max_grad_norm: float | None = 1.0
    full_eval_every: int = 0
    patience: int | None = None
    save_every: int = 0
    log_every: int = 50
    seed: int = 0
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        if self.num_negatives is not None and self.num_negatives < 1:
            raise ConfigError(
                f"num_negatives must be >= 1, got {self.num_negatives}; set None for all items"
            )
        count_steps(self.iterations, self.epochs, 1)


def train_sasrec(
    session: Session,
    model: SasRec,
    data: PreparedDataset,
    settings: SasRecTraining,
    begin: Callable[[], None] = lambda: None,
) -> FitResult:
    """Train SASRec and leave its checkpoints in the session's run folder.

    Args:
        session: Processes, folder and tracking.
        model: To be trained, on any device.
        data: The data set.
        settings: How to train.
        begin: Called when data and settings are known to be good, before anything is written.

    Returns:
        The result; the run's pointer ``best`` names the step with the best validation
        Recall@10 (or the length next to 10 that is evaluated).

    Raises:
        ConfigError: If a setting is out of range.
        TrainingError: If the loss is not finite.
    """
    accelerator = session.accelerator
    world = accelerator.num_processes
    examples = SeqData(data, "train", max_history=settings.evaluation.max_history)
    item_ids = np.arange(data.num_items)[:, None]  # an item is its own only code
    loader = TrainingBatches(
        examples,
        TokenTable.build(examples, item_ids, device=accelerator.device),
        batch_size=settings.batch_size // world if settings.split_batches else settings.batch_size,
        mode="packed",
        seed=settings.seed,
        rank=accelerator.process_index,
        world_size=world,
    )
    num_steps = count_steps(settings.iterations, settings.epochs, len(loader))
    optimizer = build_optimizer(
        settings.optimizer,
        model.to(accelerator.device).parameters(),
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
    )
    model_config = model.saved_config()
    prepared, optimizer = accelerator.prepare(model, optimizer)
    schedule = build_schedule(
        settings.schedule,
        getattr(optimizer, "optimizer", optimizer),
        warmup_steps=settings.warmup_steps,
        num_steps=num_steps,
        floor=settings.schedule_floor,
    )
    catalogue = Catalogue.from_data(data)
    valid = _evaluator(session, data, "valid", settings.evaluation)

    def loss_step(
        module: nn.Module, batch: TokenizedBatch, step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        history, targets = batch.history[..., 0], batch.targets[..., 0]
        loss = module(history, targets, settings.num_negatives) * batch.weight
        return loss, {"loss": loss}

    def evaluate(module: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(module, SasRec)
        ranker = module.ranker(catalogue, asdict(settings.evaluation))
        metrics = valid.run(ranker, hide_history=settings.evaluation.exclude_history)
        shown = [valid.chooser, valid.chooser.replace("recall", "ndcg")]
        session.say(
            f"step {step:,}: valid "
            + ", ".join(f"{name} {metrics[name]:.4f}" for name in shown)
            + f" ({int(metrics['users']):,} users, {metrics['users_per_s']:,.0f} users/s)"
        )
        return {f"valid/{k}": v for k, v in metrics.items()}

    begin()
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
        evaluate=evaluate,
        eval_every=settings.full_eval_every,
        save_every=settings.save_every,
        log_every=settings.log_every,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        best=(BestRule("best", f"valid/{valid.chooser}"),),
        patience=settings.patience,
        resume=session.resume_step,
        tracker=session.tracker,
        label="SASRec",
    )


def evaluate_sasrec(session: Session, data: PreparedDataset, settings: EvaluationSettings) -> None:
    """Test the run's best step and the simple baselines; print the table, write ``metrics.json``.

    Args:
        session: The run.
        data: The data set.
        settings: How to evaluate.
    """
    device = session.accelerator.device
    best = SasRec.load_pretrained(session.run_dir.path, device=device)
    ranker = best.ranker(Catalogue.from_data(data), asdict(settings))
    rankers = {ranker.name: ranker, **baselines(data, device=device)}
    results = compare(rankers, data, "test", settings, session.accelerator)
    session.say(format_table(results, "test", ks=settings.ks))
    if session.accelerator.is_main_process:
        write_metrics(session.run_dir.path, "test", results, settings, ranker)


def _evaluator(
    session: Session, data: PreparedDataset, split: str, settings: EvaluationSettings
) -> Evaluator:
    """Prepare to rank all items for all users of a split."""
    examples = SeqData(data, split, max_history=settings.max_history)
    if len(examples) == 0:
        raise ConfigError(
            f"{split} needs users with at least 3 interactions, got none; use more data or "
            "another split rule"
        )
    return Evaluator(
        examples,
        num_items=data.num_items,
        ks=settings.ks,
        processes=session.accelerator,
        budget=settings.budget,
        max_rows=settings.max_rows,
    )

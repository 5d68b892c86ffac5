"""Trains SASRec, the baseline over item ids, in the same loop and harness. The gin root ``train``.

Names are those of stage two where they mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gin
import numpy as np
from torch import Tensor, nn

from genrec.config import operative_config
from genrec.data.batching import TokenTable, TrainingBatches
from genrec.data.prepared import PreparedDataset
from genrec.data.processed import RecDataset
from genrec.data.schemas import TokenizedBatch
from genrec.data.sequence_dataset import SeqData
from genrec.errors import ConfigError
from genrec.evaluation.baselines import cooccurrence, neural, popularity
from genrec.evaluation.evaluator import DEFAULT_KS, Evaluator
from genrec.models.sasrec import SasRec
from genrec.training.loop import BestRule, fit
from genrec.training.optimizer import build_optimizer, build_schedule
from genrec.training.retrieval_eval import EvaluationSettings, format_table, write_metrics
from genrec.training.run_data import find_stage_one, open_data
from genrec.training.session import (
    Session,
    SessionSettings,
    conclude,
    on_main_first,
    open_run,
    run_path,
    start_session,
)
from genrec.training.stage_two import count_steps

__all__ = ["train"]


@gin.configurable
def train(
    # How long and how.
    iterations: int | None = None,
    epochs: float | None = None,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    max_grad_norm: float | None = 1.0,
    optimizer: str = "adamw",
    adam_betas: Sequence[float] = (0.9, 0.98),
    schedule: str = "constant",
    schedule_floor: float = 0.0,
    warmup_steps: int = 200,
    num_negatives: int | None = None,
    split_batches: bool = True,
    amp: bool = False,
    mixed_precision_type: str = "bf16",
    seed: int = 0,
    # Data.
    dataset: RecDataset | str | None = None,
    dataset_folder: str | None = None,
    dataset_split: str | None = None,
    encoder_model_name: str | None = None,
    force_dataset_process: bool = False,
    processed_dir: str | None = None,
    pretrained_rqvae_path: str | None = None,
    # The run.
    save_dir_root: str = "runs/sasrec",
    save_model_every: int = 0,
    log_every: int = 50,
    wandb_logging: bool = False,
    trackers: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    # Evaluation.
    full_eval_every: int = 0,
    top_k_eval_list: Sequence[int] = DEFAULT_KS,
    exclude_history: bool = False,
    patience: int | None = None,
    test_at_end: bool = True,
    # The model.
    embed_dim: int = 64,
    attn_heads: int = 2,
    attn_layers: int = 2,
    ff_dim: int = 256,
    dropout_p: float = 0.5,
    max_seq_len: int = 20,
) -> None:
    """Train SASRec on a data set, keep its best step by validation, and test that once.

    Args:
        iterations: Optimiser steps; this or ``epochs``.
        epochs: Passes over the windows of all training sequences.
        batch_size: Windows a step, over all processes with ``split_batches``, else on each.
        learning_rate: Peak rate.
        weight_decay: On matrices.
        max_grad_norm: Clip the global gradient norm here; None for no clipping.
        optimizer: ``adamw``, ``adam``, ``sgd``, ``adagrad`` or ``rmsprop``.
        adam_betas: Of Adam and AdamW.
        schedule: ``constant``, ``inverse_sqrt``, ``cosine``, ``linear`` or ``one_cycle``.
        schedule_floor: Share of the peak rate at the end.
        warmup_steps: Steps of linear warm-up.
        num_negatives: Items drawn against the targets of a step; None for all items.
        split_batches: Whether ``batch_size`` is shared out over processes.
        amp: Mixed precision.
        mixed_precision_type: ``bf16``, ``fp16`` or ``no``, with ``amp``.
        seed: Of everything random.
        dataset: Kind of source; with ``dataset_folder``.
        dataset_folder: The source's files or a prepared data set; None takes the data set of
            ``pretrained_rqvae_path``.
        dataset_split: Part of the release; also a sub-folder of the run and of stage one's.
        encoder_model_name: Text encoder of the prepared set; None takes stage one's.
        force_dataset_process: Prepare again.
        processed_dir: Where prepared sets are kept.
        pretrained_rqvae_path: Stage one's run, whose data set is taken.
        save_dir_root: Where the run goes.
        save_model_every: Steps between checkpoints, besides those at evaluations.
        log_every: Steps between lines of ``metrics.jsonl``.
        wandb_logging: Also log to Weights & Biases.
        trackers: Further trackers, of ``tensorboard`` and ``wandb``.
        resume: Go on from the run's latest checkpoint.
        overwrite: Replace an older run in the same folder.
        full_eval_every: Steps between validations, which choose the best step.
        top_k_eval_list: Lengths of the result list.
        exclude_history: Never recommend items of the history.
        patience: Validations without improvement before stopping.
        test_at_end: Evaluate the best step on the test split, once.
        embed_dim: Model width.
        attn_heads: Attention heads.
        attn_layers: Blocks.
        ff_dim: Width of the feed-forward layers.
        dropout_p: Dropout.
        max_seq_len: Newest items of a history that the model sees.

    Raises:
        GenRecError: If a setting, a path or the data is not as it should be.
    """
    if num_negatives is not None and num_negatives < 1:
        raise ConfigError(
            f"num_negatives must be >= 1, got {num_negatives}; set None for all items"
        )
    stage_one = None
    if pretrained_rqvae_path is not None:
        stage_one = find_stage_one(pretrained_rqvae_path, dataset_split)
    session = start_session(
        SessionSettings(
            path=run_path(save_dir_root, dataset_split),
            seed=seed,
            amp=amp,
            mixed_precision_type=mixed_precision_type,
            trackers=tuple(trackers),
            wandb_logging=wandb_logging,
            resume=resume,
            overwrite=overwrite,
        )
    )
    accelerator = session.accelerator
    data = on_main_first(
        accelerator,
        lambda: open_data(
            stage_one,
            dataset,
            dataset_folder,
            dataset_split,
            encoder_model_name,
            force_dataset_process and accelerator.is_main_process,
            processed_dir,
        ),
    )
    model = SasRec(
        data.num_items,
        embedding_dim=embed_dim,
        num_heads=attn_heads,
        n_layers=attn_layers,
        ff_dim=ff_dim,
        dropout=dropout_p,
        max_history=max_seq_len,
    )
    world = accelerator.num_processes
    examples = SeqData(data, "train", max_history=max_seq_len)
    item_ids = np.arange(data.num_items)[:, None]  # an item is its own only code
    loader = TrainingBatches(
        examples,
        TokenTable.build(examples, item_ids, device=accelerator.device),
        batch_size=batch_size // world if split_batches else batch_size,
        mode="packed",
        seed=seed,
        rank=accelerator.process_index,
        world_size=world,
    )
    num_steps = count_steps(iterations, epochs, len(loader))
    evaluation = EvaluationSettings(
        ks=tuple(top_k_eval_list), exclude_history=exclude_history, max_history=max_seq_len
    )
    valid = _evaluator(session, data, "valid", evaluation)
    optimizer_ = build_optimizer(
        optimizer,
        model.to(accelerator.device).parameters(),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        betas=(adam_betas[0], adam_betas[1]),
    )
    model_config = model.saved_config()
    prepared, optimizer_ = accelerator.prepare(model, optimizer_)
    schedule_ = build_schedule(
        schedule,
        getattr(optimizer_, "optimizer", optimizer_),
        warmup_steps=warmup_steps,
        num_steps=num_steps,
        floor=schedule_floor,
    )
    parameters = sum(p.numel() for p in model.parameters())
    open_run(
        session,
        {
            "stage": "sasrec",
            "dataset": data.meta["name"],
            "prepared": str(data.path.resolve()),
            "data_fingerprint": data.fingerprint,
            "seed": seed,
            "parameters": parameters,
        },
        config_text=operative_config(),
    )
    session.say(
        f"{data.meta['name']}: {data.num_users:,} users, {data.num_items:,} items; SASRec, "
        f"{parameters:,} parameters; run {session.run_dir.path}"
    )

    def loss_step(
        module: nn.Module, batch: TokenizedBatch, step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss = module(batch.history[..., 0], batch.targets[..., 0], num_negatives) * batch.weight
        return loss, {"loss": loss}

    chooser = f"recall@{min(valid.ks, key=lambda k: abs(k - 10))}"

    def evaluate(module: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(module, SasRec)
        metrics = valid.run(neural(module, valid.num_results, exclude_history=exclude_history))
        shown = [chooser, chooser.replace("recall", "ndcg")]
        session.say(
            f"step {step:,}: valid "
            + ", ".join(f"{name} {metrics[name]:.4f}" for name in shown)
            + f" ({int(metrics['users']):,} users, {metrics['users_per_s']:,.0f} users/s)"
        )
        return {f"valid/{k}": v for k, v in metrics.items()}

    result = fit(
        accelerator=accelerator,
        model=prepared,
        optimizer=optimizer_,
        schedule=schedule_,
        train_loader=loader,
        loss_step=loss_step,
        num_steps=num_steps,
        run_dir=session.run_dir,
        model_config=model_config,
        evaluate=evaluate,
        eval_every=full_eval_every,
        save_every=save_model_every,
        log_every=log_every,
        max_grad_norm=max_grad_norm,
        seed=seed,
        best=(BestRule("best", f"valid/{chooser}"),),
        patience=patience,
        resume=session.resume_step,
        tracker=session.tracker,
        label="SASRec",
    )
    conclude(session, result)
    if test_at_end:
        _test(session, data, evaluation)
    session.say(f"run: {session.run_dir.path}")
    session.tracker.close()
    accelerator.wait_for_everyone()


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
        groups=None,
        ks=settings.ks,
        accelerator=session.accelerator,
        budget=settings.budget,
        max_rows=settings.max_rows,
    )


def _test(session: Session, data: PreparedDataset, settings: EvaluationSettings) -> None:
    """Read the test split once, with the best step and the simple baselines."""
    device = session.accelerator.device
    evaluator = _evaluator(session, data, "test", settings)
    count = evaluator.num_results
    best = SasRec.load_pretrained(session.run_dir.path, device=device)
    results = {
        "SASRec": evaluator.run(neural(best, count, exclude_history=settings.exclude_history)),
        "popularity": evaluator.run(popularity(data, count, device)),
        "co-occurrence": evaluator.run(cooccurrence(data, count, device)),
    }
    session.say(format_table(results, "test", settings))
    if session.accelerator.is_main_process:
        write_metrics(session.run_dir.path, "test", results, settings)

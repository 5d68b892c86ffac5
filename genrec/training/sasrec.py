"""Trains SASRec, the baseline over item ids. The gin root ``train``.

Names are those of stage two where they mean the same. :func:`train` gathers them into a few
settings and calls :func:`~genrec.training.baseline.train_sasrec`, which knows no gin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import gin

from genrec.config import operative_config
from genrec.data.catalogue import Catalogue
from genrec.data.processed import RecDataset
from genrec.evaluation.settings import DEFAULT_KS, EvaluationSettings
from genrec.models.sasrec import SasRec
from genrec.training.baseline import SasRecTraining, evaluate_sasrec, train_sasrec
from genrec.training.run_data import find_stage_one, open_data
from genrec.training.session import (
    SessionSettings,
    conclude,
    on_main_first,
    open_run,
    run_path,
    start_session,
)

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
    settings = SasRecTraining(
        iterations=iterations,
        epochs=epochs,
        batch_size=batch_size,
        split_batches=split_batches,
        num_negatives=num_negatives,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        betas=(adam_betas[0], adam_betas[1]),
        schedule=schedule,
        schedule_floor=schedule_floor,
        warmup_steps=warmup_steps,
        max_grad_norm=max_grad_norm,
        full_eval_every=full_eval_every,
        patience=patience,
        save_every=save_model_every,
        log_every=log_every,
        seed=seed,
        evaluation=EvaluationSettings(
            ks=tuple(top_k_eval_list), exclude_history=exclude_history, max_history=max_seq_len
        ),
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
    parameters = sum(p.numel() for p in model.parameters())
    described = {
        "stage": "sasrec",
        "dataset": data.meta["name"],
        "prepared": str(data.path.resolve()),
        "data_fingerprint": data.fingerprint,
        "seed": seed,
        "evaluation": asdict(settings.evaluation),
        "parameters": parameters,
    }

    def begin() -> None:
        open_run(session, described, config_text=operative_config())
        if accelerator.is_main_process:
            Catalogue.from_data(data).save(session.run_dir.path)
        session.say(
            f"{data.meta['name']}: {data.num_users:,} users, {data.num_items:,} items; SASRec, "
            f"{parameters:,} parameters; run {session.run_dir.path}"
        )

    result = train_sasrec(session, model, data, settings, begin)
    conclude(session, result)
    if test_at_end:
        evaluate_sasrec(session, data, settings.evaluation)
    session.say(f"run: {session.run_dir.path}")
    session.tracker.close()
    accelerator.wait_for_everyone()

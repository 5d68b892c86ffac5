"""Stage two: trains the retrieval model on the IDs of a frozen tokenizer. The gin root ``train``.

:func:`train` takes the flat names of configuration files, gathers them into a few settings and
calls :func:`~genrec.training.stage_two.train_retrieval`, which knows no gin and can be called in
the same way.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gin

from genrec.config import operative_config
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset
from genrec.data.processed import RecDataset
from genrec.errors import ArtifactError
from genrec.evaluation.compare import compare
from genrec.evaluation.settings import DEFAULT_KS, EvaluationSettings
from genrec.evaluation.tables import format_table, write_metrics
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.rankers import baselines
from genrec.tokenizer.semantic_id import ARTIFACT_NAME, SemanticIdTokenizer
from genrec.trained import with_ids
from genrec.training.loop import FitResult
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
from genrec.training.stage_two import RetrievalTraining, train_retrieval

__all__ = ["train"]


@gin.configurable
def train(
    # How long and how.
    iterations: int | None = None,
    epochs: float | None = None,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    gradient_accumulate_every: int = 1,
    max_grad_norm: float | None = 1.0,
    optimizer: str = "adamw",
    adam_betas: Sequence[float] = (0.9, 0.98),
    schedule: str = "inverse_sqrt",
    schedule_floor: float = 0.0,
    warmup_steps: int = 1000,
    label_smoothing: float = 0.0,
    level_weights: Sequence[float] | None = None,
    train_mode: str = "bucketed",
    train_data_subsample: bool = False,
    split_batches: bool = True,
    amp: bool = False,
    mixed_precision_type: str = "bf16",
    compile_model: bool = False,
    seed: int = 0,
    # Data.
    dataset: RecDataset | str | None = None,
    dataset_folder: str | None = None,
    dataset_split: str | None = None,
    encoder_model_name: str | None = None,
    force_dataset_process: bool = False,
    processed_dir: str | None = None,
    # The run.
    save_dir_root: str = "runs/decoder",
    pretrained_rqvae_path: str | None = None,
    pretrained_decoder_path: str | None = None,
    save_model_every: int = 0,
    log_every: int = 50,
    wandb_logging: bool = False,
    trackers: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    # Evaluation.
    do_eval: bool = True,
    partial_eval_every: int = 0,
    full_eval_every: int = 0,
    partial_eval_users: int = 1000,
    top_k_eval_list: Sequence[int] = DEFAULT_KS,
    num_beams: int = 30,
    exclude_history: bool = False,
    patience: int | None = None,
    test_at_end: bool = True,
    # The model.
    decoder_embed_dim: int = 128,
    attn_embed_dim: int = 384,
    attn_heads: int = 6,
    attn_layers: int | Sequence[int] = 8,
    ff_dim: int = 1024,
    dropout_p: float = 0.1,
    num_user_embeddings: int = 0,
    max_seq_len: int = 20,
    add_disambiguation: bool = True,
    item_separator: bool = False,
    encoder_mask: str = "full",
    full_vocabulary: bool = False,
    # Stage one's names: checked against the tokenizer where it knows them, else without effect.
    vae_input_dim: int | None = None,
    vae_embed_dim: int | None = None,
    vae_hidden_dims: Sequence[int] | None = None,
    vae_codebook_size: int | Sequence[int] | None = None,
    vae_codebook_normalize: bool | None = None,
    vae_codebook_mode: Any = None,
    vae_codebook_last_layer_mode: Any = None,
    vae_sim_vq: bool | None = None,
    vae_n_layers: int | None = None,
    vae_n_cat_feats: int | None = None,
    commitment_weight: float | None = None,
    use_kmeans_init: bool | None = None,
    eval_every: int | None = None,
) -> None:
    """Train the retrieval model of a data set.

    Args:
        iterations: Optimiser steps; this or ``epochs``.
        epochs: Passes over the training examples.
        batch_size: Examples a step (windows of whole sequences when packed), over all processes
            with ``split_batches``, else on each.
        learning_rate: Peak rate.
        weight_decay: On matrices.
        gradient_accumulate_every: Batches a step.
        max_grad_norm: Clip the global gradient norm here; None for no clipping.
        optimizer: ``adamw``, ``adam``, ``sgd``, ``adagrad`` or ``rmsprop``.
        adam_betas: Of Adam and AdamW.
        schedule: ``inverse_sqrt``, ``cosine``, ``linear``, ``one_cycle`` or ``constant``.
        schedule_floor: Share of the peak rate at the end.
        warmup_steps: Steps of linear warm-up.
        label_smoothing: Share of probability spread over all codes.
        level_weights: Weight of each level's loss, all equal when None.
        train_mode: ``bucketed``: examples of like length together. ``packed``: one pass trains
            every target of a sequence, with ``encoder_mask='item_causal'``. ``padded``: plain.
        train_data_subsample: One random example of each user an epoch instead of all.
        split_batches: Whether ``batch_size`` is shared out over processes.
        amp: Mixed precision.
        mixed_precision_type: ``bf16``, ``fp16`` or ``no``, with ``amp``.
        compile_model: Use ``torch.compile``.
        seed: Of everything random.
        dataset: Kind of source; with ``dataset_folder``.
        dataset_folder: The source's files or a prepared data set; None takes the data set that
            stage one was trained on.
        dataset_split: Part of the release; also a sub-folder of the run and of stage one's.
        encoder_model_name: Text encoder of the prepared set; None takes stage one's.
        force_dataset_process: Prepare again.
        processed_dir: Where prepared sets are kept.
        save_dir_root: Where the run goes.
        pretrained_rqvae_path: Stage one's run, or an ID table.
        pretrained_decoder_path: Start from the weights of this run.
        save_model_every: Steps between checkpoints, besides those at evaluations.
        log_every: Steps between lines of ``metrics.jsonl``.
        wandb_logging: Also log to Weights & Biases.
        trackers: Further trackers, of ``tensorboard`` and ``wandb``.
        resume: Go on from the run's latest checkpoint.
        overwrite: Replace an older run in the same folder.
        do_eval: Evaluate at all; without it the last step is the result.
        partial_eval_every: Steps between evaluations of some validation users.
        full_eval_every: Steps between evaluations of all of them, which choose the best step.
        partial_eval_users: How many ``some`` is.
        top_k_eval_list: Lengths of the result list.
        num_beams: Beams.
        exclude_history: Never recommend items of the history.
        patience: Full evaluations without improvement before stopping.
        test_at_end: Evaluate the best step on the test split, once.
        decoder_embed_dim: Model width.
        attn_embed_dim: Width of all attention heads together.
        attn_heads: Attention heads.
        attn_layers: Layers of encoder and decoder together, or a pair.
        ff_dim: Width of the feed-forward layers.
        dropout_p: Dropout.
        num_user_embeddings: Hashed user tokens, 0 for none.
        max_seq_len: Newest items of a history that the model sees.
        add_disambiguation: Generate the dedup digit of the IDs; without it, items that share
            their other codes are returned together.
        item_separator: A separator token after each history item.
        encoder_mask: ``full`` or ``item_causal``.
        full_vocabulary: Normalise probabilities over the whole vocabulary.
        vae_input_dim: Without effect here.
        vae_embed_dim: Without effect here.
        vae_hidden_dims: Without effect here.
        vae_codebook_size: Must equal the tokenizer's.
        vae_codebook_normalize: Without effect here.
        vae_codebook_mode: Without effect here.
        vae_codebook_last_layer_mode: Without effect here.
        vae_sim_vq: Without effect here.
        vae_n_layers: Must equal the tokenizer's, the dedup digit not counted.
        vae_n_cat_feats: Without effect here.
        commitment_weight: Without effect here.
        use_kmeans_init: Without effect here.
        eval_every: The same as ``full_eval_every``.

    Raises:
        GenRecError: If a setting, a path or the data is not as it should be.
    """
    stage_one = find_stage_one(pretrained_rqvae_path, dataset_split)
    imported = stage_one.is_file()
    tokenizer = _load_tokenizer(stage_one, add_disambiguation)
    _check_stage_one_names(tokenizer, vae_codebook_size, vae_n_layers)
    _warn_without_effect(
        {
            "vae_input_dim": vae_input_dim,
            "vae_embed_dim": vae_embed_dim,
            "vae_hidden_dims": vae_hidden_dims,
            "vae_codebook_normalize": vae_codebook_normalize,
            "vae_codebook_mode": vae_codebook_mode,
            "vae_codebook_last_layer_mode": vae_codebook_last_layer_mode,
            "vae_sim_vq": vae_sim_vq,
            "vae_n_cat_feats": vae_n_cat_feats,
            "commitment_weight": commitment_weight,
            "use_kmeans_init": use_kmeans_init,
        }
    )
    evaluation = EvaluationSettings(
        num_beams=num_beams,
        ks=tuple(top_k_eval_list),
        exclude_history=exclude_history,
        max_history=max_seq_len,
    )
    settings = RetrievalTraining(
        iterations=iterations,
        epochs=epochs,
        batch_size=batch_size,
        split_batches=split_batches,
        mode=train_mode,
        one_per_user=train_data_subsample,
        accumulate=gradient_accumulate_every,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        betas=(adam_betas[0], adam_betas[1]),
        schedule=schedule,
        schedule_floor=schedule_floor,
        warmup_steps=warmup_steps,
        max_grad_norm=max_grad_norm,
        label_smoothing=label_smoothing,
        level_weights=None if level_weights is None else tuple(level_weights),
        do_eval=do_eval,
        partial_eval_every=partial_eval_every,
        full_eval_every=full_eval_every or eval_every or 0,
        partial_eval_users=partial_eval_users,
        patience=patience,
        save_every=save_model_every,
        log_every=log_every,
        seed=seed,
        compile=compile_model,
        evaluation=evaluation,
    )
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
    data = on_main_first(
        session.accelerator,
        lambda: open_data(
            stage_one,
            dataset,
            dataset_folder,
            dataset_split,
            encoder_model_name,
            force_dataset_process and session.accelerator.is_main_process,
            processed_dir,
        ),
    )
    if imported:  # the file's items are known by name only once the data set is open
        tokenizer = SemanticIdTokenizer.from_index_json(stage_one, item_keys=data.item_keys)
    tokenizer.check_items(data.items_fingerprint)
    model = EncoderDecoderRetrievalModel(
        decoder_embed_dim,
        attn_embed_dim,
        dropout_p,
        attn_heads,
        attn_layers if isinstance(attn_layers, int) else (attn_layers[0], attn_layers[1]),
        num_embeddings=tokenizer.level_sizes,
        sem_id_dim=tokenizer.num_levels,
        ff_dim=ff_dim,
        num_users=num_user_embeddings,
        separator=item_separator,
        encoder_mask=encoder_mask,
        full_vocabulary=full_vocabulary,
    )
    if pretrained_decoder_path is not None:
        _start_from(model, pretrained_decoder_path)
    open_run(
        session,
        {
            "stage": "retrieval",
            "dataset": data.meta["name"],
            "prepared": str(data.path.resolve()),
            "data_fingerprint": data.fingerprint,
            "items_fingerprint": data.items_fingerprint,
            "ids_fingerprint": tokenizer.fingerprint,
            "seed": seed,
            "evaluation": asdict(evaluation),
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        config_text=operative_config(),
    )
    if session.accelerator.is_main_process:
        tokenizer.save(session.run_dir.path / ARTIFACT_NAME)
        Catalogue.from_data(data).save(session.run_dir.path)
    session.say(
        f"{data.meta['name']}: {data.num_users:,} users, {data.num_items:,} items; IDs of "
        f"{tokenizer.num_levels} levels {tokenizer.level_sizes}; "
        f"{sum(p.numel() for p in model.parameters()):,} parameters; run {session.run_dir.path}"
    )
    result = train_retrieval(session, model, tokenizer, data, settings)
    _finish(session, result, tokenizer, data, settings, test=do_eval and test_at_end)


def _finish(
    session: Session,
    result: FitResult,
    tokenizer: SemanticIdTokenizer,
    data: PreparedDataset,
    settings: RetrievalTraining,
    *,
    test: bool,
) -> None:
    """Say what the run came to, and read the test split once."""
    path = session.run_dir.path
    conclude(session, result)
    if test:
        device = session.accelerator.device
        best = EncoderDecoderRetrievalModel.load_pretrained(path, device=device)
        catalogue = with_ids(Catalogue.from_data(data), tokenizer)
        ranker = best.ranker(catalogue, asdict(settings.evaluation))
        rankers = {ranker.name: ranker, **baselines(data, device=device)}
        results = compare(rankers, data, "test", settings.evaluation, session.accelerator)
        row = results[ranker.name]
        session.tracker.log(result.step, {f"test/{name}": value for name, value in row.items()})
        session.say(format_table(results, "test", ks=settings.evaluation.ks))
        if session.accelerator.is_main_process:
            write_metrics(path, "test", results, settings.evaluation, ranker)
    session.say(f"run: {path}")
    session.tracker.close()
    session.accelerator.wait_for_everyone()


def _load_tokenizer(path: Path, add_disambiguation: bool) -> SemanticIdTokenizer:
    """Open the ID table, without its dedup digit where that is not wanted."""
    if path.suffix == ".json":
        table = SemanticIdTokenizer.from_index_json(path)
    else:
        table = SemanticIdTokenizer.load(path)
    if add_disambiguation or not table.has_dedup_digit:
        return table
    return SemanticIdTokenizer(
        table.ids[:, :-1],
        level_sizes=table.level_sizes[:-1],
        item_keys=table.item_keys,
        policy="none",
    )


def _check_stage_one_names(
    tokenizer: SemanticIdTokenizer, codebook_size: int | Sequence[int] | None, n_layers: int | None
) -> None:
    """Refuse a codebook size or depth that is not the tokenizer's."""
    sizes = tokenizer.level_sizes[:-1] if tokenizer.has_dedup_digit else tokenizer.level_sizes
    if n_layers is not None and n_layers != len(sizes):
        raise ArtifactError(
            f"vae_n_layers must equal the tokenizer's {len(sizes)}, got {n_layers}; set "
            f"train.vae_n_layers={len(sizes)}"
        )
    if codebook_size is not None:
        wanted = (
            (codebook_size,) * len(sizes)
            if isinstance(codebook_size, int)
            else tuple(codebook_size)
        )
        if wanted != sizes:
            shown = sizes[0] if len(set(sizes)) == 1 else list(sizes)
            raise ArtifactError(
                f"codebook_size must equal the tokenizer's {shown}, got {codebook_size}; set "
                f"train.vae_codebook_size={shown}"
            )


def _warn_without_effect(values: Mapping[str, Any]) -> None:
    """Warn about settings that stage two only accepts."""
    given = sorted(name for name, value in values.items() if value is not None)
    if given:
        warnings.warn(
            f"settings without effect in stage two, which reads the tokenizer's table only: "
            f"{', '.join(given)}",
            stacklevel=3,
        )


def _start_from(model: EncoderDecoderRetrievalModel, path: str | os.PathLike[str]) -> None:
    """Copy the weights of another run of the same shape."""
    source = EncoderDecoderRetrievalModel.load_pretrained(path)
    try:
        model.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise ArtifactError(
            f"pretrained_decoder_path must hold a model of the same shape, got {path} with "
            f"{str(error).splitlines()[-1].strip()}; use the settings of that run"
        ) from error

"""Stage one: trains the tokenizer and writes the semantic IDs. The gin root ``train``.

:func:`train` takes the flat names of configuration files, gathers them into a few settings and
calls :func:`genrec.training.stage_one.train_rqvae`, which knows no gin.
"""

from __future__ import annotations

from collections.abc import Sequence

import gin

from genrec.config import operative_config
from genrec.data.processed import RecDataset, load_or_prepare
from genrec.errors import ConfigError, did_you_mean
from genrec.models.rqvae import (
    MODEL_NAME,
    FeatureSettings,
    LossSettings,
    MlpSettings,
    QuantizeForwardMode,
    QuantizerSettings,
    RqVae,
)
from genrec.modules.quantize.residual import per_level
from genrec.tokenizer.policies import check_policy
from genrec.training.residual_kmeans import KMeansSettings, train_residual_kmeans
from genrec.training.session import (
    SessionSettings,
    on_main_first,
    open_run,
    run_path,
    start_session,
)
from genrec.training.stage_one import (
    CodebookStart,
    Optimization,
    Ramp,
    Rhythm,
    StageOneSettings,
    feature_scale,
    load_items,
    train_rqvae,
)
from genrec.training.stage_one_report import finish_stage_one

__all__ = ["train"]

TOKENIZERS = (MODEL_NAME, "residual_kmeans", "balanced_residual_kmeans")


@gin.configurable
def train(
    # What to train on.
    dataset: RecDataset | str = gin.REQUIRED,
    dataset_folder: str = gin.REQUIRED,
    dataset_split: str | None = None,
    force_dataset_process: bool = False,
    encoder_model_name: str = "tfidf",
    processed_dir: str | None = None,
    replace_non_finite: bool = False,
    val_ratio: float = 0.0,
    # Where the run goes.
    save_dir_root: str = "runs/rqvae",
    pretrained_rqvae_path: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    # How long and how often, in optimiser steps.
    iterations: int | None = None,
    epochs: int | None = None,
    do_eval: bool = True,
    eval_every: int = 0,
    save_model_every: int = 0,
    log_every: int = 50,
    patience: int | None = None,
    wandb_logging: bool = False,
    trackers: Sequence[str] = (),
    # Optimisation.
    batch_size: int = 256,
    split_batches: bool = True,
    gradient_accumulate_every: int = 1,
    amp: bool = False,
    mixed_precision_type: str = "bf16",
    optimizer: str = "adamw",
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    schedule: str = "cosine",
    schedule_floor: float = 0.0,
    warmup_steps: int = 0,
    max_grad_norm: float | None = 1.0,
    # Codebooks.
    use_kmeans_init: bool = True,
    kmeans_after_epochs: int = 0,
    kmeans_max_samples: int = 100_000,
    kmeans_iters: int = 50,
    codebook_update: str = "gradient",
    ema_decay: float = 0.99,
    dead_code_steps: int = 0,
    distance: str = "l2",
    sinkhorn_epsilon: float = 0.05,
    sinkhorn_iters: int = 20,
    gumbel_temperature: float = 1.0,
    gumbel_temperature_end: float | None = 0.05,
    # Loss.
    commitment_weight: float = 0.25,
    commitment_start: float = 0.0,
    commitment_warmup_steps: int = 0,
    codebook_weight: float = 1.0,
    separation_weight: float = 0.0,
    separation_after_epochs: int = 0,
    recon_weight: float = 1.0,
    quant_loss_weight: float = 1.0,
    recon_kind: str = "l2",
    recon_reduction: str = "sum",
    level_reduction: str = "sum",
    # Model.
    tokenizer: str = "rqvae",
    vae_input_dim: int | None = None,
    vae_embed_dim: int = 32,
    vae_hidden_dims: Sequence[int] = (512, 256, 128),
    vae_codebook_size: int | Sequence[int] = 256,
    vae_codebook_normalize: bool = False,
    vae_codebook_mode: QuantizeForwardMode | Sequence[QuantizeForwardMode] = (
        QuantizeForwardMode.STE
    ),
    vae_codebook_last_layer_mode: QuantizeForwardMode | None = None,
    vae_sim_vq: bool = False,
    vae_n_layers: int = 3,
    vae_n_cat_feats: int = 0,
    vae_activation: str = "gelu",
    vae_dropout: float = 0.0,
    vae_batch_norm: bool = False,
    vae_weight_init: str = "orthogonal",
    vae_feature_scale: float | None = None,
    normalize_input: bool = False,
    normalize_output: bool = False,
    # Semantic IDs.
    collision_policy: str = "dedup_token",
) -> None:
    """Train an RQ-VAE and write the semantic IDs of the catalogue.

    Args:
        dataset: Kind of the source, for example ``amazon``.
        dataset_folder: Its files, or a prepared data set.
        dataset_split: Part of it, for example ``beauty``.
        force_dataset_process: Prepare again.
        encoder_model_name: Text encoder: ``tfidf``, a sentence-transformers model, or a path to
            a ``.npy`` array.
        processed_dir: Where prepared sets are kept.
        replace_non_finite: Put 0 for NaN and Inf in embeddings instead of refusing them.
        val_ratio: Share of the items held out of training; 0 for none.
        save_dir_root: Folder of runs; this run lies in it under the split's name.
        pretrained_rqvae_path: Run or step folder to take first weights from.
        resume: Go on from the run's latest checkpoint.
        overwrite: Replace an older run.
        seed: Of everything random.
        iterations: Optimiser steps; the shorter of this and ``epochs`` counts.
        epochs: Passes over the items.
        do_eval: Evaluate.
        eval_every: Steps between evaluations; 0 for the end only.
        save_model_every: Steps between checkpoints besides.
        log_every: Steps between log lines.
        patience: Evaluations without a better loss before stopping.
        wandb_logging: Log to Weights & Biases too.
        trackers: Further trackers, of ``tensorboard`` and ``wandb``.
        batch_size: Items a batch.
        split_batches: Whether ``batch_size`` is that of all processes together.
        gradient_accumulate_every: Batches a step.
        amp: Mixed precision.
        mixed_precision_type: ``fp16`` or ``bf16``.
        optimizer: ``adamw``, ``adam``, ``sgd``, ``adagrad`` or ``rmsprop``.
        learning_rate: Peak.
        weight_decay: Of matrices.
        momentum: Of SGD and RMSprop.
        schedule: ``constant``, ``linear``, ``cosine``, ``one_cycle`` or ``inverse_sqrt``.
        schedule_floor: Last learning rate as a share of the peak.
        warmup_steps: Steps of linear warm-up.
        max_grad_norm: Clip gradients at this norm; None for not.
        use_kmeans_init: Start the codebooks from k-means.
        kmeans_after_epochs: Epochs of the plain autoencoder before it.
        kmeans_max_samples: Items that k-means looks at.
        kmeans_iters: Its iterations a level.
        codebook_update: ``gradient`` or ``ema``.
        ema_decay: Of ``ema``.
        dead_code_steps: Steps without an item after which a code is re-seeded; 0 for never.
        distance: ``l2`` or ``cosine``.
        sinkhorn_epsilon: Entropy weight of ``SINKHORN``.
        sinkhorn_iters: Its sweeps.
        gumbel_temperature: Of ``GUMBEL_SOFTMAX``, at the start.
        gumbel_temperature_end: At the end; None keeps the start's.
        commitment_weight: beta.
        commitment_start: beta at the first step, where it warms up.
        commitment_warmup_steps: Steps of its linear warm-up; 0 for none.
        codebook_weight: Of the codebook term.
        separation_weight: Of a term that trains items that share an id towards free ones, beside
            the commitment term; 0 for none.
        separation_after_epochs: Epochs before that term sets in.
        recon_weight: Of the reconstruction.
        quant_loss_weight: Of codebook and commitment terms together.
        recon_kind: ``l2`` or ``l1``.
        recon_reduction: ``sum`` or ``mean`` over features.
        level_reduction: ``sum`` or ``mean`` over levels.
        tokenizer: ``rqvae``; or ``residual_kmeans`` or ``balanced_residual_kmeans``, which fit
            ``vae_n_layers`` codebooks of ``vae_codebook_size`` to the embeddings themselves, with
            ``kmeans_iters`` and ``kmeans_max_samples``, and heed no other setting of model, loss
            and optimisation.
        vae_input_dim: Width of the embeddings; read from the data when None.
        vae_embed_dim: Latent width.
        vae_hidden_dims: Hidden widths of the encoder.
        vae_codebook_size: Codes of all levels, or of each.
        vae_codebook_normalize: Unit-length latents and first-level codes.
        vae_codebook_mode: Gradient through the choice, of all levels or of each.
        vae_codebook_last_layer_mode: Of the last level, where it differs.
        vae_sim_vq: Learn a map of fixed codebooks.
        vae_n_layers: Code levels.
        vae_n_cat_feats: Multi-hot features at the end of the embeddings.
        vae_activation: Of the MLPs.
        vae_dropout: Of the MLPs.
        vae_batch_norm: Of the MLPs.
        vae_weight_init: Of the MLPs.
        vae_feature_scale: Factor on the inputs; None brings them to size 1.
        normalize_input: Scale inputs to unit length.
        normalize_output: Scale reconstructions to unit length.
        collision_policy: What is done with items of equal codes.

    Raises:
        GenRecError: If a setting, a path or the data is not as it should be.
    """
    check_policy(collision_policy)
    if tokenizer not in TOKENIZERS:
        raise ConfigError(
            f"tokenizer must be known, got {tokenizer!r}; {did_you_mean(tokenizer, TOKENIZERS)}"
        )
    temperature_end = (
        gumbel_temperature if gumbel_temperature_end is None else gumbel_temperature_end
    )
    settings = StageOneSettings(
        batch_size=batch_size,
        split_batches=split_batches,
        seed=seed,
        val_ratio=val_ratio,
        start=CodebookStart(
            kmeans=use_kmeans_init,
            after_epochs=kmeans_after_epochs,
            max_samples=kmeans_max_samples,
            num_iters=kmeans_iters,
        ),
        optimization=Optimization(
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            momentum=momentum,
            schedule=schedule,
            warmup_steps=warmup_steps,
            floor=schedule_floor,
            max_grad_norm=max_grad_norm,
            accumulate=gradient_accumulate_every,
        ),
        rhythm=Rhythm(
            epochs=epochs,
            iterations=iterations,
            eval_every=eval_every,
            save_every=save_model_every,
            log_every=log_every,
            do_eval=do_eval,
            patience=patience,
        ),
        temperature=(gumbel_temperature, temperature_end),
        separate_after_epochs=separation_after_epochs if separation_weight > 0 else None,
        commitment=(
            Ramp(start=commitment_start, end=commitment_weight, steps=commitment_warmup_steps)
            if commitment_warmup_steps
            else None
        ),
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
        lambda: load_or_prepare(
            dataset,
            dataset_folder,
            split=dataset_split,
            encoder_model_name=encoder_model_name,
            force=force_dataset_process and session.accelerator.is_main_process,
            processed_dir=processed_dir,
        ),
    )
    width = data.embedding_dim
    if vae_input_dim is not None and vae_input_dim != width:
        raise ConfigError(
            f"vae_input_dim must equal the width of the embeddings, {width}, got {vae_input_dim}; "
            f"set train.vae_input_dim={width} or choose another train.encoder_model_name"
        )
    items, num_replaced = load_items(
        data.item_embeddings,
        num_categorical=vae_n_cat_feats,
        replace_non_finite=replace_non_finite,
    )
    if num_replaced:
        session.say(f"warning: {num_replaced} values NaN or Inf in the embeddings, replaced with 0")
    meta = {
        "stage": "tokenizer",
        "model": tokenizer,
        "dataset": data.meta["name"],
        "dataset_kind": RecDataset.parse(dataset).value,
        "dataset_folder": str(dataset_folder),
        "dataset_split": dataset_split,
        "encoder_model_name": encoder_model_name,
        "prepared": str(data.path.resolve()),
        "data_fingerprint": data.fingerprint,
        "items_fingerprint": data.items_fingerprint,
        "seed": seed,
    }
    title = (
        f"{data.meta['name']}: {data.num_items:,} items, embeddings of width {width}; {tokenizer}"
    )
    if tokenizer != MODEL_NAME:
        fit_settings = KMeansSettings(
            codebook_sizes=tuple(per_level("vae_codebook_size", vae_codebook_size, vae_n_layers)),
            balanced=tokenizer == "balanced_residual_kmeans",
            num_iters=kmeans_iters,
            max_samples=kmeans_max_samples,
            seed=seed,
        )
        open_run(session, meta, config_text=operative_config())
        session.say(f"{title}, {fit_settings.codebook_sizes} codes; run {session.run_dir.path}")
        quantizer, result = train_residual_kmeans(session, items, fit_settings)
        finish_stage_one(session, quantizer, items, result, data, policy=collision_policy)
        return
    scale = vae_feature_scale
    model = RqVae(
        width,
        embed_dim=vae_embed_dim,
        hidden_dims=vae_hidden_dims,
        codebook_size=vae_codebook_size,
        codebook_kmeans_init=use_kmeans_init,
        codebook_normalize=vae_codebook_normalize,
        codebook_sim_vq=vae_sim_vq,
        codebook_mode=vae_codebook_mode,
        codebook_last_layer_mode=vae_codebook_last_layer_mode,
        n_layers=vae_n_layers,
        n_cat_features=vae_n_cat_feats,
        commitment_weight=commitment_weight,
        mlp=MlpSettings(
            activation=vae_activation,
            dropout=vae_dropout,
            batch_norm=vae_batch_norm,
            weight_init=vae_weight_init,
        ),
        features=FeatureSettings(
            scale=feature_scale(items, num_categorical=vae_n_cat_feats) if scale is None else scale,
            normalize_input=normalize_input,
            normalize_output=normalize_output,
        ),
        losses=LossSettings(
            recon_weight=recon_weight,
            quant_loss_weight=quant_loss_weight,
            codebook_weight=codebook_weight,
            separation_weight=separation_weight,
            recon_kind=recon_kind,
            recon_reduction=recon_reduction,
            level_reduction=level_reduction,
        ),
        quantizer=QuantizerSettings(
            distance=distance,
            codebook_update=codebook_update,
            ema_decay=ema_decay,
            dead_code_steps=dead_code_steps,
            sinkhorn_epsilon=sinkhorn_epsilon,
            sinkhorn_iters=sinkhorn_iters,
        ),
    )
    if pretrained_rqvae_path is not None:
        model.load_pretrained(pretrained_rqvae_path)
    meta["parameters"] = sum(p.numel() for p in model.parameters())
    open_run(session, meta, config_text=operative_config())
    session.say(f"{title}, {model.codebook_sizes} codes; run {session.run_dir.path}")
    result = train_rqvae(session, model, items, settings)
    finish_stage_one(session, model.eval(), items, result, data, policy=collision_policy)

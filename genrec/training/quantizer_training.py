"""The training of a tokenizer: an RQ-VAE by gradient, or a quantiser that is fitted.

Shape legend: N = items, X = features, B = batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from accelerate.utils import broadcast
from torch import Tensor, nn

from genrec.data.item_dataset import ItemData
from genrec.data.prepared import PreparedDataset
from genrec.data.text.fused_space import SPACE_NAME, FusedSpace
from genrec.data.text.kept_encoder import copy_encoder
from genrec.data.text.known_vectors import KnownVectors
from genrec.errors import ConfigError
from genrec.evaluation.codebook import (
    CodebookReport,
    Described,
    collapse_alarms,
    collision_advice,
    evaluate_codebook,
    many_collide,
)
from genrec.models.rqvae import QuantizeForwardMode, RqVae
from genrec.modules.quantize.residual import per_level
from genrec.registry import QUANTIZERS, find
from genrec.tokenizer.quantizer import ItemQuantizer
from genrec.tokenizer.semantic_id import ARTIFACT_NAME, SemanticIdTokenizer
from genrec.training.item_loader import ItemLoader, ItemRows, feature_scale, load_items
from genrec.training.loop import BestRule, FitResult, Learner, fit
from genrec.training.optimizer import build_optimizer, build_schedule
from genrec.training.seeding import mix_seed
from genrec.training.session import Session

if TYPE_CHECKING:
    from genrec.training.rqvae import RqVaeSettings

__all__ = ["VARIANTS", "QuantizerWork", "build_work", "compare_steps", "evaluate_rqvae"]

BEST_RULES = (
    BestRule("best_loss", "eval/reconstruction_loss", "min"),
    BestRule("best_collision", "eval/collision_rate", "min"),
)
HELD_OUT_RULES = (BestRule("best_loss", "val/reconstruction_loss", "min"), BEST_RULES[1])

#: Other ways to fit a quantiser of the registry: its name there, and what ``fit`` is told.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "balanced_residual_kmeans": ("residual_kmeans", {"balanced": True}),
}


class Training(Protocol):
    """One way to get a quantiser from items."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> int | None: ...
    @property
    def codebook_sizes(self) -> tuple[int, ...]: ...

    def train(self) -> tuple[ItemQuantizer, FitResult]:
        """Train, and leave at least one checkpoint; the quantiser is on the CPU and frozen."""
        ...


@dataclass
class QuantizerWork:
    """A tokenizer's training, and the semantic IDs at its end.

    Attributes:
        session: The run.
        data: The catalogue.
        items: What is trained on, shape ``(N, X)``.
        settings: Of stage one.
        training: How the quantiser comes about.
        space: What turned the data set's vectors into ``items``; None where they are the same.
        quantizer: What came out, once trained.
    """

    session: Session
    data: PreparedDataset
    items: Tensor
    settings: RqVaeSettings
    training: Training
    space: FusedSpace | None = None
    quantizer: ItemQuantizer | None = None

    @property
    def title(self) -> str:
        """What is trained on what."""
        return (
            f"{self.data.meta['name']}: {len(self.items):,} items, embeddings of width "
            f"{self.items.shape[1]}; {self.training.name}, {self.training.codebook_sizes} codes"
        )

    @property
    def meta(self) -> Mapping[str, Any]:
        """What ``meta.json`` says of it."""
        return {
            "stage": "tokenizer",
            "model": self.training.name,
            "encoder_model_name": self.settings.encoder_model_name,
            "parameters": self.training.parameters,
        }

    def save(self, run: Path) -> None:
        """Write the space of the items and what embeds new ones; IDs need the quantiser."""
        copy_encoder(self.data.path, run)
        KnownVectors.of(self.data).save(run)
        if self.space is not None:
            self.space.save(run / SPACE_NAME)

    def train(self) -> FitResult:
        """Train the quantiser and keep it for :meth:`finish`."""
        self.quantizer, result = self.training.train()
        return result

    def finish(self, result: FitResult) -> Mapping[str, Any]:
        """Set the last step beside the best ones, and give every item its ID.

        The IDs are those of the last step: collisions are fewest early, when codes say least
        about the items, so that the step with the fewest is not the best tokenizer.
        """
        assert self.quantizer is not None
        if table := compare_steps(result):
            self.session.say(table)
        statistics: dict[str, Any] = {}
        if self.session.accelerator.is_main_process:
            ids = SemanticIdTokenizer.build(
                self.quantizer,
                self.items.numpy(),
                item_keys=self.data.item_keys,
                policy=self.settings.collision_policy,
            )
            ids.save(self.session.run_dir.path / ARTIFACT_NAME)
            statistics = ids.statistics
            self.session.say(
                f"semantic IDs: {ids.num_items:,} items, {ids.num_levels} levels "
                f"{ids.level_sizes}, policy {self.settings.collision_policy}; "
                f"{_sharing(statistics)}"
            )
            if many_collide(statistics["collision_rate"], statistics["largest_group"]):
                statistics["reassign_cost"] = cost = self._reassign_cost(ids)
                if ids.policy != "reassign":
                    self.session.say(
                        f"advice: {statistics['items_sharing_id']:,} items share their codes "
                        f"before the policy, largest group {statistics['largest_group']}; "
                        + collision_advice(cost, run=str(self.session.run_dir.path))
                    )
        return {"evaluation": result.metrics, "semantic_ids": statistics}

    def _reassign_cost(self, ids: SemanticIdTokenizer) -> float | None:
        """Measure what the policy ``reassign`` costs of R2; None where it has no room."""
        assert self.quantizer is not None
        if len(self.items) > math.prod(self.quantizer.codebook_sizes):
            return None
        if ids.policy != "reassign":
            ids = SemanticIdTokenizer.build(self.quantizer, self.items.numpy(), policy="reassign")
        return float(ids.statistics["added_distortion"])


def _sharing(statistics: Mapping[str, Any]) -> str:
    """Say how many items share an ID, before the policy and after it."""
    before, left = statistics["items_sharing_id"], statistics["left_items_sharing_id"]
    now = f"{left:,} items share an ID" if left else "every item has an ID of its own"
    return f"{now}; before the policy {before:,} shared their codes" if before > left else now


def build_work(session: Session, data: PreparedDataset, settings: RqVaeSettings) -> QuantizerWork:
    """Build the training of a tokenizer; nothing of it refuses any more.

    Raises:
        ConfigError: If a setting is out of range or does not fit the data.
        DataError: If the embeddings are not as they should be.
    """
    width = data.embedding_dim
    if settings.vae_input_dim not in (None, width):
        raise ConfigError(
            f"vae_input_dim must equal the width of the embeddings, {width}, got "
            f"{settings.vae_input_dim}; set train.vae_input_dim={width} or choose another "
            "train.encoder_model_name"
        )
    _check_room(settings, data.num_items)
    vectors: Any = data.item_embeddings
    space = None
    if settings.collaborative_weight > 0:
        if settings.vae_n_cat_feats or settings.replace_non_finite:
            raise ConfigError(
                "collaborative_weight must be 0 with vae_n_cat_feats or replace_non_finite, got "
                f"{settings.collaborative_weight}; repair the embeddings, or set "
                "train.collaborative_weight=0"
            )
        space = FusedSpace.fit(
            data,
            weight=settings.collaborative_weight,
            dim=settings.collaborative_dim,
            window=settings.collaborative_window,
            seed=settings.seed,
            setting="train.collaborative_weight",
        )
        vectors = space.transform(vectors, np.arange(data.num_items))
    items, num_replaced = load_items(
        vectors,
        num_categorical=settings.vae_n_cat_feats,
        replace_non_finite=settings.replace_non_finite,
    )
    if num_replaced:
        session.say(f"warning: {num_replaced} values NaN or Inf in the embeddings, replaced with 0")
    name, options = VARIANTS.get(settings.tokenizer, (settings.tokenizer, {}))
    quantizer = find(QUANTIZERS, name)
    training: Training
    if quantizer is RqVae:
        training = _GradientTraining(session, items, settings)
    else:
        training = _FittedTraining(session, items, settings, quantizer, options)
    return QuantizerWork(session, data, items, settings, training, space)


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


def compare_steps(result: FitResult) -> str:
    """Set the last evaluation beside the best ones, in a table; empty where there was none."""
    by_step = dict(result.history)
    chosen = {"last": result.history[-1][0]} if result.history and result.history[-1][1] else {}
    chosen |= {name: step for name, (step, _) in result.best.items() if step in by_step}
    columns = ("R2", "loss", "collisions", "largest group")
    lines = [f"{'':<15} {'step':>8}" + "".join(f" {name:>13}" for name in columns)]
    for name, step in chosen.items():
        metrics = by_step[step]
        values = (
            f"{metrics.get('eval/r2', float('nan')):.4f}",
            f"{metrics.get('eval/reconstruction_loss', float('nan')):.4f}",
            f"{100 * metrics.get('eval/collision_rate', float('nan')):.2f} %",
            f"{metrics.get('eval/largest_group', float('nan')):.0f}",
        )
        lines.append(f"{name:<15} {step:>8,}" + "".join(f" {value:>13}" for value in values))
    return "\n".join(lines) if chosen else ""


class _FittedTraining:
    """A quantiser that one call fits to the items; every process fits the same."""

    parameters = None

    def __init__(
        self,
        session: Session,
        items: Tensor,
        settings: RqVaeSettings,
        quantizer: Any,
        options: Mapping[str, Any],
    ) -> None:
        self.session, self.items, self.settings = session, items, settings
        self.quantizer, self.options = quantizer, options
        self.name = settings.tokenizer
        sizes = per_level("vae_codebook_size", settings.vae_codebook_size, settings.vae_n_layers)
        self.codebook_sizes = tuple(sizes)

    def train(self) -> tuple[ItemQuantizer, FitResult]:
        session, settings = self.session, self.settings
        accelerator = session.accelerator
        started = time.perf_counter()
        model = self.quantizer.fit(
            self.items,
            codebook_sizes=self.codebook_sizes,
            num_iters=settings.kmeans_iters,
            max_samples=settings.kmeans_max_samples,
            seed=settings.seed,
            device=accelerator.device,
            on_level=lambda level, r2: session.say(f"level {level + 1} fitted | R2 {r2:.4f}"),
            **self.options,
        )
        seconds = time.perf_counter() - started

        def describe(rows: Tensor) -> Described:
            rows = rows.to(accelerator.device).float()
            ids = model.get_semantic_ids(rows)
            codes = model.get_codebook_entry(ids)
            error = (rows - codes).square().sum(dim=1)
            return Described(ids, rows, codes, rows, rows, codes, error)

        report = evaluate_codebook(describe, self.items, codebook_sizes=self.codebook_sizes)
        session.say(str(report))
        for alarm in collapse_alarms(report):
            session.say(f"warning: {alarm}")
        metrics = report.metrics("eval")
        session.tracker.log(1, metrics)
        if accelerator.is_main_process:
            session.run_dir.save(1, weights=model.state_dict(), config=model.config)
        accelerator.wait_for_everyone()
        result = FitResult(step=1, seconds=seconds, metrics=metrics, history=[(1, metrics)])
        return model.to(torch.device("cpu")), result


class _GradientTraining:
    """An RQ-VAE in the loop: losses, evaluations, and the upkeep between epochs."""

    name = "rqvae"

    def __init__(self, session: Session, items: Tensor, settings: RqVaeSettings) -> None:
        accelerator = session.accelerator
        self.session, self.settings = session, settings
        scale = feature_scale(items, num_categorical=settings.vae_n_cat_feats)
        self.model = settings.build_model(items.shape[1], scale)
        if settings.pretrained_rqvae_path is not None:
            self.model.load_pretrained(settings.pretrained_rqvae_path)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.codebook_sizes = self.model.codebook_sizes
        self.items = items.to(accelerator.device)
        self.trained, self.held_out = _share_out(self.items, settings)
        self.loader = ItemLoader(
            self.trained,
            batch_size=session.batch_size(),
            seed=settings.seed,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            accumulate=settings.gradient_accumulate_every,
        )
        _check_balance(self.model, self.loader.batch_size)
        self.rhythm = session.rhythm(len(self.loader), eval_every=settings.eval_every)
        self.model.to(accelerator.device)
        self.optimizer = build_optimizer(self.model.parameters(), settings)
        self.schedule = build_schedule(self.optimizer, settings, num_steps=self.rhythm.num_steps)
        self.optimizer.register_step_post_hook(lambda *_: self.model.update_codebooks())
        self.wrapped, self.prepared = accelerator.prepare(self.model, self.optimizer)
        self.aims: Tensor | None = None  # (N, L)

    def train(self) -> tuple[ItemQuantizer, FitResult]:
        learner = Learner(
            model=self.wrapped,
            config=self.model.config,
            optimizer=self.prepared,
            schedule=self.schedule,
            loader=self.loader,
            loss_step=self.loss_step,
            max_grad_norm=self.settings.max_grad_norm,
            evaluate=self.evaluate if self.settings.do_eval else None,
            best=BEST_RULES if self.held_out is None else HELD_OUT_RULES,
            stateful=self,
            on_epoch_start=self.on_epoch_start,
        )
        result = fit(
            self.session.accelerator,
            learner,
            self.rhythm,
            run_dir=self.session.run_dir,
            resume=self.session.resume_step,
            tracker=self.session.tracker,
            label="stage one",
        )
        return self.model.eval(), result

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.aims is None else {"aims": self.aims}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        aims = state.get("aims")
        self.aims = None if aims is None else aims.to(self.items.device)

    def on_epoch_start(self, epoch: int) -> None:
        settings, quantizer = self.settings, self.model.residual_quantizer
        if quantizer.is_ready:
            if settings.separation_weight > 0 and epoch >= settings.separation_after_epochs:
                self.aims = self.model.separate(self.trained)
            return
        if epoch < settings.kmeans_after_epochs:
            return
        self.model.initialize_codebooks(
            self.trained,
            num_iters=settings.kmeans_iters,
            max_samples=settings.kmeans_max_samples,
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
        out = wrapped(
            batch,
            settings.temperature(step / self.rhythm.num_steps),
            commitment_weight=settings.commitment(step),
            aims=None if self.aims is None else self.aims[batch.rows],
            quantize=self.model.residual_quantizer.is_ready,
        )
        logs = {
            "loss": out.loss,
            "reconstruction_loss": out.reconstruction_loss,
            "rqvae_loss": out.rqvae_loss,
        }
        if (step + 1) % settings.log_every == 0:  # of one batch: they take their time
            logs |= {"p_unique_ids": out.p_unique_ids, "embs_norm": out.embs_norm.mean()}
        return out.loss, logs

    def evaluate(self, model: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(model, RqVae)
        if not model.residual_quantizer.is_ready:
            return {}  # no codes yet, nothing to choose by
        report = evaluate_rqvae(model, self.items)
        metrics = report.metrics("eval")
        self.session.say(f"step {step:,}/{self.rhythm.num_steps:,} | {report}")
        if self.held_out is not None:
            held_out = evaluate_rqvae(model, self.held_out)
            metrics |= held_out.metrics("val")
            self.session.say(f"  held out | R2 {held_out.r2:.4f} | loss {held_out.loss:.4f}")
        for alarm in collapse_alarms(report):
            self.session.say(f"warning: {alarm}")
        return metrics


def _check_room(settings: RqVaeSettings, num_items: int) -> None:
    """Refuse fewer tuples of codes than items where each item shall have one of its own."""
    sizes = per_level("vae_codebook_size", settings.vae_codebook_size, settings.vae_n_layers)
    if settings.collision_policy == "reassign" and math.prod(sizes) < num_items:
        raise ConfigError(
            f"collision_policy 'reassign' must have a tuple of codes an item, got {num_items:,} "
            f"items for {' x '.join(map(str, sizes))}; set a larger train.vae_codebook_size"
        )


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


def _share_out(items: Tensor, settings: RqVaeSettings) -> tuple[Tensor, Tensor | None]:
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

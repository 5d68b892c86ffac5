"""The one training of models over sequences: data, loader, optimiser, validation, test.

A model brings its settings and a :class:`SequenceTask`; loaders yield item ids, and a task that
needs codes looks them up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from genrec.data.batching import TrainingBatches
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset
from genrec.data.schemas import SequenceBatch
from genrec.data.sequence_dataset import SeqData
from genrec.data.text.fused_space import FusedSpace
from genrec.errors import ConfigError
from genrec.evaluation.choice import choose
from genrec.evaluation.compare import compare
from genrec.evaluation.evaluator import Evaluator
from genrec.evaluation.settings import EvaluationSettings
from genrec.evaluation.tables import check_metrics, format_table, write_metrics
from genrec.rankers import Cooccurrence, Ranker, baselines
from genrec.settings import Settings, again, setting
from genrec.trained import load_ranker
from genrec.training.loop import BestRule, FitResult, Learner, fit
from genrec.training.optimizer import OptimizerSettings, build_optimizer, build_schedule
from genrec.training.session import Session, run_training
from genrec.training.settings import RunSettings, TrainingSettings
from genrec.training.tokenizer_run import find_tokenizer, open_data

__all__ = ["LayerSettings", "SequenceSettings", "SequenceTask", "SequenceWork", "train_sequence"]


@dataclass(frozen=True, kw_only=True)
class LayerSettings(Settings):
    """Sizes that every model over sequences has, under names of its own."""

    width: int = setting("Width of item and code vectors", 64, least=1)
    attn_heads: int = setting("Attention heads of a layer", 2, least=1)
    ff_dim: int = setting("Width of the feed-forward layers", 256, least=1)
    dropout_p: float = setting("Dropout on inputs and inside the layers", 0.1, least=0, below=1)


@dataclass(frozen=True, kw_only=True)
class SequenceSettings(OptimizerSettings, TrainingSettings):
    """Settings of every model over sequences."""

    pretrained_rqvae_path: str | None = setting(
        "Stage one's run, or an ID table: its IDs and, without dataset_folder, its data set", None
    )
    batch_size: int = again(RunSettings, "batch_size", 128)
    adam_betas: tuple[float, float] = again(OptimizerSettings, "adam_betas", (0.9, 0.98))
    max_seq_len: int = again(EvaluationSettings, "max_history")
    top_k_eval_list: tuple[int, ...] = again(EvaluationSettings, "ks")
    exclude_history: bool = again(EvaluationSettings, "exclude_history")
    full_eval_every: int = setting(
        "Steps between evaluations of all validation users, which choose the best step; 0 for the "
        "end only",
        0,
        least=0,
    )
    partial_eval_every: int = setting(
        "Steps between evaluations of some of them, which choose nothing; 0 for never", 0, least=0
    )
    partial_eval_users: int = setting(
        "How many some is; the validation loss is theirs too", 1000, least=1
    )
    test_at_end: bool = setting("Evaluate the best step on the test split, once", True)
    train_mode: str = setting(
        "Examples of like length together (bucketed), one pass for every target of a sequence "
        "(packed), or the plain way (padded)",
        "packed",
        choices=("bucketed", "packed", "padded"),
    )
    train_data_subsample: bool = setting(
        "One random example of each user an epoch, instead of all", False
    )
    start_weight: float | None = setting(
        "Start the items' own vectors from their text vectors and from who takes what with what "
        "in the training part, the latter with this share; None for at random",
        None,
        least=0,
        most=1,
    )
    compile_model: bool = setting("Use torch.compile, where its minutes pay off", False)

    def ranking_options(self) -> dict[str, Any]:
        """Say what ranking the model's items takes besides :meth:`evaluation`."""
        return {}

    def ranking_choices(self) -> list[list[dict[str, Any]]]:
        """List such options to choose from on validation at the end, one choice after another."""
        return []

    def start_vectors(self, data: PreparedDataset) -> npt.NDArray[np.float32] | None:
        """Compute what items' own vectors start from, ``(N, X)``; None for at random."""
        if self.start_weight is None:
            return None
        space = FusedSpace.fit(data, weight=self.start_weight, setting="train.start_weight")
        return space.transform(data.item_embeddings, np.arange(data.num_items))

    def evaluation(self) -> EvaluationSettings:
        """Say how the run is evaluated."""
        return EvaluationSettings(
            ks=self.top_k_eval_list,
            exclude_history=self.exclude_history,
            max_history=self.max_seq_len,
        )


class SequenceTask(Protocol):
    """What is particular to one model.

    Attributes:
        name: What tables call it.
        model: A sequence model: ``saved_config()``, ``ranker(catalogue, options)`` and
            ``load_pretrained(path)``.
        catalogue: The items, with codes where the model writes them.
        meta: What ``meta.json`` says of it besides.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def model(self) -> nn.Module: ...  # noqa: D102
    @property
    def catalogue(self) -> Catalogue: ...  # noqa: D102
    @property
    def meta(self) -> Mapping[str, Any]: ...  # noqa: D102

    def loss(self, module: nn.Module, batch: SequenceBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Compute the mean loss over the targets of a batch, and what of it to log."""
        ...

    def save(self, run: Path) -> None:
        """Write what the model needs beside catalogue and steps; on the main process."""


BuildTask = Callable[[PreparedDataset, torch.device], SequenceTask]


def train_sequence(settings: SequenceSettings, build_task: BuildTask) -> Path:
    """Train a model over sequences, keep its best step by validation, and test that once.

    Args:
        settings: What to train on, and how.
        build_task: From the data set and the device to the model and its loss.

    Returns:
        The run's folder.

    Raises:
        GenRecError: If a setting, a path or the data is not as it should be.
    """
    stage_one = None
    if settings.pretrained_rqvae_path is not None:
        stage_one = find_tokenizer(settings.pretrained_rqvae_path, settings.dataset_split)

    def open_it(session: Session) -> PreparedDataset:
        return open_data(settings, stage_one, force=session.accelerator.is_main_process)

    def build(session: Session, data: PreparedDataset) -> SequenceWork:
        if session.resume_step is not None:
            check_metrics(session.run_dir.path)  # which are written at the end
        task = build_task(data, session.accelerator.device)
        return SequenceWork(session, data, settings, task)

    return run_training(settings, open_it, build)


class SequenceWork:
    """A model's training, built so that nothing of it refuses any more.

    Args:
        session: The run.
        data: The data set.
        settings: How to train.
        task: The model and its loss.

    Raises:
        ConfigError: If a setting is out of range or does not fit the data.
    """

    def __init__(
        self,
        session: Session,
        data: PreparedDataset,
        settings: SequenceSettings,
        task: SequenceTask,
    ) -> None:
        self.session, self.data, self.settings, self.task = session, data, settings, task
        accelerator = session.accelerator
        self.loader = TrainingBatches(
            SeqData(data, "train", max_history=settings.max_seq_len),
            batch_size=session.batch_size(),
            mode=settings.train_mode,
            seed=settings.seed,
            one_per_user=settings.train_data_subsample,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            accumulate=settings.gradient_accumulate_every,
            device=accelerator.device,
        )
        self.rhythm = session.rhythm(
            len(self.loader),
            eval_every=math.gcd(settings.partial_eval_every, settings.full_eval_every),
        )
        self.parameters = sum(p.numel() for p in task.model.parameters())
        self.config = task.model.saved_config()  # type: ignore[operator]
        self.options = asdict(settings.evaluation()) | settings.ranking_options()
        model = task.model.to(accelerator.device)
        compiled: Any = torch.compile(model, dynamic=True) if settings.compile_model else model
        optimizer = build_optimizer(model.parameters(), settings)
        self.prepared, self.optimizer = accelerator.prepare(compiled, optimizer)
        self.schedule = build_schedule(optimizer, settings, num_steps=self.rhythm.num_steps)
        self.validator = None
        if settings.do_eval:
            self.validator = _Validator(self)
            if settings.test_at_end:
                self.evaluator("test")  # what it refuses, it refuses before anything is written

    @property
    def title(self) -> str:
        """What is trained on what."""
        return (
            f"{self.data.meta['name']}: {self.data.num_users:,} users, "
            f"{self.data.num_items:,} items; {self.task.name}, {self.parameters:,} parameters"
        )

    @property
    def meta(self) -> Mapping[str, Any]:
        """What ``meta.json`` says of it."""
        return {
            "stage": "retrieval",
            "model": self.config["model"],
            "parameters": self.parameters,
            "evaluation": self.options,
            **self.task.meta,
        }

    def save(self, run: Path) -> None:
        """Write the items that the run knows, and what the task adds."""
        self.task.catalogue.save(run)
        self.task.save(run)

    def evaluator(self, split: str, *, limit: int | None = None) -> Evaluator:
        """Prepare to rank all items for the users of a split."""
        examples = SeqData(self.data, split, max_history=self.settings.max_seq_len)
        if len(examples) == 0:
            raise ConfigError(
                f"{split} needs users with at least 3 interactions, got none; use more data or "
                "another split rule, or set train.do_eval=False"
            )
        how = self.settings.evaluation()
        return Evaluator(
            examples,
            num_items=self.data.num_items,
            groups=self.task.catalogue.groups,
            ks=how.ks,
            processes=self.session.accelerator,
            budget=how.budget,
            max_rows=how.max_rows,
            limit=limit,
        )

    def ranker(self, model: nn.Module) -> Ranker:
        """Put the model, with the weights that it has now, behind the contract."""
        found: Ranker = model.ranker(self.task.catalogue, self.options)  # type: ignore[operator]
        return found

    def train(self) -> FitResult:
        """Train."""
        validator = self.validator
        learner = Learner(
            model=self.prepared,
            config=self.config,
            optimizer=self.optimizer,
            schedule=self.schedule,
            loader=self.loader,
            loss_step=self._loss_step,
            max_grad_norm=self.settings.max_grad_norm,
            evaluate=validator,
            best=() if validator is None else (BestRule("best", f"valid/{validator.chooser}"),),
        )
        return fit(
            self.session.accelerator,
            learner,
            self.rhythm,
            run_dir=self.session.run_dir,
            resume=self.session.resume_step,
            tracker=self.session.tracker,
            label=self.task.name,
        )

    def finish(self, result: FitResult) -> Mapping[str, Any]:
        """Say which step is best and whether counting beats it, and read the test split once."""
        session = self.session
        for name, (step, value) in result.best.items():
            session.say(f"{name}: step {step:,} with validation {value:.4f}")
        if not self.settings.do_eval:
            return {}
        choices, reached = self._choose_options()
        gained = self._beside_cooccurrence(result, reached)
        if self.settings.test_at_end:
            self._test(result.step, choices)
        return {**gained, "evaluation": self.options | choices[-1]}

    def _choose_options(self) -> tuple[list[dict[str, Any]], float | None]:
        """Try on validation what may be chosen at the end.

        Gives the options before, and after each choice, and what the last of them reach.
        """
        session, hide = self.session, self.settings.exclude_history
        own = self.settings.as_dict()
        chosen: list[dict[str, Any]] = [{}]
        reached = None
        for choices in filter(None, self.settings.ranking_choices()):
            evaluator = self.evaluator("valid")
            name = evaluator.chooser.replace("recall", "ndcg")
            recalls, ranks = [], []
            for choice in choices:
                ranker = self._load(chosen[-1] | choice)
                metrics, found = evaluator.run_with_ranks(ranker, hide_history=hide)
                recalls.append(metrics[evaluator.chooser])
                ranks.append(found)
                said = ", ".join(f"{key} {value:g}" for key, value in choice.items())
                session.say(
                    f"valid with {said}: {evaluator.chooser} {metrics[evaluator.chooser]:.4f}, "
                    f"{name} {metrics[name]:.4f}"
                )
            usual = next((i for i, one in enumerate(choices) if one.items() <= own.items()), None)
            best = choose(ranks, name, usual)
            chosen.append(chosen[-1] | choices[best])
            kept = ", ".join(f"{key} {value:g}" for key, value in choices[best].items())
            why = "" if best != usual else ", as set: none is better by a standard error"
            session.say(f"kept, by validation {name}: {kept}{why}")
            reached = recalls[best]
        return chosen, reached

    def _beside_cooccurrence(self, result: FitResult, reached: float | None) -> dict[str, Any]:
        """Set the best step, as it is used, beside co-occurrence on validation; warn if it loses.

        ``reached`` is its value with the options that were chosen, None where none were.
        """
        if self.validator is None or "best" not in result.best:
            return {}
        step, value = result.best["best"]
        value = value if reached is None else reached
        evaluator = self.validator.full
        counting = Cooccurrence.fit(self.data, device=self.session.accelerator.device)
        found = evaluator.run(counting, hide_history=self.settings.exclude_history)
        bar = found[evaluator.chooser]
        if value <= bar:
            self.session.say(
                f"warning: validation {evaluator.chooser} {value:.4f} does not beat last-item "
                f"co-occurrence, {bar:.4f}, which only counts: do not serve this run; "
                + _how_to_improve(step, self.rhythm.num_steps, self.settings)
            )
        return {"validation": {evaluator.chooser: value, counting.name: bar}}

    def _test(self, step: int, choices: Sequence[Mapping[str, Any]]) -> None:
        """Read the test split once; of the ways of ranking that have one name the last is meant."""
        session, how = self.session, self.settings.evaluation()
        ways = {ranker.name: ranker for ranker in map(self._load, choices)}
        first = next(iter(ways.values()))
        device = session.accelerator.device
        rankers = {**ways, **baselines(self.data, device=device)}
        results = compare(rankers, self.data, "test", how, session.accelerator)
        tested = {f"test/{key}": value for key, value in results[first.name].items()}
        session.tracker.log(step, tested)
        session.say(format_table(results, "test", ks=how.ks))
        if session.accelerator.is_main_process:
            write_metrics(session.run_dir.path, "test", results, how, first)

    def _load(self, options: Mapping[str, Any]) -> Ranker:
        """Open the run's best step."""
        path, device = self.session.run_dir.path, self.session.accelerator.device
        return load_ranker(path, device=device, **options)

    def _loss_step(
        self, module: nn.Module, batch: SequenceBatch, step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, logs = self.task.loss(module, batch)
        weight = batch.weight  # so that every target of the step counts the same on any process
        return loss * weight, {"loss": loss * weight, **{k: v * weight for k, v in logs.items()}}


def _how_to_improve(step: int, num_steps: int, settings: SequenceSettings) -> str:
    """Say what to change in a run whose best step, of so many, is not good enough."""
    if step > 0.8 * num_steps:
        first = f"it was best near its end, so train longer, {_longer(num_steps, settings)}"
    else:
        first = (
            f"it was best at step {step:,} of {num_steps:,} and then fitted its training data "
            "alone, so set train.dropout_p or train.weight_decay higher, or a smaller model"
        )
    if not hasattr(settings, "num_beams"):
        return first
    return (
        f"{first}; `genrec diagnose {settings.pretrained_rqvae_path}` tells whether the semantic "
        "IDs are good, `genrec train sasrec` what the usual model reaches"
    )


def check_heads(settings: Any, width: str) -> None:
    """Refuse a width, the setting of this name, that heads cannot share out, before any training.

    Raises:
        ConfigError: If they do not fit.
    """
    wide, heads = getattr(settings, width), settings.attn_heads
    if wide % heads:
        fitting = max(count for count in range(1, heads) if wide % count == 0)
        raise ConfigError(
            f"{width} must be a multiple of attn_heads, got {wide} and {heads}; set for example "
            f"train.attn_heads={fitting}"
        )


def _longer(num_steps: int, settings: SequenceSettings) -> str:
    """Name four times the length; of iterations and epochs the shorter counted."""
    if settings.iterations is None or settings.iterations > num_steps:
        return f"for example train.epochs={4 * (settings.epochs or 1):g}"
    no_epochs = "" if settings.epochs is None else " and train.epochs=None"
    return f"for example train.iterations={4 * settings.iterations}{no_epochs}"


class _Validator:
    """Evaluates on validation users: some of them often, all of them when it is time."""

    def __init__(self, work: SequenceWork) -> None:
        self.work = work
        self.full = work.evaluator("valid")
        self.partial = work.evaluator("valid", limit=work.settings.partial_eval_users)
        self.chooser = self.full.chooser

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        work, num_steps = self.work, self.work.rhythm.num_steps
        every = work.settings.full_eval_every
        whole = step == num_steps or bool(every and step % every == 0)
        evaluator, label = (self.full, "valid") if whole else (self.partial, "valid_partial")
        metrics = evaluator.run(work.ranker(model), hide_history=work.settings.exclude_history)
        loss = self._loss(model)
        shown = [self.chooser, self.chooser.replace("recall", "ndcg")]
        work.session.say(
            f"step {step:,}: {label} loss {loss:.4f}, "
            + ", ".join(f"{name} {metrics[name]:.4f}" for name in shown)
            + f" ({int(metrics['users']):,} targets, {metrics['users_per_s']:,.0f} a second)"
        )
        return {f"{label}/{k}": v for k, v in metrics.items()} | {"valid/loss": loss}

    def _loss(self, model: nn.Module) -> float:
        """Compute the mean loss over the partial set, on every process alike."""
        accelerator = self.work.session.accelerator
        total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        for rows, batch in self.partial.batches:
            loss, _ = self.work.task.loss(model, batch)
            total += torch.stack([loss.double() * len(rows), loss.new_tensor(len(rows)).double()])
        total = accelerator.reduce(total, reduction="sum")
        return float(total[0] / total[1])

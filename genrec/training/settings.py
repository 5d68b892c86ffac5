"""The groups of settings that trainings share; see :mod:`genrec.settings`."""

from __future__ import annotations

from dataclasses import dataclass

from genrec.data.processed import RecDataset
from genrec.settings import Settings, setting

__all__ = ["DataSettings", "RunSettings", "TrainingSettings"]


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """Where a run lies, how long it takes, and what happens how often."""

    save_dir_root: str = setting(
        "Folder of runs; a run lies in it under its split's name", "runs", outside=True
    )
    resume: bool = setting(
        "Go on from the run's latest checkpoint; begin where there is none", False, outside=True
    )
    resume_changed: bool = setting(
        "Go on with other settings than the run was begun with; meta.json records them",
        False,
        when={"resume": (True,)},
        outside=True,
    )
    overwrite: bool = setting(
        "Replace an older run in the same folder, once this one has its first checkpoint",
        False,
        outside=True,
    )
    seed: int = setting("Start of every random draw: weights, order, dropout, k-means", 0, least=0)
    iterations: int | None = setting(
        "Optimiser steps; the shorter of this and epochs counts", None, least=1, most=1e12
    )
    epochs: float | None = setting("Passes over the training data", None, above=0, most=1e9)
    batch_size: int = setting(
        "Rows of a batch: items, examples, or windows when packed", 256, least=1
    )
    split_batches: bool = setting(
        "Whether batch_size is that of all processes together, or of each", True
    )
    gradient_accumulate_every: int = setting("Batches whose gradients make one step", 1, least=1)
    amp: bool = setting("Mixed precision", False)
    mixed_precision_type: str = setting(
        "Precision with amp", "bf16", choices=("no", "fp16", "bf16")
    )
    do_eval: bool = setting("Evaluate during training and at its end", True)
    patience: int | None = setting(
        "Evaluations without a better one before training stops; None for never", None, least=1
    )
    save_model_every: int = setting(
        "Steps between checkpoints, besides those at evaluations; 0 for none",
        0,
        least=0,
        outside=True,
    )
    save_every_minutes: float = setting(
        "Minutes between checkpoints, besides those by step; 0 for none", 5.0, least=0, outside=True
    )
    peer_timeout_minutes: float = setting(
        "Minutes that a process waits for another that does not answer, such as the first while "
        "it prepares data",
        30.0,
        above=0,
        outside=True,
    )
    log_every: int = setting("Steps between lines of metrics.jsonl", 50, least=1, outside=True)
    wandb_logging: bool = setting("Log to Weights & Biases too", False, outside=True)
    trackers: tuple[str, ...] = setting(
        "Further trackers, of tensorboard, wandb and mlflow", (), outside=True
    )
    recipe: str | None = setting(
        "Name of the recipe that the settings come from, for `genrec runs`", None, outside=True
    )


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """What a run is trained on."""

    dataset: RecDataset | str | None = setting("Kind of the source, for example amazon", None)
    dataset_folder: str | None = setting(
        "The source's files, or a prepared data set; the sample alone needs none", None
    )
    dataset_split: str | None = setting(
        "Part of the release, for example beauty; also the run's folder below save_dir_root", None
    )
    force_dataset_process: bool = setting("Prepare the data set again", False)
    encoder_model_name: str | None = setting(
        "Text encoder: tfidf, a sentence-transformers model, or the path of a .npy array", None
    )
    processed_dir: str | None = setting("Folder where prepared data sets are kept", None)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(RunSettings, DataSettings):
    """What every training has: a run and a data set."""

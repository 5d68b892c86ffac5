"""Where a run finds its data: the source that is named, or what stage one was trained on."""

from __future__ import annotations

from pathlib import Path

from genrec.atomic import read_json
from genrec.data.prepared import PreparedDataset
from genrec.data.processed import RecDataset, load_or_prepare
from genrec.errors import ConfigError, MissingPathError
from genrec.tokenizer.semantic_id import ARTIFACT_NAME

__all__ = ["find_stage_one", "open_data"]


def find_stage_one(path: str | None, split: str | None) -> Path:
    """Find stage one's run, below its split where there is one.

    Args:
        path: The setting ``pretrained_rqvae_path``.
        split: For example ``beauty``, or None.

    Returns:
        A folder with an ID table, or an ``.index.json``.

    Raises:
        ConfigError: If no path is given.
        MissingPathError: If there is no ID table.
    """
    if path is None:
        raise ConfigError(
            "pretrained_rqvae_path must be set, got none; train stage one with "
            "scripts/train_rqvae.py and give its run folder"
        )
    for candidate in ([Path(path) / split] if split else []) + [Path(path)]:
        if (candidate / ARTIFACT_NAME).is_dir() or (candidate / "ids.npy").is_file():
            return candidate
    if Path(path).suffix == ".json" and Path(path).is_file():
        return Path(path)
    where = Path(path) / split if split else Path(path)
    raise MissingPathError(
        f"pretrained_rqvae_path must be a stage-one run with {ARTIFACT_NAME}/, got {where}; train "
        "one with `accelerate launch scripts/train_rqvae.py`, or write its IDs with `genrec "
        "tokenize`"
    )


def open_data(
    stage_one: Path | None,
    dataset: RecDataset | str | None,
    folder: str | None,
    split: str | None,
    encoder: str | None,
    force: bool,
    processed_dir: str | None,
) -> PreparedDataset:
    """Open the data set: the one named, or the one that stage one was trained on.

    Args:
        stage_one: From :func:`find_stage_one`, or None where there is none.
        dataset: Kind of source; stage one's when None.
        folder: The source's files or a prepared data set, or None.
        split: Part of the release.
        encoder: Text encoder of the prepared set; stage one's when None.
        force: Prepare again.
        processed_dir: Where prepared sets are kept.

    Returns:
        The data set.

    Raises:
        GenRecError: If there is no data set, or it is not as it should be.
    """
    run_meta = None if stage_one is None else stage_one / "meta.json"
    known = read_json(run_meta) if run_meta is not None and run_meta.is_file() else {}
    if folder is None:
        if "prepared" not in known:
            silent = f", and {stage_one} does not say on which data it was trained"
            raise ConfigError(
                f"dataset_folder must be set, got none{silent if stage_one else ''}; set "
                "train.dataset_folder"
            )
        return PreparedDataset.load(known["prepared"])
    return load_or_prepare(
        dataset or known.get("dataset_kind", "amazon"),
        folder,
        split=split,
        encoder_model_name=encoder or known.get("encoder_model_name", "tfidf"),
        force=force,
        processed_dir=processed_dir,
    )

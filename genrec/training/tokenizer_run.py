"""Stage one's run as later trainings see it: its IDs, and the data set that it was trained on."""

from __future__ import annotations

from pathlib import Path

from genrec.data.prepared import PreparedDataset
from genrec.data.processed import RecDataset, load_or_prepare
from genrec.digests import read_signed
from genrec.errors import ConfigError, MissingPathError
from genrec.runs import find_run
from genrec.tokenizer.semantic_id import ARTIFACT_NAME, SemanticIdTokenizer
from genrec.training.settings import TrainingSettings

__all__ = ["find_tokenizer", "load_ids", "open_data"]


def find_tokenizer(path: str, split: str | None) -> Path:
    """Find stage one's run, below its split where there is one; without a split the only one.

    Args:
        path: The setting ``pretrained_rqvae_path``.
        split: For example ``beauty``, or None.

    Returns:
        A folder with an ID table, or an ``.index.json``.

    Raises:
        MissingPathError: If there is no ID table.
        ConfigError: If no split says which of several runs is meant.
    """
    for candidate in ([Path(path) / split] if split else []) + [Path(path)]:
        if (candidate / ARTIFACT_NAME).is_dir() or (candidate / "ids.npy").is_file():
            return candidate
    if split is None and ((below := find_run(path, part=ARTIFACT_NAME)) / ARTIFACT_NAME).is_dir():
        return below
    if Path(path).suffix == ".json" and Path(path).is_file():
        return Path(path)
    where = Path(path) / split if split else Path(path)
    raise MissingPathError(
        f"pretrained_rqvae_path must be a stage-one run with {ARTIFACT_NAME}/, got {where}; train "
        "one with `genrec train rqvae`, or write its IDs with `genrec "
        "tokenize`"
    )


def open_data(
    settings: TrainingSettings, stage_one: Path | None, *, force: bool
) -> PreparedDataset:
    """Open the data set: the one named, or the one that stage one was trained on.

    Args:
        settings: Which data set; what is None is stage one's.
        stage_one: From :func:`find_tokenizer`, or None where there is none.
        force: Whether this process may prepare anew, where the settings ask for it.

    Returns:
        The data set.

    Raises:
        GenRecError: If there is no data set, or it is not as it should be.
    """
    run_meta = None if stage_one is None else stage_one / "meta.json"
    known = read_signed(run_meta) if run_meta is not None and run_meta.is_file() else {}
    if settings.dataset_folder is None and "prepared" in known:
        return PreparedDataset.load(known["prepared"])
    if settings.dataset_folder is None:
        kind = None if settings.dataset is None else RecDataset.parse(settings.dataset)
        if kind is not RecDataset.SAMPLE:  # which is written where it is needed
            silent = f", and {stage_one} does not say on which data it was trained"
            raise ConfigError(
                f"dataset_folder must be set, got none{silent if stage_one else ''}; set "
                "train.dataset_folder"
            )
    return load_or_prepare(
        settings.dataset or known.get("dataset_kind", "amazon"),
        settings.dataset_folder,
        split=settings.dataset_split,
        encoder_model_name=settings.encoder_model_name or known.get("encoder_model_name", "tfidf"),
        force=force and settings.force_dataset_process,
        processed_dir=settings.processed_dir,
    )


def load_ids(stage_one: Path, data: PreparedDataset, *, dedup_digit: bool) -> SemanticIdTokenizer:
    """Open the ID table of stage one.

    Args:
        stage_one: From :func:`find_tokenizer`.
        data: The data set, whose items it must be of.
        dedup_digit: Whether to keep the digit that tells items of equal codes apart.

    Returns:
        The table.

    Raises:
        ArtifactError: If it is of other items.
    """
    if stage_one.is_file():  # of another project: its items are known by row alone
        table = SemanticIdTokenizer.from_index_json(stage_one, item_keys=data.item_keys)
    else:
        table = SemanticIdTokenizer.load(stage_one)
        if table.num_items >= data.num_items and table.items_fingerprint != data.items_fingerprint:
            # An extended table keeps the order in which items came, and those that went.
            table = _rows_of(table, data)
    table.check_items(data.items_fingerprint)
    if dedup_digit or not table.has_dedup_digit:
        return table
    return SemanticIdTokenizer(
        table.ids[:, :-1],
        level_sizes=table.level_sizes[:-1],
        item_keys=table.item_keys,
        policy="none",
    )


def _rows_of(table: SemanticIdTokenizer, data: PreparedDataset) -> SemanticIdTokenizer:
    """Bring a table into the order of a data set's items; leave it where it lacks one of them."""
    known = set(table.item_keys)
    return table.select(data.item_keys) if known.issuperset(data.item_keys) else table

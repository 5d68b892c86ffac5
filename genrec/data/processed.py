"""Prepare a data set once and open it ever after.

The folder of a prepared set is named after everything it depends on: the source's files, the
encoder and the options. A second call with the same settings only opens it.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gin
from filelock import FileLock

from genrec.data.options import PrepareOptions
from genrec.data.prepared import PreparedDataset, is_prepared
from genrec.errors import ArtifactError, ConfigError, GenRecError, did_you_mean
from genrec.version import __version__

__all__ = ["RecDataset", "default_processed_dir", "load_or_prepare"]

#: Raised when a change within a version makes other arrays of the same input.
_RECIPE = 3


@gin.constants_from_enum(module="genrec.data.processed")
class RecDataset(enum.Enum):
    """The kinds of source that can be prepared."""

    AMAZON = "amazon"
    ML_100K = "ml-100k"
    ML_1M = "ml-1m"
    ML_20M = "ml-20m"
    ML_25M = "ml-25m"
    ML_32M = "ml-32m"
    ML_LATEST_SMALL = "ml-latest-small"
    SAMPLE = "sample"
    TABLES = "tables"
    RECBOLE = "recbole"

    @classmethod
    def parse(cls, value: RecDataset | str) -> RecDataset:
        """Read a kind from a member, or its name or value in any case; else a ConfigError."""
        if isinstance(value, cls):
            return value
        plain = str(value).strip().lower().replace("_", "-")
        for member in cls:
            if plain == member.value:
                return member
        raise ConfigError(
            f"dataset must be one of the known kinds, got {value!r}; "
            f"{did_you_mean(plain, [member.value for member in cls])}"
        )


def default_processed_dir() -> Path:
    """Give the folder of prepared sets: ``$GENREC_PROCESSED_DIR``, else ``data/processed``."""
    return Path(os.environ.get("GENREC_PROCESSED_DIR") or Path("data") / "processed")


def load_or_prepare(
    dataset: RecDataset | str,
    folder: str | os.PathLike[str] | None,
    *,
    split: str | None = None,
    encoder_model_name: str = "tfidf",
    force: bool = False,
    processed_dir: str | os.PathLike[str] | None = None,
    options: PrepareOptions | None = None,
    reader_options: Mapping[str, Any] | None = None,
    encoder_options: Mapping[str, Any] | None = None,
) -> PreparedDataset:
    """Open a data set, preparing it first where that was not done with these settings.

    Safe to call from several processes at once: one prepares, the others wait and open.

    Args:
        dataset: What kind of source it is.
        folder: The source's files; or a prepared data set, which is opened as it is. None, for
            the sample alone, writes the synthetic shop beside the prepared sets and takes that.
        split: Part of the release, for example ``beauty``.
        encoder_model_name: See :func:`genrec.data.text.encoders.make_encoder`.
        force: Prepare again even where it was done.
        processed_dir: Where prepared sets are kept; None takes :func:`default_processed_dir`.
        options: Filters, order, split and text; None takes the defaults.
        reader_options: More arguments of the source's reader, for example column names.
        encoder_options: More arguments of the encoder.

    Returns:
        The data set.

    Raises:
        ConfigError: If a setting is unknown or out of range, or there is no folder.
        MissingPathError: If the source is not there.
        DataError: If the source does not hold what it should.
    """
    kind = RecDataset.parse(dataset)
    base = Path(processed_dir) if processed_dir is not None else default_processed_dir()
    if folder is None:
        folder = _sample_shop(kind, base)
    if is_prepared(folder):
        if force:
            warnings.warn(
                f"force has no effect on {folder}: it is a prepared data set, not its source",
                stacklevel=2,
            )
        return PreparedDataset.load(folder)
    # Only preparation needs polars and the encoders; opening a prepared set must not.
    from genrec.data.prepare import prepare
    from genrec.data.readers.registry import open_source
    from genrec.data.text.encoders import make_encoder

    options = options or PrepareOptions()
    encoder = make_encoder(encoder_model_name, **(encoder_options or {}))
    with _prepared_by_hand(folder):
        source = open_source(kind.value, folder, split=split, reader_options=reader_options)
    settings = {
        "recipe": (__version__, _RECIPE),
        "dataset": kind.value,
        "split": split,
        "files": [_signature(file) for file in source.files],
        "encoder": encoder.identity,
        "encoder_options": repr(sorted((encoder_options or {}).items())),
        "options": asdict(options),
        "reader_options": repr(sorted((reader_options or {}).items())),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    target = base / "-".join(part for part in (kind.value, split, digest) if part)
    if not force and (found := _open(target)) is not None:
        return found
    base.mkdir(parents=True, exist_ok=True)
    with FileLock(base / f".{target.name}.lock"):
        # Another process may have prepared it while this one waited.
        if not force and (found := _open(target)) is not None:
            return found
        with _prepared_by_hand(folder):
            tables = source.read()
        return prepare(
            tables, target, encoder=encoder, options=options, cache_dir=base / "embeddings"
        )


@contextmanager
def _prepared_by_hand(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Say where options of `genrec prepare` are given: a training has none of them."""
    try:
        yield
    except GenRecError as error:
        told = " ".join(str(error).split())
        if not re.search(r" --[a-z]", told):
            raise
        out = f"data/processed/{Path(folder).resolve().name}"
        how = "" if "genrec prepare" in told else f"; these are options of {_command(folder, out)}"
        error.args = (f"{told}{how}; then train with --data {shlex.quote(out)}",)
        raise


def _command(folder: str | os.PathLike[str], out: str) -> str:
    """Write the command that prepares a folder."""
    return f"`{shlex.join(['genrec', 'prepare', str(folder), '--out', out])}`"


def _sample_shop(kind: RecDataset, base: Path) -> Path:
    """Write the synthetic shop where it is not there yet; other data must have a folder."""
    from genrec.data.sample import write_sample

    if kind is not RecDataset.SAMPLE:
        raise ConfigError(
            f"dataset_folder must be set for {kind.value}, got none; set train.dataset_folder"
        )
    shop = base / "sample"
    shop.mkdir(parents=True, exist_ok=True)
    with FileLock(base / f".{shop.name}.lock"):
        if not (shop / "interactions.csv").is_file():  # written last
            write_sample(shop)
    return shop


def _open(path: Path) -> PreparedDataset | None:
    """Open a prepared set; None where there is none, or one that is damaged or outdated."""
    if not is_prepared(path):
        return None
    try:
        return PreparedDataset.load(path)
    except ArtifactError:
        return None


def _signature(file: Path) -> tuple[str, int, int]:
    """Describe a file by name, size and time: reading gigabytes to find them unchanged is slow."""
    status = file.stat()
    return str(file.resolve()), status.st_size, status.st_mtime_ns

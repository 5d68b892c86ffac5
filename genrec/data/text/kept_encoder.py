"""The encoder of a catalogue, kept beside its vectors so that items added later get theirs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from genrec.atomic import read_json, write_json_atomic
from genrec.data.text.encoders import SentenceTransformerEncoder, TextEncoder
from genrec.data.text.tfidf import FittedTfidf
from genrec.digests import sealed, verify
from genrec.errors import ArtifactError, DataError, MissingPathError

__all__ = ["ENCODER_NAME", "KeptEncoder", "copy_encoder", "load_encoder", "save_encoder"]

ENCODER_NAME = "encoder"  # folder inside a prepared data set and inside a run


@dataclass(frozen=True)
class KeptEncoder:
    """What embedded a catalogue.

    Attributes:
        encoder: Embeds new items into the same space.
        text_template: The template that made the texts, or None where there was none.
        columns: Names that a user gave for the columns of the tables, by their roles.
    """

    encoder: TextEncoder
    text_template: str | None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _NoEncoder:
    """Stands for vectors that a user brought: no text gives more of them."""

    name: str
    cacheable: ClassVar[bool] = False

    @property
    def identity(self) -> str:
        return self.name

    def encode(self, texts: Sequence[str], *, item_keys: Sequence[str] | None = None) -> Any:
        raise DataError(
            f"items must bring their vectors, as those of the catalogue did ({self.name}), got "
            "texts; give vectors too (--encoder FILE.npy, with those of all items)"
        )


def save_encoder(
    folder: Path,
    encoder: TextEncoder | str,
    *,
    text_template: str | None,
    columns: Mapping[str, Any] | None = None,
) -> None:
    """Keep an encoder as ``encoder/`` in a folder.

    Args:
        folder: An existing folder.
        encoder: The encoder; where the vectors came from, in words, when nothing computed them.
        text_template: The template that made the texts.
        columns: See :class:`KeptEncoder`; JSON values.
    """
    target = folder / ENCODER_NAME
    target.mkdir()
    kind, name = "vectors", encoder if isinstance(encoder, str) else encoder.name
    more: dict[str, Any] = {}
    if isinstance(encoder, FittedTfidf):
        kind = "tfidf"
        encoder.save(target)
    elif isinstance(encoder, SentenceTransformerEncoder):
        kind, more = "sentence-transformers", {"normalize": encoder.normalize}
    described = {"kind": kind, "name": name, "text_template": text_template, **more}
    described["columns"] = dict(columns or {})
    write_json_atomic(target / "meta.json", sealed(target, described))


def load_encoder(path: str | os.PathLike[str], **options: Any) -> KeptEncoder:
    """Open the encoder of a prepared data set or of a stage-one run.

    Args:
        path: The folder.
        options: More arguments of a sentence-transformers encoder.

    Returns:
        The encoder; that of vectors which a user brought refuses when it is asked for some.

    Raises:
        MissingPathError: If the folder keeps none.
        ArtifactError: If it is damaged.
    """
    folder = Path(path) / ENCODER_NAME
    if not (folder / "meta.json").is_file():
        raise MissingPathError(
            "--like must be a prepared data set or a stage-one run that keeps its encoder, got "
            f"{path}; give one that this version made"
        )
    meta = read_json(folder / "meta.json")
    fix = "prepare the data again and train on it"
    verify(folder, meta, what=f"{ENCODER_NAME}/", fix=fix)
    needed = {"name", "kind", "text_template"}
    if meta.get("kind") == "sentence-transformers":
        needed.add("normalize")
    if not needed <= set(meta):
        raise ArtifactError(
            f"{ENCODER_NAME}/meta.json must name the encoder, got {folder} with "
            f"{', '.join(meta) or 'nothing'}; {fix}"
        )
    encoder: TextEncoder = _NoEncoder(meta["name"])
    if meta["kind"] == "tfidf":
        try:
            encoder = FittedTfidf.load(folder, meta["name"])
        except (OSError, ValueError, EOFError) as error:
            raise ArtifactError(
                f"{ENCODER_NAME}/ must be complete, got {folder} with {error}; {fix}"
            ) from error
    elif meta["kind"] == "sentence-transformers":
        encoder = SentenceTransformerEncoder(meta["name"], normalize=meta["normalize"], **options)
    return KeptEncoder(encoder, meta["text_template"], meta.get("columns", {}))


def copy_encoder(source: Path, target: Path) -> None:
    """Copy the encoder of one folder into another, without using space twice where links can.

    Args:
        source: A prepared data set; one that keeps no encoder leaves nothing.
        target: An existing folder; an encoder in it is replaced.
    """
    if not (source / ENCODER_NAME).is_dir():
        return
    shutil.rmtree(target / ENCODER_NAME, ignore_errors=True)
    shutil.copytree(source / ENCODER_NAME, target / ENCODER_NAME, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    """Link a file, which nobody writes in place, or copy it to another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

"""``genrec prepare``: from files, or the name of a release, to a prepared data set."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from genrec.commands import add_command, as_typed
from genrec.errors import ConfigError, DataError, MissingPathError, did_you_mean

__all__ = ["PrepareArguments", "app_command", "prepare_source"]

_MIB = 1 << 20

#: What messages of the library call otherwise than the options here.
_OPTIONS = {
    "dataset": "--dataset",
    "encoder_model_name": "--encoder",
    "min_item_interactions": "--min-item",
    "min_rating": "--min-rating",
    "min_user_interactions": "--min-user",
    "repeats": "--repeats",
    "split_rule": "--split-rule",
    "test_share": "--test-share",
    "ties": "--ties",
    "valid_share": "--valid-share",
}


@dataclass(frozen=True, kw_only=True)
class PrepareArguments:
    """What ``genrec prepare`` is told."""

    source: Annotated[str, typer.Argument(help="Folder of files, or a release: beauty, ml-1m, ...")]
    out: Annotated[Path, typer.Option(help="Folder to write.")]
    dataset: Annotated[
        str | None, typer.Option(help="Kind of source, e.g. amazon or tables. [by its files]")
    ] = None
    split: Annotated[str | None, typer.Option(help="Part of a release, e.g. beauty.")] = None
    encoder: Annotated[
        str | None,
        typer.Option(
            help="tfidf[:width], a sentence-transformers model, or vectors in .npy. [that of "
            "--like, else tfidf]"
        ),
    ] = None
    like: Annotated[
        Path | None,
        typer.Option(
            help="A prepared data set or stage-one run: embed with its encoder, so that new "
            "items of its catalogue lie among the old; names of columns are kept too."
        ),
    ] = None
    encoder_processes: Annotated[
        int, typer.Option(help="Processes of a sentence-transformers model.")
    ] = 1
    ray: Annotated[
        int | None, typer.Option(min=1, help="Embed the texts on so many workers of Ray.")
    ] = None
    vector_keys: Annotated[
        Path | None, typer.Option(help="Item keys of the rows of a .npy, one a line.")
    ] = None
    replace_non_finite: Annotated[bool, typer.Option(help="Put 0 for NaN and Inf in a .npy.")] = (
        False
    )
    text_template: Annotated[
        str | None, typer.Option(help="e.g. 'Title: {title}; Brand: {brand}'.")
    ] = None
    items: Annotated[str | None, typer.Option(help="Items table below SOURCE.")] = None
    interactions: Annotated[str | None, typer.Option(help="Interactions table below SOURCE.")] = (
        None
    )
    user_column: Annotated[str | None, typer.Option()] = None
    item_column: Annotated[str | None, typer.Option()] = None
    time_column: Annotated[
        str | None, typer.Option(help="'' reads none: the order of the file counts.")
    ] = None
    rating_column: Annotated[str | None, typer.Option()] = None
    item_key_column: Annotated[
        str | None, typer.Option(help="Id of an item in the items table.")
    ] = None
    title_column: Annotated[str | None, typer.Option()] = None
    text_column: Annotated[
        list[str] | None, typer.Option(help="Text of an item; give it again for more.")
    ] = None
    vector_column: Annotated[str | None, typer.Option()] = None
    time_format: Annotated[
        str | None, typer.Option(help="Format of text times, e.g. '%d/%m/%Y %H:%M'.")
    ] = None
    time_unit: Annotated[str | None, typer.Option(help="s, ms, us or ns. [guessed]")] = None
    separator: Annotated[str | None, typer.Option(help="Of CSV files. [guessed]")] = None
    encoding: Annotated[str | None, typer.Option(help="Of CSV files. [utf-8]")] = None
    min_rating: Annotated[float | None, typer.Option(help="Drop interactions rated lower.")] = None
    k_core: Annotated[
        int | None, typer.Option(help="Fewest interactions of a user and of an item.")
    ] = None
    min_user: Annotated[int | None, typer.Option(help="Fewest of a user.")] = None
    min_item: Annotated[int | None, typer.Option(help="Fewest of an item.")] = None
    repeats: Annotated[
        str, typer.Option(help="Of a user's interactions with an item: all, first, last.")
    ] = "all"
    ties: Annotated[
        str, typer.Option(help="Order at the same time: by item, or as in the file.")
    ] = "item"
    split_rule: Annotated[str, typer.Option(help="leave-one-out or global-time.")] = "leave-one-out"
    valid_share: Annotated[float, typer.Option(help="For global-time.")] = 0.1
    test_share: Annotated[float, typer.Option(help="For global-time.")] = 0.1
    keep_unseen_items: Annotated[
        bool, typer.Option(help="Keep items that nobody interacted with.")
    ] = False
    items_only: Annotated[
        bool, typer.Option(help="A catalogue without interactions, for stage one alone.")
    ] = False
    raw_dir: Annotated[Path, typer.Option(help="Where fetched files are kept.")] = Path("data/raw")
    force: Annotated[
        bool, typer.Option(help="Replace a prepared data set, on which runs may rest.")
    ] = False

    def reader_options(self) -> dict[str, Any]:
        """Gather what the reader of the source is told; nothing that was not given."""
        from genrec.data.readers.table_columns import TableColumns

        named = {
            "user": self.user_column,
            "item": self.item_column,
            "time": self.time_column,
            "rating": self.rating_column,
            "item_key": self.item_key_column,
            "title": self.title_column,
            "text": tuple(self.text_column or ()) or None,
            "vector": self.vector_column,
            "time_format": self.time_format,
            "time_unit": self.time_unit,
        }
        columns = {role: name for role, name in named.items() if name is not None}
        options = {
            "items": self.items,
            "interactions": self.interactions,
            "separator": self.separator,
            "encoding": self.encoding,
            "items_only": self.items_only or None,
            "columns": TableColumns(**columns) if columns else None,  # type: ignore[arg-type]
        }
        return {name: value for name, value in options.items() if value is not None}

    def encoder_options(self) -> dict[str, Any]:
        """Gather what the encoder is told: each kind takes its own."""
        if self.encoder is not None and self.encoder.endswith(".npy"):
            return {"keys": self.vector_keys, "replace_non_finite": self.replace_non_finite}
        return {} if self.encoder_processes == 1 else {"num_processes": self.encoder_processes}

    def prepare_options(self) -> Any:
        """Gather the :class:`genrec.data.options.PrepareOptions`."""
        from genrec.data.options import PrepareOptions

        return PrepareOptions(
            min_user_interactions=self.k_core if self.min_user is None else self.min_user,
            min_item_interactions=self.k_core if self.min_item is None else self.min_item,
            min_rating=self.min_rating,
            repeats=self.repeats,  # type: ignore[arg-type]
            ties=self.ties,  # type: ignore[arg-type]
            split_rule=self.split_rule,
            valid_share=self.valid_share,
            test_share=self.test_share,
            text_template=self.text_template,
            keep_unseen_items=self.keep_unseen_items,
        )


def prepare_source(
    source: str,
    out: Path,
    *,
    dataset: str | None = None,
    split: str | None = None,
    encoder_model_name: str | None = None,
    options: Any = None,
    reader_options: dict[str, Any] | None = None,
    encoder_options: dict[str, Any] | None = None,
    raw_dir: Path = Path("data") / "raw",
    like: Path | None = None,
    ray: int | None = None,
    force: bool = False,
) -> Any:
    """Prepare a source into a folder and print its card.

    Args:
        source: Folder of a release or of tables, or the name of a release to fetch.
        out: Folder to write; must be new or empty, or with ``force`` a prepared data set.
        dataset: Kind of source; None tells by the files.
        split: Part of a release.
        encoder_model_name: See :func:`genrec.data.text.encoders.make_encoder`; None takes that
            of ``like``, else ``tfidf``.
        options: A :class:`genrec.data.options.PrepareOptions`; None takes the defaults.
        reader_options: More arguments of the source's reader.
        encoder_options: More arguments of the encoder.
        raw_dir: Where fetched files are kept.
        like: A prepared data set or a stage-one run whose encoder, text template and names of
            columns to use, so that items added to its catalogue get vectors that can be compared
            with the old ones.
        ray: Embed the texts on so many workers of Ray; None embeds them here.
        force: Replace a prepared data set, on which runs may rest.

    Returns:
        The :class:`genrec.data.prepared.PreparedDataset`.

    Raises:
        GenRecError: If anything about the source, the folder or the options is wrong.
    """
    from genrec.data.card import format_card
    from genrec.data.options import PrepareOptions
    from genrec.data.prepare import prepare
    from genrec.data.processed import RecDataset
    from genrec.data.readers.registry import detect_kind, open_source
    from genrec.data.readers.table_columns import TableColumns
    from genrec.data.text.encoders import make_encoder
    from genrec.data.text.kept_encoder import load_encoder

    start = time.perf_counter()
    _check_out(out, force=force)
    options = options or PrepareOptions()
    named_texts = getattr((reader_options or {}).get("columns"), "text", ())
    if options.text_template and named_texts:
        warnings.warn(
            f"--text-column has no effect beside --text-template, got {', '.join(named_texts)}; "
            "leave one of them out",
            stacklevel=2,
        )
    if like is not None:
        kept = load_encoder(like, **({} if encoder_model_name else encoder_options or {}))
        template = options.text_template or kept.text_template
        options = replace(options, text_template=template)
    if like is None or encoder_model_name is not None:
        encoder = make_encoder(encoder_model_name or "tfidf", **(encoder_options or {}))
    else:
        encoder = kept.encoder
    folder, kind, part = _locate(source, raw_dir)
    part = split or part
    kind = RecDataset.parse(dataset).value if dataset else kind or detect_kind(folder, part)
    reader_options = dict(reader_options or {})
    if like is not None and kind == RecDataset.TABLES.value and kept.columns:
        named = {**kept.columns, "text": tuple(kept.columns.get("text", ()))}
        reader_options["kept_columns"] = TableColumns(**named)
    opened = open_source(kind, folder, split=part, reader_options=reader_options)
    how: dict[str, Any] = {}
    if ray is not None:
        from genrec.serving.ray import embed_on

        how["embed"] = embed_on(ray)
    prepared = prepare(
        opened.read(),
        out,
        encoder=encoder,
        options=options,
        cache_dir=raw_dir / ".embeddings",
        **how,
    )
    print(format_card(prepared.meta["card"]))
    left_out = prepared.meta["card"]["items_left_out_without_interactions"]
    if like is not None and left_out:
        print(f"\n{left_out:,} items that nobody took are left out; --keep-unseen-items keeps them")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / _MIB
    print(f"\nwrote {out} ({size:.1f} MiB) in {time.perf_counter() - start:.1f} s")
    return prepared


def _locate(source: str, raw_dir: Path) -> tuple[Path, str | None, str | None]:
    """Find the folder of a source, fetching a release by its name; tell kind and split."""
    from genrec.data.fetch.releases import RELEASE_NAMES, fetch_release, find_release

    folder = Path(source)
    if folder.is_dir():
        return folder, None, None
    if folder.is_file():
        raise ConfigError(
            f"SOURCE must be a folder or the name of a release, got the file {source}; give its "
            f"folder and name the tables, --interactions {folder.name} --items <items file>"
        )
    release = find_release(source)
    if release is None:
        raise MissingPathError(
            f"SOURCE must be an existing folder or a release that can be fetched, got {source!r}; "
            f"{did_you_mean(source, RELEASE_NAMES)}"
        )
    return fetch_release(release, raw_dir), release.kind, release.split


def _check_out(out: Path, *, force: bool) -> None:
    """Refuse a folder whose content would be lost: the result replaces the whole folder."""
    from genrec.data.prepared import PREPARED

    PREPARED.check_replaceable(out, "--out")
    if PREPARED.is_at(out) and not force:
        raise ConfigError(
            f"--out must be a new or empty folder, got the prepared data set {out}, on which runs "
            "may rest; choose another folder, or add --force to replace it"
        )


def app_command(app: typer.Typer) -> None:
    """Add the command to an application."""

    def work(told: PrepareArguments) -> None:
        from genrec.data.readers.table_columns import MissingColumns

        tables = told.interactions is not None or told.items is not None
        try:
            prepare_source(
                told.source,
                told.out,
                dataset=told.dataset or ("tables" if tables else None),
                split=told.split,
                encoder_model_name=told.encoder,
                options=told.prepare_options(),
                reader_options=told.reader_options(),
                encoder_options=told.encoder_options(),
                raw_dir=told.raw_dir,
                like=told.like,
                ray=told.ray,
                force=told.force,
            )
        except MissingColumns as missing:
            raise DataError(
                f"{missing.question}; name them{missing.note}, for example "
                f"{as_typed('prepare', told)} {missing.options}"
            ) from None

    about = "Prepare a data set for training; prints its data card."
    add_command(app, "prepare", PrepareArguments, work, about=about, options=_OPTIONS)

"""Prepare a data set: from a reader's tables to the folder that training reads.

Shape legend: N = items, U = users, M = interactions, D = width of the embeddings.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.data import splits
from genrec.data.card import DataCard, history_quantiles, time_span
from genrec.data.options import PrepareOptions
from genrec.data.prepared import PREPARED, PreparedDataset, write_prepared
from genrec.data.tables import (
    ITEM,
    RATING,
    TIME,
    USER,
    Interactions,
    RawTables,
    encode_keys,
    k_core,
    order_rule,
    ordered,
    without_duplicates,
    without_repeats,
)
from genrec.data.text.encoders import TextEncoder, embed_texts, fitted
from genrec.data.text.item_text import clean_text, parse_template, render_text, shorten
from genrec.data.text.kept_encoder import save_encoder
from genrec.errors import ConfigError, DataError

__all__ = ["prepare"]


def prepare(
    raw: RawTables,
    out: str | os.PathLike[str],
    *,
    encoder: TextEncoder,
    options: PrepareOptions | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    embed: Callable[..., npt.NDArray[np.floating[Any]]] = embed_texts,
) -> PreparedDataset:
    """Filter, order, number, split and embed a data set, and write it.

    Args:
        raw: What a reader gave.
        out: The folder to write; an older one is replaced when all is done.
        encoder: Text encoder; not asked where the source brings vectors.
        options: What to do; the defaults keep everything.
        cache_dir: Folder of the embedding cache; None keeps none.
        embed: What embeds, for example on several machines.

    Returns:
        The prepared data set; its card is in ``meta["card"]``.

    Raises:
        DataError: If nothing is left, or the tables do not fit each other.
        ConfigError: If an option asks for what the source does not have, or something else lies
            where the data set shall be.
    """
    PREPARED.check_replaceable(out, "place to prepare into")
    options = _with_defaults(options or PrepareOptions(), raw)
    if raw.items_only:
        options = replace(options, keep_unseen_items=True)
    card = DataCard(raw.name, raw.source)
    rows, user_keys, item_keys = _filtered(raw, options, card)
    rows, user_keys = _compact_users(rows, user_keys)
    num_left_out = 0 if options.keep_unseen_items else _num_never_taken(raw, item_keys)
    rows, item_keys, num_unseen = _compact_items(rows, raw, item_keys, options)
    offsets = np.zeros(len(user_keys) + 1, dtype=np.int64)  # (U + 1,)
    np.cumsum(np.bincount(rows.users, minlength=len(user_keys)), out=offsets[1:])
    train_ends, valid_ends = _split(rows, offsets, options)
    items = _describe_items(raw, item_keys, options)
    keys = item_keys.cast(pl.String).to_list()
    used: TextEncoder | str = "the source's own vectors"
    if items.vectors is not None:
        embeddings = items.vectors
    else:
        used = fitted(encoder, items.texts)
        embeddings = embed(used, items.texts, item_keys=keys, cache_dir=cache_dir)
    encoder_name = used if isinstance(used, str) else used.name
    card.note(
        **_statistics(rows, offsets, train_ends, valid_ends, len(keys)),
        items_without_interactions=num_unseen,
        items_left_out_without_interactions=num_left_out,
        items_without_metadata=items.num_without_row,
        items_without_text=items.num_without_text,
        share_of_items_without_text=round(items.num_without_text / len(keys), 6),
        different_texts=len(set(items.texts)),
        metadata_rows_of_other_items=items.num_unused_rows,
        repeated_metadata_rows=items.num_repeated_rows,
        order=order_rule(has_time=rows.times is not None, ties=options.ties),
        split=splits.SPLIT_RULES[options.split_rule],
        encoder=encoder_name,
        options=asdict(options),
        **raw.notes(options.text_template or ""),
        rejected=raw.rejected.as_list(),
        repaired=raw.rejected.repaired_list(),
    )
    if rows.times is not None and len(rows):
        card.note(
            time_span=time_span(int(rows.times.min()), int(rows.times.max()), raw.ticks_per_s)
        )
    return write_prepared(
        out,
        name=raw.name,
        source=raw.source,
        split_rule=options.split_rule,
        encoder=encoder_name,
        item_keys=keys,
        item_titles=items.titles,
        item_texts=items.texts,
        item_embeddings=embeddings,
        user_keys=user_keys.cast(pl.String).to_list(),
        sequence_items=rows.items,
        sequence_offsets=offsets,
        train_ends=train_ends,
        valid_ends=valid_ends,
        card=card.as_dict(),
        write_more=partial(
            save_encoder,
            encoder=used,
            text_template=options.text_template,
            columns=raw.columns,
        ),
    )


def _all_present(rows: Interactions, users: pl.Series, items: pl.Series) -> dict[str, int]:
    """Count where every key is known to occur, without looking through the rows."""
    return {"interactions": len(rows), "users": len(users), "items": len(items)}


def _with_defaults(options: PrepareOptions, raw: RawTables) -> PrepareOptions:
    """Fill in what the options leave to the source."""
    user, item = options.min_user_interactions, options.min_item_interactions
    return replace(
        options,
        min_user_interactions=raw.min_interactions if user is None else user,
        min_item_interactions=raw.min_interactions if item is None else item,
        text_template=options.text_template or raw.text_template,
    )


def _filters_counts(options: PrepareOptions) -> bool:
    return max(options.min_user_interactions or 0, options.min_item_interactions or 0) > 1


def _filtered(
    raw: RawTables, options: PrepareOptions, card: DataCard
) -> tuple[Interactions, pl.Series, pl.Series]:
    """Number the keys, then apply the filters one by one, each noted on the card."""
    frame = raw.interactions
    with ThreadPoolExecutor(2) as pool:
        both = pool.map(encode_keys, (frame[USER], frame[ITEM]), (raw.user_order, raw.item_order))
        (users, user_keys), (items, item_keys) = both
    times = frame[TIME].to_numpy() if TIME in frame.columns else None
    if times is None and options.split_rule == splits.GLOBAL_TIME:
        raise ConfigError(
            f"split_rule global-time must have interactions with a time, got none in {raw.source}; "
            "use leave-one-out"
        )
    rows = Interactions(users, items, times)
    counts = rows.counts() if raw.user_order is not None or raw.item_order is not None else None
    card.step("read", **(counts or _all_present(rows, user_keys, item_keys)))
    if options.min_rating is not None:
        if RATING not in frame.columns:
            raise ConfigError(
                f"min_rating must have interactions with a rating, got none in {raw.source}; "
                "leave min_rating out"
            )
        has_rating = frame[RATING].is_not_null().to_numpy()
        if not has_rating.all():
            rows, frame = rows.where(has_rating), frame.filter(pl.Series(has_rating))
            card.step("with a rating, which min_rating needs", **rows.counts())
        rows = rows.where((frame[RATING] >= options.min_rating).to_numpy())
        card.step(f"rating at least {options.min_rating:g}", **rows.counts())
    rows = ordered(rows, options.ties)
    if rows.times is not None:
        before, rows = len(rows), without_duplicates(rows, options.ties)
        card.step(
            "one of equal user, item and time",
            **(card.last_counts() if len(rows) == before else rows.counts()),
        )
    if options.repeats != "all":
        rows = without_repeats(rows, options.repeats)
        card.step(f"{options.repeats} of a user's repeats", **rows.counts())
    if _filters_counts(options):
        min_user, min_item = options.min_user_interactions or 0, options.min_item_interactions or 0
        rows, rounds = k_core(rows, min_user=min_user, min_item=min_item)
        card.step(f"at least {min_user} a user and {min_item} an item", **rows.counts())
        card.note(k_core_rounds=rounds)
    if len(raw.interactions) == 0 and not raw.items_only:
        raise DataError(
            f"a data set must have interactions, got none in {raw.source} that could be read; "
            "look at the file"
        )
    if len(rows) == 0 and not raw.items_only:
        raise DataError(
            f"a data set must keep at least one interaction, got 0 of {len(raw.interactions)} in "
            f"{raw.source} after the filters; loosen min_rating or the minimum counts"
        )
    return rows, user_keys, item_keys


def _compact_users(rows: Interactions, keys: pl.Series) -> tuple[Interactions, pl.Series]:
    """Number the users that are left from 0 without gaps."""
    present = np.bincount(rows.users, minlength=len(keys)) > 0  # (users before,)
    if present.all():
        return rows, keys
    renumber = np.cumsum(present, dtype=np.int32) - 1
    return Interactions(renumber[rows.users], rows.items, rows.times), keys.filter(present)


def _compact_items(
    rows: Interactions, raw: RawTables, keys: pl.Series, options: PrepareOptions
) -> tuple[Interactions, pl.Series, int]:
    """Number the items that stay from 0 without gaps; count those without an interaction."""
    present = np.bincount(rows.items, minlength=len(keys)) > 0  # (items before,)
    # A release that fixes its item ids keeps them all: embeddings are stored in that order.
    fixed = raw.item_order is not None and not _filters_counts(options)
    keep = np.ones_like(present) if fixed else present
    items, kept = rows.items, keys
    if not keep.all():
        renumber = np.cumsum(keep, dtype=np.int32) - 1
        items, kept = renumber[items], keys.filter(keep)
    if options.keep_unseen_items and raw.item_order is None:
        ids, every = encode_keys(pl.concat([kept, raw.items[ITEM]]))
        items, kept = ids[: len(kept)][items], every
    num_unseen = len(kept) - int(present.sum())
    return Interactions(rows.users, items, rows.times), kept, num_unseen


def _num_never_taken(raw: RawTables, keys: pl.Series) -> int:
    """Count the items of the items table that no interaction names, before any filter."""
    if raw.item_order is not None:
        return 0
    return int((~raw.items[ITEM].unique().is_in(keys.implode())).sum())


def _split(
    rows: Interactions, offsets: npt.NDArray[np.int64], options: PrepareOptions
) -> splits.Ends:
    if options.split_rule == splits.LEAVE_ONE_OUT:
        return splits.leave_one_out(offsets)
    assert rows.times is not None
    return splits.global_time(
        offsets, rows.times, valid_share=options.valid_share, test_share=options.test_share
    )


@dataclass(frozen=True)
class _Items:
    """Texts of the items in the order of their ids, and what was found on the way."""

    texts: list[str]
    titles: list[str]
    vectors: npt.NDArray[np.floating[Any]] | None
    num_without_row: int
    num_without_text: int
    num_unused_rows: int
    num_repeated_rows: int


def _describe_items(raw: RawTables, keys: pl.Series, options: PrepareOptions) -> _Items:
    """Render each item's text; of several rows of an item the one with the longest text wins."""
    fields = [name for name in raw.items.columns if name != ITEM]
    template = options.text_template or raw.text_template
    segments = parse_template(template, fields) if template else []
    table = pl.DataFrame({ITEM: keys}).with_row_index("id")
    matched = raw.items.with_row_index("row").join(table, on=ITEM, how="inner")
    needed = {name for segment in segments for name in segment[1::2]} | {raw.title_field}
    fields = [name for name in fields if name in needed]
    columns = [_cleaned(matched[name]) for name in fields]
    texts, titles = [""] * len(keys), [""] * len(keys)
    row_of = np.full(len(keys), -1, dtype=np.int64)  # (N,)
    found = zip(matched["id"].to_list(), matched["row"].to_list(), *columns, strict=True)
    for item, row, *values in found:
        content = dict(zip(fields, values, strict=True))
        text = render_text(segments, content)
        # Ties by the text itself, so that the order of the rows never matters.
        if row_of[item] >= 0 and (-len(text), text) >= (-len(texts[item]), texts[item]):
            continue
        texts[item], titles[item], row_of[item] = text, content.get(raw.title_field) or "", row
    names = keys.cast(pl.String).to_list()
    titles = [
        shorten(title or text or name)
        for title, text, name in zip(titles, texts, names, strict=True)
    ]
    if (row_of < 0).all():
        own = raw.items[ITEM].cast(pl.String)
        raise DataError(
            f"items and interactions must use the same ids, got {names[0]!r} in the interactions "
            f"and {own[0] if len(own) else None!r} in the items of {raw.source}; name the right "
            "columns"
        )
    vectors = None
    if raw.vectors is not None:
        if (row_of < 0).any():
            first = names[int(np.argmax(row_of < 0))]
            raise DataError(
                f"every item must have a vector, got none for {int((row_of < 0).sum())} items, the "
                f"first {first!r}, in {raw.source}; add their rows to the items table"
            )
        vectors = raw.vectors[row_of]
    return _Items(
        texts=texts,
        titles=titles,
        vectors=vectors,
        num_without_row=int((row_of < 0).sum()),
        num_without_text=sum(not text for text in texts),
        num_unused_rows=len(raw.items) - len(matched),
        num_repeated_rows=len(matched) - int((row_of >= 0).sum()),
    )


def _cleaned(texts: pl.Series) -> list[str | None]:
    """Clean the texts of a field of HTML; what is left empty counts as missing."""
    return [clean_text(text) or None if text else None for text in texts.to_list()]


def _statistics(
    rows: Interactions,
    offsets: npt.NDArray[np.int64],
    train_ends: npt.NDArray[np.int64],
    valid_ends: npt.NDArray[np.int64],
    num_items: int,
) -> dict[str, Any]:
    num_users = len(offsets) - 1
    return {
        "users": num_users,
        "items": num_items,
        "interactions": len(rows),
        "density": float(f"{len(rows) / max(1, num_users * num_items):.3g}"),
        "history_length": history_quantiles(np.diff(offsets)),
        "interactions_by_part": {
            "train": int((train_ends - offsets[:-1]).sum()),
            "valid": int((valid_ends - train_ends).sum()),
            "test": int((offsets[1:] - valid_ends).sum()),
        },
    }

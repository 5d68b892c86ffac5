"""Items that come after training: what callers give for them, and the IDs that they get.

Shape legend: R = new items, N = items, D = width of text vectors, E = width of item vectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.data.catalogue import Catalogue
from genrec.data.text.fused_space import SPACE_NAME, FusedSpace
from genrec.data.text.item_text import shorten
from genrec.data.text.kept_encoder import ENCODER_NAME, load_encoder
from genrec.errors import ConfigError, DataError, MissingPathError
from genrec.rankers import Ranker
from genrec.serving.keys import read_keys
from genrec.serving.stock import depth_of_caller
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import QUANTIZER_NAME, Trained, load_quantizer, with_ids

__all__ = [
    "LONGEST_VECTOR",
    "ItemVectors",
    "NewItems",
    "item_vectors",
    "with_items",
    "with_known_ids",
]

#: Names of columns, the first is the usual one.
_COLUMNS = {
    "key": ("item_id", "item_key", "key", "id"),
    "title": ("title", "name"),
    "text": ("text", "description"),
    "vector": ("vector", "embedding"),
}

#: Longest vector of a new item: the squares of it, and of what is computed from it, fit float32.
LONGEST_VECTOR = 1e18

_NO_IDS = (
    "new items need a model of semantic IDs, got {}, which knows the items of its training only; "
    "train it again on a data set that has them"
)


@runtime_checkable
class ItemVectors(Protocol):
    """What a ranker may have beyond the contract.

    Attributes:
        vectors: The model's own, of all items, shape ``(N, E)``.
    """

    @property
    def vectors(self) -> Tensor | None: ...  # noqa: D102


@dataclass(frozen=True)
class NewItems:
    """Items to add.

    Attributes:
        keys: Their ids in the catalogue, ``R``, each once.
        titles: What to show a person, ``R``.
        texts: What to embed, ``R``, where there are no vectors.
        vectors: From the run's text encoder, shape ``(R, D)``, float32.
    """

    keys: list[str]
    titles: list[str]
    texts: list[str] | None
    vectors: npt.NDArray[np.float32] | None

    @classmethod
    def read(cls, items: Any, vectors: Any = None) -> NewItems:
        """Read a table, columns by name, or rows ``(item_id, title, text or vector)``.

        Args:
            items: See above.
            vectors: Instead of a column of them, shape ``(R, D)``.

        Returns:
            The items.

        Raises:
            DataError: If keys, or both texts and vectors, are missing, or a key comes twice.
        """
        columns = _columns(items)
        if vectors is not None:
            columns["vector"] = vectors
        if "key" not in columns or not {"text", "vector"} & set(columns):
            found = ", ".join(columns) or "none of them"
            raise DataError(
                f"new items must have item_id and text or vector, got {found}; name the columns "
                "item_id, title, text or item_id, title, vector"
            )
        keys = [str(key) for key in read_keys(columns["key"], "item_id")[0]]
        if len(set(keys)) < len(keys):
            twice = next(key for place, key in enumerate(keys) if key in keys[:place])
            raise DataError(f"new items must have each key once, got {twice!r} again; drop a row")
        found_vectors = _matrix(columns["vector"], len(keys)) if "vector" in columns else None
        texts = _texts(columns["text"], "text", len(keys)) if "text" in columns else None
        names = _texts(columns["title"], "title", len(keys)) if "title" in columns else texts
        for what, given in (("item_id", keys), ("text", texts or ()), ("title", names or ())):
            _check_unicode(given, what)
        titles = [shorten(name or key) for name, key in zip(names or keys, keys, strict=True)]
        return cls(keys, titles, None if found_vectors is not None else texts, found_vectors)

    def take(self, places: npt.NDArray[np.int64]) -> NewItems:
        """Keep the items at some places, ascending."""
        chosen = places.tolist()
        return NewItems(
            [self.keys[place] for place in chosen],
            [self.titles[place] for place in chosen],
            None if self.texts is None else [self.texts[place] for place in chosen],
            None if self.vectors is None else self.vectors[places],
        )


def with_items(run: Trained, new: NewItems) -> Trained:
    """Give IDs to new items and recommend them too; no old ID moves.

    Args:
        run: The run.
        new: Items that it does not know.

    Returns:
        The run with a ranker of the larger catalogue.

    Raises:
        ConfigError: If the model knows no IDs, or its text encoder is not at hand.
        MissingPathError: If the run holds no quantiser.
        ArtifactError: If the vectors are of another width, or no ID is left.
    """
    if run.table is None:
        raise ConfigError(_NO_IDS.format(run.ranker.name))
    folder = run.path / QUANTIZER_NAME
    if not folder.is_dir():
        raise MissingPathError(
            f"new items need the quantiser that made the run's IDs, got {run.path} without "
            f"{QUANTIZER_NAME}/; train the run again from a stage-one run, or give IDs with "
            "`genrec tokenize --extend`"
        )
    texts = vectors = new.vectors if new.vectors is not None else _embedded(run, new.texts or [])
    if new.vectors is None and (empty := _keys_of_zeros(vectors, new.keys)):
        warnings.warn(
            f"texts of new items must hold words that the encoder knows, got {len(empty)} without "
            f"any, for example {empty[0]!r}: codes of these items mean nothing",
            stacklevel=depth_of_caller(),
        )
    if (run.path / SPACE_NAME).is_dir():
        vectors = FusedSpace.load(run.path / SPACE_NAME).transform(vectors)
    table = run.table.add_items(load_quantizer(folder), vectors, new.keys)
    catalogue = with_ids(run.catalogue.extended(new.keys, new.titles, texts), table)
    return _recommended(run, catalogue, table)


def with_known_ids(
    run: Trained,
    keys: list[str],
    titles: list[str],
    codes: npt.NDArray[np.int32],
    sketch: npt.NDArray[np.float32] | None,
) -> Trained:
    """Recommend items too that got their IDs before, as :func:`with_items` gave them.

    Args:
        run: The run that gave the IDs.
        keys: Items that it does not know, ``R``.
        titles: What to show a person, ``R``.
        codes: Their IDs, shape ``(R, L)``.
        sketch: Of their text vectors, as the run's catalogue then had it, shape ``(R, P)``; None
            where it had none.

    Returns:
        The run with a ranker of the larger catalogue.

    Raises:
        ConfigError: If the model knows no IDs.
        ArtifactError: If the codes do not fit the run's.
    """
    if run.table is None:
        raise ConfigError(_NO_IDS.format(run.ranker.name))
    table = run.table.extended(keys, codes)
    catalogue = with_ids(run.catalogue.extended(keys, titles), table)
    if sketch is not None and catalogue.sketch is not None:
        known = catalogue.sketch.copy()
        width = min(known.shape[1], sketch.shape[1])  # one of the two may be of an older version
        known[run.catalogue.num_items :, :width] = sketch[:, :width]
        catalogue = replace(catalogue, sketch=known)
    return _recommended(run, catalogue, table)


def _recommended(run: Trained, catalogue: Catalogue, table: SemanticIdTokenizer) -> Trained:
    """Recommend all items of a larger catalogue."""
    ranker = run.model.ranker(catalogue, run.options)
    return replace(run, ranker=ranker, catalogue=catalogue, table=table)


def item_vectors(run: Trained | None, ranker: Ranker) -> Tensor | None:
    """Find a vector of each item, by which likeness may be measured.

    Args:
        run: The run, whose quantiser says where each code lies; or None.
        ranker: The run's ranker.

    Returns:
        The model's own vectors where it has some, else sums of the quantiser's codes; shape
        ``(N, E)``, float32, on the CPU. None where there are neither.
    """
    if isinstance(ranker, ItemVectors) and ranker.vectors is not None:
        return ranker.vectors.float().cpu()
    if run is None or run.table is None or not (run.path / QUANTIZER_NAME).is_dir():
        return None
    codes = torch.from_numpy(np.array(run.table.ids)).long()
    books = load_quantizer(run.path / QUANTIZER_NAME).get_codebook()
    parts = [book.detach()[codes[:, level]] for level, book in enumerate(books)]
    return torch.stack(parts).sum(dim=0).float()


def _keys_of_zeros(vectors: npt.NDArray[Any], keys: Sequence[str]) -> list[str]:
    """List the items whose vector says nothing."""
    return [keys[row] for row in np.flatnonzero(~np.any(vectors, axis=1)).tolist()]


def _embedded(run: Trained, texts: list[str]) -> npt.NDArray[Any]:
    """Embed texts as those of the run's data set were; ``(R, D)``."""
    if (run.path / ENCODER_NAME).is_dir():
        return load_encoder(run.path).encoder.encode(texts)
    from genrec.data.text.encoders import make_encoder

    name = str(run.meta.get("encoder") or run.meta.get("encoder_model_name") or "")
    if not name or name.split(":")[0] in ("tfidf", "none") or name.endswith(".npy"):
        raise ConfigError(
            f"texts of new items must be embedded by the run's encoder, got {name or 'an unknown'} "
            "one, which is not kept with the run; give vectors"
        )
    return make_encoder(name).encode(texts)


def _columns(items: Any) -> dict[str, Any]:
    """Sort what was given into columns by the names of ``_COLUMNS``."""
    if hasattr(items, "collect_schema") and hasattr(items, "collect"):  # lazy, of polars
        items = items.collect()
    if isinstance(items, Mapping) or hasattr(items, "columns"):
        given = list(items) if isinstance(items, Mapping) else list(items.columns)
        return {
            what: items[name]
            for what, names in _COLUMNS.items()
            for name in [next((name for name in names if name in given), None)]
            if name is not None
        }
    rows = list(items) if isinstance(items, (list, tuple)) else [items]
    if rows and isinstance(rows[0], (str, int)):  # one row alone
        rows = [items]
    if rows and all(isinstance(row, Mapping) for row in rows):
        return _columns({name: [row.get(name) for row in rows] for name in rows[0]})
    wrong = [row for row in rows if not isinstance(row, (list, tuple)) or len(row) != 3]
    if wrong:
        row = wrong[0]
        got = type(items).__name__ if row is items else f"{row!r:.60} in a list"
        if isinstance(row, (list, tuple)):
            missing = ", without the text or vector to embed" if len(row) == 2 else ""
            got = f"the row {row!r:.60} of {len(row)}{missing}"
        raise DataError(
            f"new items must be a table or rows (item_id, title, text or vector), got {got}; for "
            "example [('new-1', 'Red nail polish', 'Nails; red')]"
        )
    keys, titles, contents = ([row[place] for row in rows] for place in range(3))
    what = "text" if all(isinstance(content, str) for content in contents) else "vector"
    return {"key": keys, "title": titles, what: contents}


def _texts(column: Any, what: str, count: int) -> list[str]:
    texts = column.to_list() if hasattr(column, "to_list") else list(column)
    if len(texts) != count:
        raise DataError(
            f"{what} of new items must have {count} entries, got {len(texts)}; give one each"
        )
    return ["" if _is_missing(text) else str(text) for text in texts]


def _is_missing(value: Any) -> bool:
    """Tell whether a value is None, NaN, or pandas' NA, which equals nothing and is no truth."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def _check_unicode(texts: Sequence[str], what: str) -> None:
    """Refuse halves of characters, which no file can hold."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{what} of new items must be text that can be written, got {text!a:.60}; read its "
                "source in the right encoding"
            ) from None


def _matrix(column: Any, count: int) -> npt.NDArray[np.float32]:
    """Stack vectors, ``(R, D)``."""
    try:
        rows = column if isinstance(column, np.ndarray) and column.ndim == 2 else list(column)
        with np.errstate(over="ignore"):  # what is too large is refused below
            vectors = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError):
        vectors = np.empty(0, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != count:
        raise DataError(
            f"vectors of new items must have shape ({count}, D), got {vectors.shape} from "
            f"{type(column).__name__}; give one of the same width for each"
        )
    if not np.isfinite(vectors).all():
        raise DataError("vectors of new items must be finite, got NaN or Inf; embed them again")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if (lengths > LONGEST_VECTOR).any():
        raise DataError(
            f"vectors of new items must have a length of at most {LONGEST_VECTOR:g}, got "
            f"{lengths.max():.3g}; give those of the run's text encoder"
        )
    return vectors

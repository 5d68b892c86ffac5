"""Opens a run folder as what it holds: a quantiser, or whatever recommends."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from genrec.atomic import atomic_directory, read_json
from genrec.checkpoint import RunDirectory, resolve_step
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset, is_prepared
from genrec.data.text.fused_space import SPACE_NAME, FusedSpace
from genrec.data.text.kept_encoder import ENCODER_NAME
from genrec.data.text.known_vectors import KnownVectors
from genrec.digests import read_signed
from genrec.errors import ArtifactError, GenRecError, MissingPathError
from genrec.rankers import Ranker
from genrec.registry import QUANTIZERS, RANKERS, find
from genrec.runs import find_run
from genrec.tokenizer.policies import quantizer_digest
from genrec.tokenizer.quantizer import ItemQuantizer
from genrec.tokenizer.semantic_id import ARTIFACT_NAME, SemanticIdTokenizer

__all__ = [
    "QUANTIZER_NAME",
    "KeptRun",
    "Trained",
    "find_other_log",
    "keep_quantizer",
    "load_quantizer",
    "load_ranker",
    "load_trained",
    "open_data",
    "quantizer_inputs",
    "was_trained_on",
    "with_ids",
]


QUANTIZER_NAME = "quantizer"  # folder inside a run: the quantiser that made its IDs


@dataclass(frozen=True)
class Trained:
    """What a run that recommends holds: enough to use it without its data set.

    Attributes:
        ranker: The best step's model behind the contract.
        catalogue: The items that it recommends.
        options: The run's evaluation settings with the caller's overrides.
        meta: The run's ``meta.json``.
        path: The run's folder.
        model: The best step's model itself, which makes rankers of other catalogues.
        table: The items' IDs, or None for a model that knows none.
    """

    ranker: Ranker
    catalogue: Catalogue
    options: Mapping[str, Any]
    meta: Mapping[str, Any]
    path: Path
    model: Any
    table: SemanticIdTokenizer | None = None


def load_ranker(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    table: SemanticIdTokenizer | None = None,
    **overrides: Any,
) -> Ranker:
    """Open the best model of a run, whichever it is, ready to recommend.

    Args:
        path: The run's folder.
        device: Where the model shall live.
        table: See :func:`load_trained`.
        **overrides: Likewise.

    Returns:
        The ranker.
    """
    return load_trained(path, device=device, table=table, **overrides).ranker


def load_trained(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    table: SemanticIdTokenizer | None = None,
    titles_from: PreparedDataset | None = None,
    **overrides: Any,
) -> Trained:
    """Open the best model of a run with its catalogue and settings.

    Args:
        path: The run's folder, or one with a single run below it.
        device: Where the model shall live.
        table: The run's ID table with new items added, which then are recommended too; None
            takes the run's own.
        titles_from: A data set with the titles of the new items; None shows their keys.
        **overrides: Evaluation settings that differ from those of the run; None keeps the run's.

    Returns:
        Everything needed to recommend.

    Raises:
        MissingPathError: If the run is not there, or does not say its items.
        ArtifactError: If a file of it is damaged, its model is none that recommends, or
            ``table`` does not go on from its own.
    """
    run = find_run(path)
    if not (run / "meta.json").is_file():
        raise MissingPathError(
            f"run must be a folder with meta.json, got {run}; give the folder that training "
            "printed at its end"
        )
    step = resolve_step(run)
    kind = find(RANKERS, str(read_json(step / "config.json").get("model")))
    meta = read_signed(run / "meta.json")
    own = SemanticIdTokenizer.load(run) if (run / ARTIFACT_NAME).is_dir() else None
    catalogue = _catalogue(run, meta, own)
    if own is not None:
        own.check_items(catalogue.items_fingerprint)
        catalogue = with_ids(catalogue, own)
    if table is not None:
        catalogue = _extended(catalogue, own, table, titles_from)
    options = dict(meta.get("evaluation", {}))
    options |= {name: value for name, value in overrides.items() if value is not None}
    with _fitting(run):
        model = kind.load_pretrained(run, device=device)
    ranker = model.ranker(catalogue, options)
    return Trained(ranker, catalogue, options, meta, run, model, table or own)


def was_trained_on(meta: Mapping[str, Any], data: PreparedDataset) -> bool:
    """Whether a run saw the items, interactions and splits of a data set, as far as it says."""
    return bool(meta.get("log_fingerprint", data.log_fingerprint) == data.log_fingerprint)


def find_other_log(metas: Sequence[Mapping[str, Any]], *, strict: bool = False) -> int | None:
    """Find the first run that was trained on other interactions than the first of all.

    Args:
        metas: ``meta.json`` of the runs. Texts and vectors of their data sets may differ.
        strict: Whether a run that says nothing counts as another beside one that does.

    Returns:
        Its place, or None where all say the same.
    """
    names = ("log_fingerprint", "data_fingerprint")
    name = names[any(names[0] not in meta for meta in metas)]
    for place, meta in enumerate(metas):
        if len({metas[0].get(name), meta.get(name)} - (set() if strict else {None})) > 1:
            return place
    return None


class KeptRun(Protocol):
    """A run as far as it says where its data set lies."""

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def meta(self) -> Mapping[str, Any]: ...  # noqa: D102


def open_data(run: KeptRun) -> PreparedDataset:
    """Open the data set that a run was trained on.

    Args:
        run: The run, for example a :class:`Trained`.

    Returns:
        The data set.

    Raises:
        MissingPathError: If it is not at its place any more.
        ArtifactError: If another log lies there now.
    """
    prepared = run.meta.get("prepared")
    if prepared is None or not is_prepared(prepared):
        raise MissingPathError(
            f"data set of {run.path} must still be at its place, got "
            f"{'no word of where' if prepared is None else f'none at {prepared}'}; name it with "
            "--data"
        )
    data = PreparedDataset.load(prepared)
    if not was_trained_on(run.meta, data):
        raise ArtifactError(
            f"data set of {run.path} must be the one that it was trained on, got other items, "
            f"interactions or splits at {prepared}, which was prepared again; prepare it as it "
            "was, or name a data set with --data"
        )
    return data


def load_quantizer(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    checkpoint: str | None = None,
) -> ItemQuantizer:
    """Open the quantiser of a stage-one run, whichever it is.

    Args:
        path: The run's folder, one of its step folders, or a folder with a single run below it.
        device: Where the quantiser shall live.
        checkpoint: Name of a step folder or of a pointer in the run, for example
            ``best_collision``; None takes the latest.

    Returns:
        The quantiser, frozen.

    Raises:
        MissingPathError: If there is no such run or checkpoint.
        ArtifactError: If it holds no quantiser.
    """
    run = find_run(path)
    if not run.is_dir():
        raise MissingPathError(
            f"RUN_DIR must be a folder, got {run}; give the one that `genrec train rqvae` printed"
        )
    if checkpoint is None:
        step = resolve_step(run, prefer=("latest",))
    else:
        step = RunDirectory(run).pointed(checkpoint) or run / checkpoint
        if not (step / "config.json").is_file():
            names = [p.name for p in sorted(run.iterdir()) if (p / "config.json").is_file()]
            raise MissingPathError(
                f"--checkpoint must name a step or a pointer of {run}, got {checkpoint!r}; "
                f"there are {', '.join(names) or 'none'}"
            )
    kind = find(QUANTIZERS, str(read_json(step / "config.json").get("model")))
    with _fitting(step):
        quantizer: ItemQuantizer = kind.load_from_checkpoint(step).to(device)
    return quantizer


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Say in one line that a configuration and the weights beside it make no model."""
    try:
        yield
    except GenRecError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        said = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
        raise ArtifactError(
            f"config.json and weights must make a model, got {path} with {said}; use another step "
            "of the run or train again"
        ) from error


def quantizer_inputs(
    run: str | os.PathLike[str], data: PreparedDataset, part: slice = slice(None)
) -> npt.NDArray[Any]:
    """Place the items of a data set where the run's quantiser expects them.

    Args:
        run: A stage-one run.
        data: Its data set, or one with new items, embedded by the same encoder.
        part: Which of its items; all by default.

    Returns:
        The data set's vectors; in the run's item space where it has one, in which items that are
        new to it stand by their text. Shape ``(N, D)``, floating.

    Raises:
        ArtifactError: If the run's item space or ID table is damaged, or of another width.
    """
    folder = Path(run) / SPACE_NAME
    if not folder.is_dir():
        return data.item_embeddings[part]
    space = FusedSpace.load(folder)
    if space.items_fingerprint == data.items_fingerprint:
        return space.transform(data.item_embeddings[part], np.arange(data.num_items)[part])
    row_of = {key: row for row, key in enumerate(SemanticIdTokenizer.load(run).item_keys)}
    rows = np.array([row_of.get(key, -1) for key in data.item_keys], dtype=np.int64)
    # The table may have been extended since: what the space never saw is new to it.
    rows[rows >= len(space.vectors)] = -1
    return space.transform(data.item_embeddings[part], rows[part])


def keep_quantizer(
    stage_one: str | os.PathLike[str], table: SemanticIdTokenizer, run: str | os.PathLike[str]
) -> None:
    """Copy what made an ID table into another run, which then can give IDs to new items alone.

    Args:
        stage_one: The run that made the table; where it is none, or holds another quantiser,
            nothing is copied.
        table: The table.
        run: The run that shall have the quantiser as ``quantizer/``, and the item space and the
            text encoder where there are any.
    """
    source = Path(stage_one)
    step = _maker(source, table)
    if step is None:
        return
    with atomic_directory(Path(run) / QUANTIZER_NAME) as folder:
        for name in ("config.json", "model.safetensors", "files.json"):
            if (step / name).is_file():  # older steps have no digests
                shutil.copyfile(step / name, folder / name)
    for name in (SPACE_NAME, ENCODER_NAME):
        if (source / name).is_dir():
            with atomic_directory(Path(run) / name) as folder:
                shutil.copytree(source / name, folder, dirs_exist_ok=True)


def _maker(stage_one: Path, table: SemanticIdTokenizer) -> Path | None:
    """Find the step, the newest first, whose codebooks made a table."""
    if table.quantizer_digest is None or not (stage_one / "meta.json").is_file():
        return None
    run = RunDirectory(stage_one)
    for step in map(run.step_path, reversed(run.steps())):
        if quantizer_digest(load_quantizer(step)) == table.quantizer_digest:
            return step
    return None


def with_ids(catalogue: Catalogue, table: SemanticIdTokenizer) -> Catalogue:
    """Return the catalogue with the codes of an ID table, whose rows must be the same items."""
    return replace(
        catalogue, codes=table.ids, level_sizes=table.level_sizes, groups=table.base_groups()
    )


def _catalogue(run: Path, meta: Mapping[str, Any], table: SemanticIdTokenizer | None) -> Catalogue:
    """Find the items of a run; those before ``catalogue/`` was written named them elsewhere."""
    catalogue = Catalogue.load(run)
    if catalogue is not None:
        return catalogue
    prepared = meta.get("prepared")
    if prepared is not None and is_prepared(prepared):
        data = PreparedDataset.load(prepared)
        wanted = table.items_fingerprint if table else meta.get("items_fingerprint")
        if data.items_fingerprint == wanted or data.fingerprint == meta.get("data_fingerprint"):
            return Catalogue.from_data(data)
    if table is None:
        raise MissingPathError(
            f"run must hold a catalogue/, got {run} without one and with another data set, or "
            f"none, at {prepared}; train it again"
        )
    return Catalogue(table.item_keys, table.item_keys)


def _extended(
    catalogue: Catalogue,
    trained: SemanticIdTokenizer | None,
    table: SemanticIdTokenizer,
    titles_from: PreparedDataset | None,
) -> Catalogue:
    """Go over to a table with new items; refuse one in which the known items have other IDs."""
    if trained is None:
        raise ArtifactError(
            "an ID table can be given only to a run that has one, got a model that knows no IDs; "
            "train it again for new items"
        )
    count = trained.num_items
    same = (
        table.level_sizes == trained.level_sizes
        and table.num_items >= count
        and np.array_equal(table.ids[:count], trained.ids)
        and table.item_keys[:count] == list(trained.item_keys)
    )
    if not same:
        raise ArtifactError(
            f"ID table must begin with the {count} items that the model was trained on, got "
            f"another one of {table.num_items}; extend the run's table with `genrec tokenize "
            "--extend`"
        )
    added = table.item_keys[count:]
    known = {}
    if titles_from is not None:
        known = dict(zip(titles_from.item_keys, titles_from.item_titles, strict=True))
    titles = [known.get(key, key) for key in added]
    vectors = None if titles_from is None else _vectors_of(added, catalogue, titles_from)
    return with_ids(catalogue.extended(added, titles, vectors), table)


def _vectors_of(
    keys: Sequence[str], catalogue: Catalogue, data: PreparedDataset
) -> npt.NDArray[Any] | None:
    """Take the text vectors of new items from a data set that embeds the known ones as before."""
    row_of = {key: row for row, key in enumerate(data.item_keys)}
    rows = [row_of.get(key, -1) for key in keys]
    if catalogue.sketch is None or min(rows, default=-1) < 0:
        return None
    known = KnownVectors(catalogue.item_keys, catalogue.sketch, data.embedding_dim)
    with suppress(ArtifactError):
        known.check(data)
        return np.asarray(data.item_embeddings[rows])
    return None

"""Whole recommenders as folders, here or on the Hugging Face hub."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genrec.atomic import FolderKind, atomic_directory, write_json_atomic
from genrec.checkpoint import RunDirectory
from genrec.data.text.fused_space import SPACE_NAME
from genrec.data.text.kept_encoder import ENCODER_NAME
from genrec.digests import read_signed, signed
from genrec.errors import ConfigError, MissingPathError
from genrec.tokenizer.semantic_id import ARTIFACT_NAME
from genrec.trained import QUANTIZER_NAME, Trained

__all__ = ["PORTABLE", "check_target", "fetch", "model_card", "push", "save_run"]

#: What of a run's ``meta.json`` says nothing of the machine where it was trained.
PORTABLE = (
    "genrec",
    "stage",
    "model",
    "parameters",
    "evaluation",
    "dataset",
    "encoder",
    "data_fingerprint",
    "log_fingerprint",
    "seed",
    "steps",
    "torch",
)
_SAVED = FolderKind(
    "a saved recommender",
    needed=frozenset({"meta.json", "catalogue"}),
    others=frozenset({"README.md", "best", "latest", "metrics.json", "step_0"})
    | {ARTIFACT_NAME, ENCODER_NAME, QUANTIZER_NAME, SPACE_NAME},
)
_PLACE = "path/to/this/folder"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def save_run(run: Trained, path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Write a run as it is in memory: its best step, its items and what belongs to them.

    Args:
        run: The run; its catalogue may have other items than its folder.
        path: The folder to make.
        overwrite: Whether to replace what is there.

    Returns:
        The folder.

    Raises:
        ConfigError: If the folder is not empty and not to be replaced, or holds something else.
    """
    target = Path(path)
    check_target(target, _SAVED, overwrite=overwrite)
    with atomic_directory(target) as folder:
        config, weights = run.model.saved_config(), run.model.state_dict()
        RunDirectory(folder).save(0, weights=weights, config=config, pointers=("best", "latest"))
        run.catalogue.save(folder)
        if run.table is not None:
            run.table.save(folder / ARTIFACT_NAME)
        for name in (QUANTIZER_NAME, SPACE_NAME, ENCODER_NAME):
            if (run.path / name).is_dir():
                shutil.copytree(run.path / name, folder / name)
        metrics = run.path / "metrics.json"
        if metrics.is_file():
            shutil.copyfile(metrics, folder / metrics.name)
        meta = {name: run.meta[name] for name in PORTABLE if name in run.meta}
        meta["items_fingerprint"] = run.catalogue.items_fingerprint
        write_json_atomic(folder / "meta.json", signed(meta))
        card = model_card(run, read_signed(metrics) if metrics.is_file() else {})
        (folder / "README.md").write_text(card, encoding="utf-8")
    return target


def check_target(target: Path, kind: FolderKind, *, overwrite: bool) -> None:
    """Refuse a folder to make that is taken and not to be replaced."""
    what = "folder to save to"
    if target.is_dir() and not overwrite and any(target.iterdir()):
        raise ConfigError(
            f"{what} must be new or empty, got {target}; name another one, or pass overwrite=True "
            f"to replace {kind.name}"
        )
    kind.check_replaceable(target, what)


def fetch(
    path: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None
) -> Path:
    """Find a folder: one of this machine, or one of the hub, which is downloaded once.

    Args:
        path: A folder, or a name like ``owner/name`` on the hub where there is no such folder.
        revision: Branch, tag or commit on the hub.
        token: Of the hub.

    Returns:
        The folder.

    Raises:
        MissingPathError: If there is neither.
    """
    folder = Path(path)
    if folder.exists() or not _HUB_NAME.fullmatch(str(path)) or _is_offline():
        return folder
    hub = _hub()
    try:
        return Path(hub.snapshot_download(str(path), revision=revision, token=token))
    except Exception as error:  # the hub's client raises many kinds
        raise MissingPathError(
            f"run must be a folder with meta.json or a name on the hub, got {path} ("
            f"{_first_line(error)}); give the folder that training printed at its end"
        ) from None


def push(
    save: Callable[[Path], object],
    repo_id: str,
    private: bool,
    *,
    token: str | None,
    revision: str | None,
    message: str,
) -> str:
    """Write a folder and put it on the hub.

    Args:
        save: Writes it to the path that it is given.
        repo_id: ``owner/name``; made when missing.
        private: Whether a new place shall be private.
        token: Of the hub.
        revision: Branch; the main one when None.
        message: Of the commit.

    Returns:
        Address of the commit.

    Raises:
        ConfigError: If the name is none, or the hub refuses or does not answer.
    """
    if not _HUB_NAME.fullmatch(repo_id):
        raise ConfigError(f"repo_id must be owner/name, got {repo_id!r}; for example me/my-shop")
    hub = _hub()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "recommender"
        save(folder)
        card = folder / "README.md"
        card.write_text(card.read_text("utf-8").replace(_PLACE, repo_id), encoding="utf-8")
        try:
            api = hub.HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message
            )
        except Exception as error:  # the hub's client raises many kinds
            raise ConfigError(
                f"the hub must take {repo_id}, got {_first_line(error)}; log in with `hf auth "
                "login`, or check the name"
            ) from None
    return str(done.commit_url)


def model_card(run: Trained, metrics: Mapping[str, Any]) -> str:
    """Write the hub's page of a run from what it knows of itself.

    Args:
        run: The run.
        metrics: Content of its ``metrics.json``.

    Returns:
        Markdown with the hub's header.
    """
    name, data = run.ranker.name, run.meta.get("dataset", "a data set of one's own")
    lines = ["---", "library_name: genrec", "tags:", "- recommender-systems"]
    lines += ["- generative-retrieval"] if run.table is not None else []
    lines += ["---", "", f"# {run.meta.get('model', name)} on {data}", ""]
    size = f", {run.meta['parameters']:,} parameters" if "parameters" in run.meta else ""
    lines += [f"Recommends {run.catalogue.num_items:,} items{size}.", "", "```python"]
    lines += ["from genrec import Recommender", ""]
    lines += [f'recommender = Recommender.from_pretrained("{_PLACE}")']
    example = run.catalogue.item_keys[0] if run.catalogue.num_items else "item"
    lines += [f"items, scores = recommender.recommend([{example!r}], k=10)", "```", ""]
    for split, rows in metrics.items():
        rankers = {who: row for who, row in rows.items() if who != "settings"}
        columns = [c for c in next(iter(rankers.values()), {}) if re.match(r"(recall|ndcg)@", c)]
        if columns:
            lines += [f"## Results on the {split} split", "", f"| | {' | '.join(columns)} |"]
            lines += ["| --- |" + " --- |" * len(columns)]
            lines += [
                f"| {who} | " + " | ".join(f"{row[c]:.4f}" for c in columns if c in row) + " |"
                for who, row in rankers.items()
            ]
            lines += ["", "All items ranked, history among the results.", ""]
    return "\n".join(lines)


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise ConfigError(
            "the hub must be reached through huggingface_hub, got none; pip install huggingface_hub"
        ) from None


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__

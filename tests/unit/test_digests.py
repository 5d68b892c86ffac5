"""No bit of an artefact changes without a word."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec import digests
from genrec.atomic import read_json, write_json_atomic
from genrec.checkpoint import RunDirectory, load_model_files
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset
from genrec.data.text.fused_space import FusedSpace
from genrec.digests import read_signed, sealed, signed, verify
from genrec.errors import ArtifactError, GenRecError
from genrec.tokenizer.semantic_id import SemanticIdTokenizer


def read_everything(value: Any) -> Any:
    """Turn an artefact into plain values that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tolist()
    if isinstance(value, dict):
        return {str(k): read_everything(v) for k, v in value.items() if k not in ("files", "seal")}
    if isinstance(value, str | int | float | bool | None):
        return value
    return [read_everything(entry) for entry in value]


def open_prepared(path: Path) -> Any:
    data = PreparedDataset.load(path)
    return {k: v for k, v in vars(data).items() if k != "path"}


def open_ids(path: Path) -> Any:
    table = SemanticIdTokenizer.load(path)
    return table.ids, table.item_keys, table.level_sizes, table.statistics


def open_catalogue(path: Path) -> Any:
    catalogue = Catalogue.load(path.parent)
    return catalogue.item_keys, catalogue.item_titles


def open_space(path: Path) -> Any:
    return vars(FusedSpace.load(path))


def open_step(path: Path) -> Any:
    return load_model_files(path), RunDirectory(path.parent).load_trainer(path)


def what_it_reads(opener: Callable[[Path], Any], folder: Path) -> Any:
    """Open an artefact; None where it is refused."""
    try:
        return read_everything(opener(folder))
    except GenRecError:
        return None


OPEN: dict[str, Callable[[Path], Any]] = {
    "prepared": open_prepared,
    "ids": open_ids,
    "catalogue": open_catalogue,
    "space": open_space,
    "step_3": open_step,
}


@pytest.fixture(scope="module")
def artefacts(write_data, tmp_path_factory) -> Path:
    """A small artefact of each kind."""
    folder = tmp_path_factory.mktemp("artefacts")
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    data = write_data(
        folder / "prepared",
        [f"item {i}" for i in range(6)],
        vectors,
        [[0, 1, 2, 3], [2, 3, 4, 5], [1, 3, 5]],
        [f"Title {i}" for i in range(6)],
    )
    FusedSpace.fit(data, weight=0.5, dim=2).save(folder / "space")
    Catalogue.from_data(data).save(folder)
    ids = [[i // 3, i % 3] for i in range(6)]
    SemanticIdTokenizer(ids, level_sizes=(2, 3), item_keys=data.item_keys).save(folder / "ids")
    parameter = torch.nn.Parameter(torch.arange(3.0))
    parameter.grad = torch.ones(3)
    optimizer = torch.optim.AdamW([parameter])
    optimizer.step()
    RunDirectory(folder).save(
        3,
        weights={"w": parameter},
        config={"model": "line"},
        trainer={"step": 3, "optimizer": optimizer.state_dict()},
    )
    return folder


@pytest.mark.parametrize("kind", OPEN)
def test_no_flipped_bit_changes_a_result_in_silence(artefacts, tmp_path, kind):
    folder = shutil.copytree(artefacts / kind, tmp_path / kind)
    before = read_everything(OPEN[kind](folder))
    draw = random.Random(kind)
    files = sorted(path for path in folder.iterdir())
    refused = 0
    for file in files:
        whole = file.read_bytes()
        places = draw.sample(range(8 * len(whole)), min(16, 8 * len(whole)))
        for place in places:
            bent = bytearray(whole)
            bent[place // 8] ^= 1 << place % 8
            file.write_bytes(bent)
            found = what_it_reads(OPEN[kind], folder)
            refused += found is None
            assert found in (None, before), (file.name, place)
        file.write_bytes(whole)
    assert refused >= 0.9 * 16 * len(files)
    assert read_everything(OPEN[kind](folder)) == before


@pytest.mark.parametrize("kind", OPEN)
def test_cut_longer_and_missing_files_are_named(artefacts, tmp_path, kind):
    folder = shutil.copytree(artefacts / kind, tmp_path / kind)
    described = "files.json" if kind == "step_3" else "meta.json"
    for file in sorted(path for path in folder.iterdir() if path.name != described):
        whole = file.read_bytes()
        for content in (whole[:-1], whole + b"x", b""):
            file.write_bytes(content)
            with pytest.raises(ArtifactError, match=f"as it was written, got .*{file.name}; "):
                OPEN[kind](folder)
        file.write_bytes(whole)


@pytest.mark.parametrize("kind", OPEN)
def test_older_artefacts_without_digests_open(artefacts, tmp_path, kind):
    folder = shutil.copytree(artefacts / kind, tmp_path / kind)
    before = read_everything(OPEN[kind](folder))
    if kind == "step_3":
        (folder / "files.json").unlink()
    else:
        meta = read_json(folder / "meta.json")
        del meta["files"], meta["seal"]
        write_json_atomic(folder / "meta.json", meta)
    assert read_everything(OPEN[kind](folder)) == before


def test_checking_can_be_skipped(artefacts, tmp_path, monkeypatch):
    folder = shutil.copytree(artefacts / "prepared", tmp_path / "prepared")
    file = folder / "item_embeddings.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ArtifactError, match=r"another item_embeddings\.npy; prepare it again"):
        PreparedDataset.load(folder)
    monkeypatch.setenv("GENREC_SKIP_DIGESTS", "1")
    assert PreparedDataset.load(folder).num_items == 6


@pytest.mark.parametrize("name", ["item_keys.offsets", "sequence_offsets", "train_ends"])
@pytest.mark.parametrize("value", [-1, 2**56, 3])
def test_lengths_and_offsets_are_checked_even_unsealed(
    artefacts, tmp_path, monkeypatch, name, value
):
    monkeypatch.setenv("GENREC_SKIP_DIGESTS", "1")
    folder = shutil.copytree(artefacts / "prepared", tmp_path / "prepared")
    array = np.load(folder / f"{name}.npy")
    array[-1] = value
    np.save(folder / f"{name}.npy", array)
    with pytest.raises(ArtifactError, match="prepared data set must be complete, got "):
        PreparedDataset.load(folder)


@pytest.mark.parametrize("bytes_", [0, 1, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 3 << 18])
def test_files_of_any_length_are_covered(tmp_path, bytes_, monkeypatch):
    monkeypatch.setattr(digests, "_LARGE_BYTES", 1 << 18)  # with and without threads
    file = tmp_path / "a.bin"
    file.write_bytes(bytes(bytes_))
    meta = sealed(tmp_path, {"x": {1: (2, 3)}})
    verify(tmp_path, meta, what="it", fix="mend it")
    for place in {0, bytes_ // 2, bytes_ - 1} if bytes_ else ():
        bent = bytearray(bytes_)
        bent[place] = 1
        file.write_bytes(bent)
        with pytest.raises(ArtifactError, match=r"it must be .* another a\.bin; mend it"):
            verify(tmp_path, meta, what="it", fix="mend it")


def test_every_flipped_bit_of_a_description_is_refused(tmp_path):
    """Those of the name of its digest too, without which it would count as an older one's."""
    meta = {"test": {"recall@10": 0.25}, "data_fingerprint": "0123456789abcdef"}
    write_json_atomic(tmp_path / "meta.json", signed(meta))
    whole = (tmp_path / "meta.json").read_bytes()
    assert read_signed(tmp_path / "meta.json") == meta
    for bit in range(8 * len(whole)):
        bent = bytearray(whole)
        bent[bit // 8] ^= 1 << bit % 8
        (tmp_path / "meta.json").write_bytes(bent)
        try:
            assert read_signed(tmp_path / "meta.json") == meta, bit  # a blank between two values
        except ArtifactError:
            continue
    write_json_atomic(tmp_path / "meta.json", meta)  # of an older version
    assert read_signed(tmp_path / "meta.json") == meta

"""The ID table: look-up, artefact, checks, growth."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from genrec.data.prepared import StringArray
from genrec.errors import ArtifactError, ConfigError, MissingPathError
from genrec.tokenizer.artifact import row_keys
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.semantic_id import POLICIES, SemanticIdTokenizer


@pytest.fixture(scope="module")
def keys(embeddings) -> list[str]:
    return [f"B{row:03d}" for row in range(len(embeddings))]


@pytest.fixture(scope="module")
def table(quantizer, embeddings, keys) -> SemanticIdTokenizer:
    return SemanticIdTokenizer.build(quantizer, embeddings, item_keys=keys)


def test_tokens_are_the_rows_of_the_table(table):
    history = torch.tensor([[5, 0, -1], [89, -1, -1]])
    tokens = table.tokenize(history)
    assert tokens.shape == (2, 12)
    assert tokens.dtype == torch.int64
    assert tokens[0].tolist() == [*table.ids[5], *table.ids[0], -1, -1, -1, -1]
    assert tokens[1].tolist() == [*table.ids[89], *[-1] * 8]


def test_tokens_of_any_leading_shape(table):
    one = table.tokenize(torch.tensor([3]))
    assert one.tolist() == table.ids[3].tolist()
    assert table.tokenize(torch.full((2, 3, 5), 3)).shape == (2, 3, 20)
    assert table.tokenize(torch.full((2, 0), 3)).shape == (2, 0)
    assert torch.equal(table.tokenize(torch.tensor([3], dtype=torch.int32)), one)


@pytest.mark.parametrize("item", [-2, 90])
def test_items_outside_the_table(table, item):
    with pytest.raises(
        IndexError, match=rf"lie in \[0, 90\).*got {min(item, 3)} to {max(item, 3)}"
    ):
        table.tokenize(torch.tensor([3, item]))


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_prefixes_are_verified_as_by_brute_force(table, length):
    generator = torch.Generator().manual_seed(length)
    sizes = torch.tensor(table.level_sizes[:length])
    random = (torch.rand(200, length, generator=generator) * sizes).long()
    real = torch.from_numpy(table.ids[:50, :length]).long()
    prefixes = torch.cat([random, real])
    existing = {tuple(row[:length]) for row in table.ids.tolist()}
    expected = [tuple(row) in existing for row in prefixes.tolist()]
    assert table.verify_semantic_ids(prefixes).tolist() == expected
    assert all(expected[200:])
    if length > 1:
        assert not all(expected[:200])


@pytest.mark.parametrize("policy", POLICIES)
def test_save_and_load(quantizer, embeddings, keys, tmp_path, policy):
    table = SemanticIdTokenizer.build(quantizer, embeddings, item_keys=keys, policy=policy)
    table.save(tmp_path / "run" / "semantic_ids")
    for path in (tmp_path / "run", tmp_path / "run" / "semantic_ids"):
        loaded = SemanticIdTokenizer.load(path)
        assert np.array_equal(loaded.ids, table.ids)
        assert list(loaded.item_keys) == keys
        for name in (
            "level_sizes",
            "policy",
            "statistics",
            "fingerprint",
            "items_fingerprint",
            "quantizer_digest",
            "has_dedup_digit",
        ):
            assert getattr(loaded, name) == getattr(table, name)
    loaded.tokenize(torch.tensor([0]))  # a read-only memory map serves look-ups
    loaded.save(tmp_path / "run" / "semantic_ids")  # over the files that it has open
    assert SemanticIdTokenizer.load(tmp_path / "run").fingerprint == table.fingerprint


def test_ids_are_the_same_in_new_processes(quantizer, embeddings, table, tmp_path):
    """Built whole, built by two processes, and loaded: one table."""
    quantizer.save(tmp_path / "model")
    np.save(tmp_path / "items.npy", embeddings)
    table.save(tmp_path / "ids")
    code = """
import sys, numpy as np
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.tokenizer.quantizer import encode_ids
folder, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = ResidualKMeans.load_from_checkpoint(folder + "/model")
items = np.load(folder + "/items.npy", mmap_mode="r")
share = np.array_split(np.arange(len(items)), world)[rank]
ids = encode_ids(model, items[share[0] : share[-1] + 1], batch_size=16)
np.save(f"{folder}/part_{rank}_{world}.npy", ids)
if world == 1:
    print(SemanticIdTokenizer.build(model, items).fingerprint)
    print(SemanticIdTokenizer.load(folder + "/ids").fingerprint)
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(rank), str(world)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(world)},
        )
        for rank, world in ((0, 1), (0, 2), (1, 2))
    ]
    said = [process.communicate(timeout=120)[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert said[0] == [table.fingerprint] * 2
    halves = [np.load(tmp_path / f"part_{rank}_2.npy") for rank in range(2)]
    assert np.array_equal(np.concatenate(halves), np.load(tmp_path / "part_0_1.npy"))
    assert np.array_equal(np.concatenate(halves), table.ids[:, :3])


def test_dropout_does_not_reach_the_ids(embeddings):
    class Noisy(ResidualKMeans):
        def get_semantic_ids(self, x):
            return super().get_semantic_ids(torch.nn.functional.dropout(x, 0.5, self.training))

    model = Noisy(8, codebook_sizes=(6, 5))
    fitted = ResidualKMeans.fit(embeddings, codebook_sizes=(6, 5))
    model.load_state_dict(fitted.state_dict())
    noisy = SemanticIdTokenizer.build(model.train(), embeddings)
    assert model.training
    assert noisy.fingerprint == SemanticIdTokenizer.build(fitted, embeddings).fingerprint


def test_other_items_are_refused(table, keys):
    table.check_items(StringArray.from_strings(keys).digest())
    other = StringArray.from_strings(reversed(keys)).digest()
    with pytest.raises(
        ArtifactError, match=f"items {other}, got IDs of .*{table.items_fingerprint}"
    ):
        table.check_items(other)


def test_damaged_artefacts(table, tmp_path, monkeypatch):
    monkeypatch.setenv("GENREC_SKIP_DIGESTS", "1")  # what still is noticed then
    folder = tmp_path / "ids"

    def edit_meta(**changes):
        table.save(folder)
        meta = json.loads((folder / "meta.json").read_text()) | changes
        (folder / "meta.json").write_text(json.dumps(meta))

    with pytest.raises(MissingPathError, match=r"got .*nowhere; make them with `genrec tokenize"):
        SemanticIdTokenizer.load(tmp_path / "nowhere")
    edit_meta(version=99)
    with pytest.raises(ArtifactError, match="version 1, got genrec-semantic-ids version 99"):
        SemanticIdTokenizer.load(folder)
    edit_meta(level_sizes=[6, 5, 2, 9])
    with pytest.raises(ArtifactError, match=r"level 3 must lie in \[0, 2\)"):
        SemanticIdTokenizer.load(folder)
    edit_meta(level_sizes=[7, *table.level_sizes[1:]])
    with pytest.raises(ArtifactError, match="fingerprint of semantic IDs must be"):
        SemanticIdTokenizer.load(folder)
    table.save(folder)
    np.save(folder / "ids.npy", table.ids[::-1])
    with pytest.raises(ArtifactError, match="the files were changed"):
        SemanticIdTokenizer.load(folder)
    table.save(folder)
    (folder / "ids.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match="must be complete"):
        SemanticIdTokenizer.load(folder)
    table.save(folder)
    (folder / "meta.json").write_text("{")
    with pytest.raises(ArtifactError, match="must be readable"):
        SemanticIdTokenizer.load(folder)


@pytest.mark.parametrize(
    ("ids", "options", "match"),
    [
        ([[0.5]], {}, r"whole numbers of shape \(N, L\), got float64"),
        ([1, 2], {}, r"whole numbers of shape \(N, L\), got int64 of shape \(2,\)"),
        ([[1, 2]], {"level_sizes": (3,)}, "one entry a level, 2, got 1"),
        ([[1, 2]], {"level_sizes": (3, 2)}, r"level 2 must lie in \[0, 2\), got 0 to 2"),
        ([[-1]], {"level_sizes": (3,)}, r"level 1 must lie in \[0, 3\), got -1"),
        ([[2**32]], {"level_sizes": (3,)}, r"level 1 must lie in \[0, 3\)"),
        ([[1]], {"level_sizes": (3,), "item_keys": ["a", "b"]}, "one entry an item, 1, got 2"),
    ],
)
def test_contradictions(ids, options, match):
    with pytest.raises(ArtifactError, match=match):
        SemanticIdTokenizer(ids, **{"level_sizes": (9, 9), **options})


def test_fingerprint_tells_ids_and_sizes_apart():
    first = SemanticIdTokenizer([[0, 1]], level_sizes=(2, 2))
    assert first.fingerprint == SemanticIdTokenizer([[0, 1]], level_sizes=(2, 2)).fingerprint
    assert first.fingerprint != SemanticIdTokenizer([[0, 1]], level_sizes=(2, 3)).fingerprint
    assert first.fingerprint != SemanticIdTokenizer([[1, 0]], level_sizes=(2, 2)).fingerprint


def test_npy_round_trip(table, tmp_path):
    table.export_npy(tmp_path / "ids.npy")
    assert np.array_equal(np.load(tmp_path / "ids.npy"), table.ids)
    again = SemanticIdTokenizer.from_npy(
        tmp_path / "ids.npy", level_sizes=table.level_sizes, item_keys=table.item_keys
    )
    assert again.fingerprint == table.fingerprint
    assert again.items_fingerprint == table.items_fingerprint
    assert again.statistics["left_items_sharing_id"] == 0
    (tmp_path / "bad.npy").write_text("no array")
    with pytest.raises(ArtifactError, match=r"must be a \.npy file"):
        SemanticIdTokenizer.from_npy(tmp_path / "bad.npy")
    with pytest.raises(MissingPathError, match="table of codes must exist"):
        SemanticIdTokenizer.from_npy(tmp_path / "absent.npy")


def test_row_numbers_as_keys():
    for count in (0, 1, 9, 10, 11, 100, 12_345):
        assert list(row_keys(count)) == [str(row) for row in range(count)]
    assert row_keys(12_345).digest() == StringArray.from_strings(map(str, range(12_345))).digest()


def test_select_reorders_and_refuses_strangers(table, keys):
    picked = table.select([keys[5], keys[2]])
    assert picked.ids.tolist() == table.ids[[5, 2]].tolist()
    assert list(picked.item_keys) == [keys[5], keys[2]]
    assert picked.level_sizes == table.level_sizes
    with pytest.raises(ArtifactError, match=r"got 1 that are not .*'B999'.*add_items"):
        table.select([keys[5], "B999"])


def test_new_items_need_the_same_quantizer_and_new_keys(table, quantizer, embeddings, keys):
    other = ResidualKMeans.fit(embeddings, codebook_sizes=(6, 5, 4), seed=2)
    with pytest.raises(ArtifactError, match="quantiser must be the one that made the table"):
        table.add_items(other, embeddings[:1], ["new"])
    with pytest.raises(ArtifactError, match="new keys, got 'B004' that has an ID"):
        table.add_items(quantizer, embeddings[:2], ["new", keys[4]])
    with pytest.raises(ArtifactError, match="new keys, got a key given twice"):
        table.add_items(quantizer, embeddings[:2], ["new", "new"])
    with pytest.raises(ArtifactError, match="one entry a new item, 2, got 1"):
        table.add_items(quantizer, embeddings[:2], ["new"])
    imported = SemanticIdTokenizer(table.ids, level_sizes=table.level_sizes)
    with pytest.raises(ConfigError, match="quantiser of this project made, got policy 'imported'"):
        imported.add_items(quantizer, embeddings[:1], ["new"])


def test_growth_survives_save_and_load(table, quantizer, embeddings, tmp_path):
    grown = table.add_items(quantizer, embeddings[:3] + 0.01, ["x", "y", "z"])
    grown.save(tmp_path)
    loaded = SemanticIdTokenizer.load(tmp_path)
    assert loaded.fingerprint == grown.fingerprint
    assert list(loaded.item_keys)[-3:] == ["x", "y", "z"]
    again = loaded.add_items(quantizer, embeddings[3:5] + 0.01, ["v", "w"])
    assert again.num_items == 95
    assert again.statistics["items_added"] == 5
    assert np.array_equal(again.ids[:93], grown.ids)

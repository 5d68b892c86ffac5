"""The streaming pass: what the codes of an item may depend on."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest
import torch
from torch import nn

from genrec.errors import ArtifactError, DataError
from genrec.models.rqvae import RqVae
from genrec.tokenizer.quantizer import ItemQuantizer, encode_ids, encode_rows, evaluation_mode
from genrec.tokenizer.residual_kmeans import ResidualKMeans


@pytest.fixture(scope="module")
def rqvae() -> RqVae:
    torch.manual_seed(0)
    model = RqVae(24, embed_dim=8, hidden_dims=(32,), codebook_size=16, n_layers=3).eval()
    model.initialize_codebooks(torch.randn(400, 24))
    return model


@pytest.fixture(scope="module")
def items() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(500, 24)).astype(np.float32)


def test_both_quantizers_meet_the_protocol(rqvae, quantizer):
    assert isinstance(rqvae, ItemQuantizer)
    assert isinstance(quantizer, ItemQuantizer)


def test_codes_are_those_of_the_quantizer(rqvae, items):
    expected = rqvae.get_semantic_ids(torch.from_numpy(items)).numpy()
    ids = encode_ids(rqvae, items, batch_size=128)
    assert ids.dtype == np.int32
    assert np.array_equal(ids, expected)


@pytest.mark.parametrize("start", [0, 1, 63, 64, 250, 499])
def test_codes_do_not_depend_on_neighbours_or_catalogue_size(rqvae, items, start):
    whole = encode_ids(rqvae, items, batch_size=64)
    assert np.array_equal(encode_ids(rqvae, items[start:], batch_size=64), whole[start:])
    assert np.array_equal(encode_ids(rqvae, items[: start + 1], batch_size=64), whole[: start + 1])


def test_every_call_gets_the_same_number_of_rows(items):
    calls = []

    class Recorder(ResidualKMeans):
        def get_semantic_ids(self, x):
            calls.append(tuple(x.shape))
            return super().get_semantic_ids(x)

    encode_ids(Recorder(24, codebook_sizes=(2, 2)), items, batch_size=200)
    assert calls == [(200, 24)] * 3


def test_two_halves_make_the_whole_on_equally_near_codes():
    # Every row lies exactly between two codes: the last bit of a product decides.
    rng = np.random.default_rng(0)
    model = ResidualKMeans(48, codebook_sizes=(64,))
    codes = rng.normal(size=(32, 48)).astype(np.float32)
    model.codebook_0 = torch.from_numpy(np.concatenate([codes, -codes]))
    rows = rng.normal(size=(301, 48)).astype(np.float32)
    rows -= (rows @ codes[:1].T) * codes[:1] / (codes[0] @ codes[0])
    whole = encode_ids(model, rows, batch_size=50)
    parts = [encode_ids(model, rows[a:b], batch_size=50) for a, b in ((0, 150), (150, 301))]
    assert np.array_equal(np.concatenate(parts), whole)


def test_memory_mapped_half_precision_file(rqvae, items, tmp_path):
    np.save(tmp_path / "items.npy", items.astype(np.float16))
    mapped = np.load(tmp_path / "items.npy", mmap_mode="r")
    assert np.array_equal(
        encode_ids(rqvae, mapped, batch_size=64),
        encode_ids(rqvae, items.astype(np.float16).astype(np.float32), batch_size=64),
    )


def test_copy_on_write_pages_keep_what_was_written(rqvae, items, tmp_path):
    np.save(tmp_path / "items.npy", items)
    mapped = np.load(tmp_path / "items.npy", mmap_mode="c")
    mapped[:] = 0
    encode_ids(rqvae, mapped, batch_size=64)
    assert not mapped.any()


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_reading_a_file_does_not_make_it_resident(tmp_path):
    megabytes = 256
    path = tmp_path / "items.npy"
    rows = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(megabytes * 2**20 // 256, 64)
    )
    rows.flush()
    del rows
    mapped = np.load(path, mmap_mode="r")
    model = ResidualKMeans(64, codebook_sizes=(2,))
    page = resource.getpagesize() / 2**20

    def resident_file_mib() -> float:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[2]) * page

    before = resident_file_mib()
    encode_ids(model, mapped, batch_size=65_536)
    assert resident_file_mib() - before < megabytes / 8


def test_latents_of_some_rows(rqvae, items):
    rows = np.array([3, 3, 490, 12])
    blocks = list(encode_rows(rqvae, items, rows, batch_size=3))
    assert [start for start, _ in blocks] == [0, 3]
    latents = torch.cat([z for _, z in blocks])
    expected = rqvae.encode(torch.from_numpy(items[rows]))
    assert torch.allclose(latents, expected, atol=1e-6)


def test_evaluation_mode_is_for_a_while():
    model = nn.Sequential(nn.Dropout(0.5))
    with evaluation_mode(model):
        assert not model.training
    assert model.training
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(model):
        raise RuntimeError("inside")
    assert model.training
    with evaluation_mode(model.eval()):
        pass
    assert not model.training


def test_errors(rqvae, items):
    with pytest.raises(ArtifactError, match=r"shape \(N, 24\) as in .*got \(500, 20\)"):
        encode_ids(rqvae, items[:, :20])
    broken = items.copy()
    broken[[70, 77], 3] = np.nan, np.inf
    with pytest.raises(DataError, match="got 2 items with NaN or inf among items 64 to 127"):
        encode_ids(rqvae, broken, batch_size=64)
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        encode_ids(rqvae, items, batch_size=0)

from __future__ import annotations

import sys
import types
from typing import ClassVar

import numpy as np
import pytest

from genrec.data.text.encoders import (
    SentenceTransformerEncoder,
    TextEncoder,
    embed_texts,
    make_encoder,
)
from genrec.data.text.vectors import PrecomputedEncoder
from genrec.errors import ConfigError, DataError


def test_make_encoder_chooses_by_name(tmp_path):
    np.save(tmp_path / "vectors.npy", np.eye(2))
    assert make_encoder("tfidf").name == "tfidf:256"
    assert make_encoder("tfidf:7").name == "tfidf:7"
    assert isinstance(make_encoder(str(tmp_path / "vectors.npy")), PrecomputedEncoder)
    assert isinstance(make_encoder("org/model"), SentenceTransformerEncoder)
    for name in ("tfidf", str(tmp_path / "vectors.npy"), "org/model"):
        assert isinstance(make_encoder(name), TextEncoder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "encoder_model_name must not be empty, got ''"),
        ("tfidf:wide", "must be 'tfidf' or 'tfidf:<width>', got 'tfidf:wide'"),
        ("tfidf:0", "tfidf width must be >= 1, got 0"),
        ("/nowhere/x.npy", "embeddings file must exist, got /nowhere/x.npy"),
    ],
)
def test_make_encoder_errors(name, message):
    with pytest.raises((ConfigError, FileNotFoundError), match=message):
        make_encoder(name)


class CountingEncoder:
    name = "counting"
    identity = "counting:1"
    cacheable = True

    def __init__(self):
        self.calls = 0

    def encode(self, texts, *, item_keys=None):
        self.calls += 1
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)


def test_cache_is_keyed_by_encoder_and_texts(tmp_path):
    encoder = CountingEncoder()
    first = embed_texts(encoder, ["ab", "c"], cache_dir=tmp_path)
    assert np.array_equal(embed_texts(encoder, ["ab", "c"], cache_dir=tmp_path), first)
    assert encoder.calls == 1
    embed_texts(encoder, ["a", "bc"], cache_dir=tmp_path)  # the same letters, other borders
    embed_texts(encoder, ["c", "ab"], cache_dir=tmp_path)
    encoder.identity = "counting:2"
    embed_texts(encoder, ["ab", "c"], cache_dir=tmp_path)
    assert encoder.calls == 4


def test_a_damaged_cache_file_is_made_again(tmp_path):
    encoder = CountingEncoder()
    expected = embed_texts(encoder, ["ab", "c"], cache_dir=tmp_path)
    (file,) = tmp_path.glob("*.npy")
    for damage in (file.read_bytes()[:-3], b"", b"not an array"):
        file.write_bytes(damage)
        assert np.array_equal(embed_texts(encoder, ["ab", "c"], cache_dir=tmp_path), expected)
    assert encoder.calls == 4


def test_no_cache_folder_keeps_nothing(tmp_path):
    encoder = CountingEncoder()
    for _ in range(2):
        embed_texts(encoder, ["a"])
    assert encoder.calls == 2


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((1, 2)), r"must have shape \(2, dim\), got \(1, 2\)"),
        (np.zeros(2), r"must have shape \(2, dim\), got \(2,\)"),
        (np.array([[1.0], [np.nan]]), "must be finite, got NaN or Inf"),
    ],
)
def test_a_faulty_encoder_is_found_out(result, message, tmp_path):
    encoder = CountingEncoder()
    encoder.encode = lambda texts, *, item_keys=None: result
    with pytest.raises(DataError, match=message):
        embed_texts(encoder, ["a", "b"], cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


class FakeModel:
    """Stands in for a downloaded model: what matters here is how it is called."""

    calls: ClassVar[list[dict]] = []

    def __init__(self, name, *, device=None, local_files_only=False):
        if name == "org/absent":
            raise OSError("We couldn't connect\nto the hub")

    def start_multi_process_pool(self, devices):
        FakeModel.calls.append({"devices": devices})
        return "pool"

    def stop_multi_process_pool(self, pool):
        FakeModel.calls.append({"stopped": pool})

    def encode(self, texts, **options):
        FakeModel.calls.append(options)
        return np.array([[len(text), 0] for text in texts], dtype=np.float16)


@pytest.fixture
def fake_model(monkeypatch):
    FakeModel.calls = []
    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = FakeModel
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return FakeModel


def test_sentence_transformer(fake_model):
    vectors = SentenceTransformerEncoder("org/model", batch_size=8).encode(["abc", "a"])
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == [3, 1]
    (call,) = fake_model.calls
    assert call["batch_size"] == 8
    assert call["normalize_embeddings"] is True
    assert call["pool"] is None


def test_sentence_transformer_on_two_processes(fake_model):
    SentenceTransformerEncoder("org/model", num_processes=2, device="cpu").encode(["abc", "a"])
    devices, call, stopped = fake_model.calls
    assert devices == {"devices": ["cpu", "cpu"]}
    assert call["pool"] == "pool"
    assert stopped == {"stopped": "pool"}


def test_sentence_transformer_offline_says_what_to_do(fake_model):
    with pytest.raises(
        ConfigError, match=r"got 'org/absent' \(not on this machine.*; give a folder"
    ):
        SentenceTransformerEncoder("org/absent").encode(["a"])


def test_sentence_transformer_identity_tells_normalised_from_not():
    assert (
        SentenceTransformerEncoder("m").identity
        != SentenceTransformerEncoder("m", normalize=False).identity
    )

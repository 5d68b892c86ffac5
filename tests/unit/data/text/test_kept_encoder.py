from __future__ import annotations

import json

import numpy as np
import pytest

from genrec.data.text.encoders import SentenceTransformerEncoder
from genrec.data.text.kept_encoder import copy_encoder, load_encoder, save_encoder
from genrec.data.text.tfidf import TfidfSvdEncoder
from genrec.data.text.vectors import PrecomputedEncoder
from genrec.errors import ArtifactError, DataError, MissingPathError

TEXTS = ["red shoe", "blue shoe", "green hose"]


def test_a_fitted_encoder_and_its_template_come_back(tmp_path):
    fitted = TfidfSvdEncoder(2).fit(TEXTS)
    save_encoder(tmp_path, fitted, text_template="{title}")
    kept = load_encoder(tmp_path)
    assert kept.text_template == "{title}"
    assert np.array_equal(kept.encoder.encode(TEXTS), fitted.encode(TEXTS))


def test_a_sentence_model_is_kept_by_name(tmp_path):
    save_encoder(tmp_path, SentenceTransformerEncoder("org/m", normalize=False), text_template=None)
    encoder = load_encoder(tmp_path, num_processes=3).encoder
    assert encoder == SentenceTransformerEncoder("org/m", normalize=False, num_processes=3)


def test_vectors_of_a_user_cannot_be_made_from_texts(tmp_path):
    np.save(tmp_path / "mine.npy", np.eye(3))
    save_encoder(tmp_path, PrecomputedEncoder(tmp_path / "mine.npy"), text_template=None)
    encoder = load_encoder(tmp_path).encoder
    with pytest.raises(DataError, match=r"those of the catalogue did \(mine.npy\), got texts"):
        encoder.encode(TEXTS)


def test_a_copy_stands_alone(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    copy_encoder(source, target)  # nothing to copy
    save_encoder(source, TfidfSvdEncoder(2).fit(TEXTS), text_template=None)
    copy_encoder(source, target)
    copy_encoder(source, target)
    for file in (source / "encoder").iterdir():
        file.unlink()
    assert load_encoder(target).encoder.encode(TEXTS).shape == (3, 2)


@pytest.mark.parametrize(
    ("file", "array"),
    [
        ("idf", np.ones(7, np.float32)),
        ("idf", np.ones(8, np.float64)),
        ("components", np.ones((2, 7), np.float16)),
        ("components", np.ones((0, 8), np.float16)),
        ("components", np.ones(8, np.float16)),
        ("vocabulary", np.frombuffer(b"a" * 200, np.uint8)),
        ("vocabulary.offsets", np.zeros(9, np.int64)),
        ("vocabulary.offsets", np.arange(8)),
    ],
)
def test_arrays_of_different_words_are_refused(tmp_path, monkeypatch, file, array):
    """Where digests are left out, what does not fit together is still found when it is opened."""
    monkeypatch.setenv("GENREC_SKIP_DIGESTS", "1")
    fitted = TfidfSvdEncoder(2).fit(TEXTS)
    assert len(fitted.vocabulary) == 8
    save_encoder(tmp_path, fitted, text_template=None)
    assert load_encoder(tmp_path).encoder.encode(TEXTS).shape == (3, 2)
    np.save(tmp_path / "encoder" / f"{file}.npy", array)
    with pytest.raises(ArtifactError, match=r"encoder/ must be complete, got .*; prepare the data"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("lost", ["name", "kind", "text_template", "normalize"])
def test_a_description_without_a_part_is_refused(tmp_path, monkeypatch, lost):
    monkeypatch.setenv("GENREC_SKIP_DIGESTS", "1")
    save_encoder(tmp_path, SentenceTransformerEncoder("org/m"), text_template=None)
    file = tmp_path / "encoder" / "meta.json"
    meta = json.loads(file.read_text())
    del meta[lost]
    file.write_text(json.dumps(meta))
    with pytest.raises(
        ArtifactError, match=r"encoder/meta.json must name the encoder, got .* with"
    ):
        load_encoder(tmp_path)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(MissingPathError, match="--like must be a prepared data set or a stage-one"):
        load_encoder(tmp_path)
    save_encoder(tmp_path, TfidfSvdEncoder(2).fit(TEXTS), text_template=None)
    (tmp_path / "encoder" / "idf.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match="encoder/ must be as it was written"):
        load_encoder(tmp_path)

from __future__ import annotations

import numpy as np
import pytest

from genrec.data.text.tfidf import FittedTfidf, TfidfSvdEncoder
from genrec.errors import DataError

TEXTS = [
    "red running shoe",
    "blue running shoe",
    "green garden hose",
    "yellow garden hose",
    "",
    "tea",
]


def test_tfidf_rows_have_length_one_and_like_texts_are_near():
    vectors = TfidfSvdEncoder(4).encode(TEXTS)
    assert vectors.shape == (6, 4)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors[[0, 1, 2, 3]], axis=1) == pytest.approx(1.0, abs=1e-5)
    assert vectors[4].tolist() == [0, 0, 0, 0]  # no word, no direction
    similar = vectors @ vectors.T
    assert similar[0, 1] > similar[0, 2] + 0.5
    assert similar[2, 3] > similar[2, 0] + 0.5


def test_tfidf_is_deterministic():
    first, second = TfidfSvdEncoder(3).encode(TEXTS), TfidfSvdEncoder(3).encode(TEXTS)
    assert np.array_equal(first, second)


@pytest.mark.parametrize(("texts", "dim"), [(["one"], 1), (["a b", "a c"], 2), (["same"] * 5, 1)])
def test_tfidf_caps_the_width_on_tiny_catalogues(texts, dim):
    vectors = TfidfSvdEncoder(256).encode(texts)
    assert vectors.shape == (len(texts), dim)
    assert np.isfinite(vectors).all()


def test_tfidf_refuses_texts_without_words():
    with pytest.raises(DataError, match="item texts must hold words to embed, got 2 texts"):
        TfidfSvdEncoder().encode(["", "!!"])


def test_a_fitted_encoder_gives_a_text_its_vector_whatever_stands_beside_it():
    fitted = TfidfSvdEncoder(4).fit(TEXTS)
    first = fitted.encode(TEXTS)
    later = fitted.encode(["purple running shoe", *reversed(TEXTS), "unheard of"])
    assert np.array_equal(later[1:-1][::-1], first)
    assert later[0] @ first[0] > later[0] @ first[2] + 0.5  # a new item lies among its like
    assert later[-1].tolist() == [0, 0, 0, 0]


def test_a_fitted_encoder_is_kept_as_arrays(tmp_path):
    fitted = TfidfSvdEncoder(4).fit(TEXTS)
    fitted.save(tmp_path)
    again = FittedTfidf.load(tmp_path, fitted.name)
    assert again.identity == fitted.identity != TfidfSvdEncoder(3).fit(TEXTS).identity
    assert np.array_equal(again.encode(TEXTS), fitted.encode(TEXTS))
    assert {file.suffix for file in tmp_path.iterdir()} == {".npy"}

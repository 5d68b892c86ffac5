from __future__ import annotations

import numpy as np
import pytest

from genrec.data.text.known_vectors import KnownVectors
from genrec.errors import ArtifactError

KEYS = [f"B{row:03d}" for row in range(100)]


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(100, 24)).astype(np.float32)


@pytest.fixture
def run(tmp_path, vectors, write_data):
    KnownVectors.of(write_data(tmp_path / "data", KEYS, vectors)).save(tmp_path)
    return tmp_path


def check(run, write_data, keys, vectors):
    return KnownVectors.load(run).check(write_data(run / "other", keys, vectors))


def test_the_same_vectors_pass_in_any_order_and_precision(run, vectors, write_data):
    order = np.random.default_rng(1).permutation(100)
    grown = np.concatenate([vectors[order].astype(np.float16), np.ones((5, 24), np.float16)])
    keys = [KEYS[row] for row in order] + [f"N{row}" for row in range(5)]
    assert check(run, write_data, keys, grown) == 0


def test_a_few_edited_items_are_counted(run, vectors, write_data):
    vectors[[3, 50]] *= -1
    assert check(run, write_data, KEYS, vectors) == 2


def test_other_vectors_are_refused(run, vectors, write_data):
    turned = vectors @ np.linalg.qr(np.random.default_rng(2).normal(size=(24, 24)))[0]
    with pytest.raises(ArtifactError, match=r"got other ones for 100 of 100 in .*--like RUN_DIR"):
        check(run, write_data, KEYS, turned)
    with pytest.raises(ArtifactError, match="must be 24 wide as those of the run, got 8"):
        check(run, write_data, KEYS, vectors[:, :8])


def test_of_other_items_nothing_can_be_told(run, vectors, write_data):
    assert check(run, write_data, [f"N{row}" for row in range(100)], vectors) == 0


def test_an_older_run_is_told_from_one_that_knows(tmp_path):
    with pytest.raises(ArtifactError, match="with which vectors it was trained"):
        KnownVectors.load(tmp_path)

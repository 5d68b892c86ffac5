"""The space of text and co-occurrence: weights, the fallback of new items, the folder."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from genrec.data.text import fused_space
from genrec.data.text.collaborative import collaborative_vectors
from genrec.data.text.fused_space import FusedSpace
from genrec.errors import ArtifactError, ConfigError, DataError, MissingPathError

N, D, C = 60, 10, 6


@pytest.fixture(scope="module")
def data(tiny_data):
    """Items on a ring that their text describes; the last item is never trained on."""
    rng = np.random.default_rng(0)
    steps = rng.integers(-2, 3, (300, 10)).cumsum(axis=1) + rng.integers(0, N - 1, (300, 1))
    angle = np.arange(N)[:, None] * 2 * np.pi / (N - 1) * np.arange(1, D // 2 + 1)
    text = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) + 1.5
    noise = 0.1 * rng.normal(size=text.shape)
    prepared = tiny_data((steps % (N - 1)).tolist(), N)
    return dataclasses.replace(prepared, item_embeddings=(text + noise).astype(np.float32))


def naive_rows(data, weight, ridge):
    text = data.item_embeddings.astype(np.float64)
    text = text - text.mean(axis=0)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    vectors = collaborative_vectors(data, dim=C).astype(np.float64)
    known = np.linalg.norm(vectors, axis=1) > 0
    x, y = text[known], vectors[known]
    centred = x - x.mean(axis=0)
    penalty = ridge * np.square(centred).sum() / D * np.eye(D)
    solution = np.linalg.inv(centred.T @ centred + penalty) @ centred.T @ (y - y.mean(axis=0))
    foretold = y.mean(axis=0) + (text - x.mean(axis=0)) @ solution
    foretold /= np.linalg.norm(foretold, axis=1, keepdims=True)

    def rows(collaborative):
        both = np.concatenate([(1 - weight) * text, weight * collaborative], axis=1)
        return both / np.linalg.norm(both, axis=1, keepdims=True)

    return rows(np.where(known[:, None], vectors, foretold)), rows(foretold)


@pytest.mark.parametrize("weight", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("chunk", [7, 65_536])
def test_rows_equal_float64(data, weight, chunk, monkeypatch):
    chunks = fused_space._chunks
    monkeypatch.setattr(fused_space, "_chunks", lambda count: chunks(count, chunk))
    space = FusedSpace.fit(data, weight=weight, dim=C, ridge=0.2)
    known, new = naive_rows(data, weight, 0.2)
    assert space.dim == D + C
    assert space.num_known == N - 1
    rows = space.transform(data.item_embeddings, np.arange(N))
    np.testing.assert_allclose(rows, known, atol=1e-5)
    np.testing.assert_allclose(space.transform(data.item_embeddings), new, atol=1e-5)
    assert rows.dtype == np.float32


def test_new_items_land_near_their_like(data):
    space = FusedSpace.fit(data, weight=0.8, dim=C)
    new = space.transform(data.item_embeddings)
    known = space.transform(data.item_embeddings, np.arange(N))
    near = (new @ known.T).argmax(axis=1)
    distance = np.abs((near - np.arange(N) + N // 2) % N - N // 2)
    assert np.median(distance) <= 2


def test_known_and_new_rows_mix(data):
    space = FusedSpace.fit(data, weight=0.5, dim=C)
    rows = np.array([4, -1, 2])
    mixed = space.transform(data.item_embeddings[[4, 4, 2]], rows)
    known = space.transform(data.item_embeddings, np.arange(N))
    new = space.transform(data.item_embeddings)
    np.testing.assert_allclose(mixed, np.stack([known[4], new[4], known[2]]), atol=1e-6)


def test_weight_zero_is_the_text_as_it_is(data):
    space = FusedSpace.fit(data, weight=0)
    assert (space.dim, space.num_known) == (D, 0)
    np.testing.assert_array_equal(space.transform(data.item_embeddings), data.item_embeddings)


def test_weight_one_is_collaborative_alone(data):
    space = FusedSpace.fit(data, weight=1, dim=C)
    assert space.dim == C
    rows = space.transform(data.item_embeddings, np.arange(N))
    expected = collaborative_vectors(data, dim=C)
    np.testing.assert_array_equal(rows[: N - 1], expected[: N - 1])
    np.testing.assert_allclose(np.linalg.norm(rows[N - 1]), 1, rtol=1e-6)


def test_no_held_out_event_enters(data):
    ends = np.asarray(data.sequence_offsets)[1:]
    items = data.sequence_items.copy()
    items[ends - 1], items[ends - 2] = 0, N - 1
    assert (items != data.sequence_items).any()
    other = dataclasses.replace(data, sequence_items=items)
    one, two = (FusedSpace.fit(d, weight=0.5, dim=C) for d in (data, other))
    for name in ("vectors", "coefficients", "intercept", "text_mean"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("weight", [0, 0.5, 1])
def test_a_saved_space_comes_back(data, weight, tmp_path):
    space = FusedSpace.fit(data, weight=weight, dim=C)
    space.save(tmp_path / "space")
    loaded = FusedSpace.load(tmp_path / "space")
    assert (loaded.weight, loaded.items_fingerprint) == (weight, data.items_fingerprint)
    expected = space.transform(data.item_embeddings, np.arange(N))
    np.testing.assert_array_equal(loaded.transform(data.item_embeddings, np.arange(N)), expected)


def test_damage_is_noticed(data, tmp_path):
    FusedSpace.fit(data, weight=0.5, dim=C).save(tmp_path)
    with pytest.raises(MissingPathError, match=r"folder with meta\.json"):
        FusedSpace.load(tmp_path / "absent")
    vectors = np.load(tmp_path / "vectors.npy")
    np.save(tmp_path / "vectors.npy", vectors[::-1])
    with pytest.raises(ArtifactError, match=r"as it was written, got .*another vectors\.npy"):
        FusedSpace.load(tmp_path)
    (tmp_path / "vectors.npy").unlink()
    with pytest.raises(ArtifactError, match=r"another vectors\.npy; train"):
        FusedSpace.load(tmp_path)
    np.save(tmp_path / "vectors.npy", vectors)
    FusedSpace.load(tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"version": 2}))
    with pytest.raises(ArtifactError, match="version 1, got genrec-fused-space version 2"):
        FusedSpace.load(tmp_path)


def test_errors(data):
    with pytest.raises(ConfigError, match=r"weight must lie in \[0, 1\], got 2"):
        FusedSpace.fit(data, weight=2)
    with pytest.raises(ConfigError, match="ridge must be > 0, got 0"):
        FusedSpace.fit(data, weight=0.5, ridge=0)
    broken = np.full((N, D), np.nan, np.float32)
    with pytest.raises(DataError, match="must be finite"):
        FusedSpace.fit(dataclasses.replace(data, item_embeddings=broken), weight=0.5)
    space = FusedSpace.fit(data, weight=0.5, dim=C)
    with pytest.raises(ArtifactError, match=f"must be {D} wide, got 3"):
        space.transform(np.zeros((2, 3), np.float32))
    with pytest.raises(DataError, match=r"known_rows must hold 2 rows"):
        space.transform(np.zeros((2, D), np.float32), np.array([0, N]))

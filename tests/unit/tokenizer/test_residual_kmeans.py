"""Residual k-means as a quantiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from genrec.checkpoint import write_model_files
from genrec.errors import ArtifactError, ConfigError, DataError, MissingPathError
from genrec.tokenizer.residual_kmeans import ResidualKMeans


def r2(model: ResidualKMeans, items: np.ndarray) -> float:
    x = torch.from_numpy(items)
    error = (x - model.decode(model.get_codebook_entry(model.get_semantic_ids(x)))).square().sum()
    return 1 - float(error / (x - x.mean(dim=0)).square().sum())


def test_codes_are_nearest_level_by_level(quantizer, embeddings):
    ids = quantizer.get_semantic_ids(torch.from_numpy(embeddings)).numpy()
    residual = embeddings.astype(np.float64)
    for level, codebook in enumerate(quantizer.get_codebook()):
        codes = codebook.double().numpy()
        distance = ((residual[:, None] - codes) ** 2).sum(axis=2)
        assert np.array_equal(ids[:, level], distance.argmin(axis=1))
        residual = residual - codes[ids[:, level]]


def test_explains_as_much_as_scikit_learn(embeddings):
    ours = np.mean(
        [
            r2(ResidualKMeans.fit(embeddings, codebook_sizes=(8, 8), seed=seed), embeddings)
            for seed in range(5)
        ]
    )
    explained = []
    for seed in range(5):
        residual = embeddings.astype(np.float64)
        for _ in range(2):
            fitted = KMeans(8, n_init=1, random_state=seed).fit(residual)
            residual = residual - fitted.cluster_centers_[fitted.labels_]
        explained.append(1 - (residual**2).sum() / ((embeddings - embeddings.mean(0)) ** 2).sum())
    assert ours >= np.mean(explained) - 0.01


def test_levels_report_rising_r2(embeddings):
    seen: list[tuple[int, float]] = []
    model = ResidualKMeans.fit(
        embeddings, codebook_sizes=(6, 5, 4), on_level=lambda level, r2: seen.append((level, r2))
    )
    assert [level for level, _ in seen] == [0, 1, 2]
    values = [value for _, value in seen]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(r2(model, embeddings), abs=1e-5)


def test_balanced_fit_uses_codes_more_evenly():
    rng = np.random.default_rng(0)
    items = np.concatenate([0.1 * rng.normal(size=(400, 6)), 4 * rng.normal(size=(100, 6))])
    items = items.astype(np.float32)

    def largest(balanced: bool) -> int:
        model = ResidualKMeans.fit(items, codebook_sizes=(16,), balanced=balanced)
        assert model.config["balanced"] is balanced
        return int(model.get_semantic_ids(torch.from_numpy(items)).flatten().bincount().max())

    assert largest(True) < 0.5 * largest(False)


def test_fit_draws_from_the_whole_of_a_memory_mapped_file(tmp_path):
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.normal(size=(500, 4)), 50 + rng.normal(size=(500, 4))])
    np.save(tmp_path / "items.npy", items.astype(np.float32))
    mapped = np.load(tmp_path / "items.npy", mmap_mode="r")
    model = ResidualKMeans.fit(mapped, codebook_sizes=(2,), max_samples=50)
    assert sorted(model.get_codebook()[0].mean(dim=1).tolist()) == pytest.approx([0, 50], abs=1)


def test_same_seed_same_codebooks(embeddings):
    first, again = (ResidualKMeans.fit(embeddings, codebook_sizes=(6, 5)) for _ in range(2))
    for a, b in zip(first.get_codebook(), again.get_codebook(), strict=True):
        assert torch.equal(a, b)


def test_save_and_load(quantizer, embeddings, tmp_path):
    quantizer.save(tmp_path / "step_0")
    loaded = ResidualKMeans.load_from_checkpoint(tmp_path / "step_0")
    assert loaded.config == quantizer.config
    assert loaded.codebook_sizes == (6, 5, 4)
    assert not loaded.training
    x = torch.from_numpy(embeddings)
    assert torch.equal(loaded.get_semantic_ids(x), quantizer.get_semantic_ids(x))


def test_batch_of_one(quantizer, embeddings):
    ids = quantizer.get_semantic_ids(torch.from_numpy(embeddings[:1]))
    assert ids.shape == (1, 3)
    assert quantizer.get_codebook_entry(ids).shape == (1, 8)


def test_errors(quantizer, embeddings, tmp_path):
    with pytest.raises(ConfigError, match=r"codebook_sizes must be >= 1, got 8 and \(4, 0\)"):
        ResidualKMeans(8, codebook_sizes=(4, 0))
    with pytest.raises(DataError, match=r"shape \(N, D\) with N >= 1, got \(0, 8\)"):
        ResidualKMeans.fit(embeddings[:0], codebook_sizes=(4,))
    broken = embeddings.copy()
    broken[4] = np.nan
    with pytest.raises(DataError, match="NaN or inf in 1 of 90 items"):
        ResidualKMeans.fit(broken, codebook_sizes=(4,))
    with pytest.raises(MissingPathError, match="checkpoint must be"):
        ResidualKMeans.load_from_checkpoint(tmp_path / "nowhere")
    write_model_files(tmp_path / "other", weights=quantizer.state_dict(), config={"model": "rqvae"})
    with pytest.raises(ArtifactError, match="model must be residual_kmeans, got rqvae"):
        ResidualKMeans.load_from_checkpoint(tmp_path / "other")
    config = quantizer.config | {"codebook_sizes": [6, 5, 3]}
    write_model_files(tmp_path / "bent", weights=quantizer.state_dict(), config=config)
    with pytest.raises(ArtifactError, match=r"must be complete, got .*bent"):
        ResidualKMeans.load_from_checkpoint(tmp_path / "bent")

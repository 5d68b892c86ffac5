"""A small catalogue whose items collide, and a quantiser fitted on it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from genrec.tokenizer.residual_kmeans import ResidualKMeans

SIZES = (6, 5, 4)


@pytest.fixture(scope="session")
def embeddings() -> npt.NDArray[np.float32]:
    """90 items in uneven groups; three of them are equal."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.normal(size=(12, 8))
    items = centres[rng.choice(12, 90, p=rng.dirichlet(np.ones(12)))]
    items = (items + 0.5 * rng.normal(size=items.shape)).astype(np.float32)
    items[[20, 55]] = items[7]
    return items


@pytest.fixture(scope="session")
def quantizer(embeddings: npt.NDArray[np.float32]) -> ResidualKMeans:
    """Three levels of 6, 5 and 4 codes: 120 tuples for 90 items."""
    return ResidualKMeans.fit(embeddings, codebook_sizes=SIZES, seed=1)

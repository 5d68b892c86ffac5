"""What tells one run that is served from another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xxhash

from genrec.atomic import read_json
from genrec.checkpoint import resolve_step
from genrec.errors import ConfigError
from genrec.serving.recommender import Recommender

__all__ = ["identity_of", "kind_of"]


def identity_of(recommender: Recommender) -> str:
    """Compute a digest of a run's weights, items and IDs, 16 hexadecimal digits."""
    run = recommender.shelf.run
    if run is None:
        raise ConfigError("a service needs a run's folder, got a recommender that came from none")
    step = resolve_step(run.path)
    files = step / "files.json"
    weights = step / "model.safetensors"
    about = [
        read_json(files).get("seal") if files.is_file() else _digest(weights),
        run.catalogue.items_fingerprint,
        "" if run.table is None else run.table.fingerprint,
        [] if run.catalogue.removed is None else np.flatnonzero(run.catalogue.removed).tolist(),
    ]
    return xxhash.xxh3_64_hexdigest(repr(about).encode())


def kind_of(recommender: Recommender) -> str:
    """Name the class of the model."""
    run = recommender.shelf.run
    return type(recommender.ranker if run is None else run.model).__name__


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = xxhash.xxh3_64()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

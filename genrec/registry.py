"""The model's name in a checkpoint's ``config.json`` -> its class. A new model is one line here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from genrec.errors import ArtifactError, did_you_mean

__all__ = ["QUANTIZERS", "RANKERS", "find"]

#: Name -> module that holds the class of this name, or ``module:Class``.
RANKERS = {
    "EncoderDecoderRetrievalModel": "genrec.models.retrieval",
    "ItemTokenRetrievalModel": "genrec.models.item_retrieval",
    "SasRec": "genrec.models.sasrec",
}
QUANTIZERS = {
    "rqvae": "genrec.models.rqvae:RqVae",
    "residual_kmeans": "genrec.tokenizer.residual_kmeans:ResidualKMeans",
}


def find(table: Mapping[str, str], name: str) -> type[Any]:
    """Import the class that a checkpoint names.

    Args:
        table: :data:`RANKERS` or :data:`QUANTIZERS`.
        name: ``model`` of the checkpoint's ``config.json``.

    Returns:
        The class.

    Raises:
        ArtifactError: If the table has no such name.
    """
    if name not in table:
        if table is RANKERS and name in QUANTIZERS:
            raise ArtifactError(
                "run must be one that recommends, got a run of stage one; give the one that "
                "`genrec train decoder` made on it, runs/decoder/NAME"
            )
        if table is QUANTIZERS and name in RANKERS:
            raise ArtifactError(
                "run must be one of stage one, got a run that recommends; give the one whose IDs "
                "it has, runs/rqvae/NAME"
            )
        kind = "a quantiser" if table is QUANTIZERS else "a model that recommends"
        raise ArtifactError(
            f"checkpoint must hold {kind}, got {name!r}; {did_you_mean(str(name), table)}"
        )
    module, _, attribute = table[name].partition(":")
    found: type[Any] = getattr(importlib.import_module(module), attribute or name)
    return found

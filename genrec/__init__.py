"""End-to-end generative recommender.

The public names are loaded when first used, so that ``import genrec`` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

from genrec.version import __version__

_PUBLIC = {
    "EncoderDecoderRetrievalModel": "genrec.models.retrieval",
    "OnnxRecommender": "genrec.serving.onnx",
    "PrefixIndex": "genrec.decoding.trie",
    "PreparedDataset": "genrec.data.prepared",
    "QuantizeForwardMode": "genrec.models.rqvae",
    "Recommender": "genrec.serving.recommender",
    "RqVae": "genrec.models.rqvae",
    "SasRec": "genrec.models.sasrec",
    "SemanticIdTokenizer": "genrec.tokenizer.semantic_id",
    "constrained_beam_search": "genrec.decoding.beam_search",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'genrec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

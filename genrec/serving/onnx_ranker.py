"""Ranking by graphs that onnxruntime runs and a search in numpy; without torch.

Shape legend: B = users, S = history items, R = results, N = items, W = beams.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec.decoding.array_index import ArrayIndex
from genrec.decoding.array_search import ArrayRules, array_search, best_first, top_items
from genrec.errors import ArtifactError, ConfigError

__all__ = ["OnnxRanker"]

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]


class OnnxRanker:
    """Ranks items by graphs that onnxruntime runs, and a search over the prefix index in numpy.

    Args:
        folder: Holds the graphs, and ``index/`` for a model that searches.
        meta: Its ``meta.json``.
        available: Which items may be recommended, shape ``(N,)``, bool.

    Attributes:
        name: What tables call it.
        max_history: Newest history items that it takes.
        num_users: Buckets of users, 0 for a model that does not know users.
        index: Prefix index; None for a model that scores all items.
        num_beams: Beams of the search, with ``index``.

    Raises:
        ConfigError: If onnxruntime is not installed.
        ArtifactError: If a graph is none.
    """

    def __init__(self, folder: Path, meta: Mapping[str, Any], available: npt.NDArray[np.bool_]):
        self.name, self.max_history = str(meta["name"]), int(meta["max_history"])
        self.num_users, self.num_beams = int(meta["num_users"]), int(meta["num_beams"])
        self._rescore: float | None = meta["rescore"]
        self._skip_history = bool(meta["skip_history"])
        self._mask = None if available.all() else available
        self.index = ArrayIndex.load(folder / "index") if (folder / "index").is_dir() else None
        self._sessions = {name: _session(folder / f"{name}.onnx") for name in meta["graphs"]}
        self._inputs = {
            name: [given.name for given in session.get_inputs()]
            for name, session in self._sessions.items()
        }

    def rank(
        self,
        history: Rows,
        k: int,
        *,
        rules: ArrayRules,
        users: Rows | None = None,
        num_beams: int | None = None,
    ) -> tuple[Rows, Floats]:
        """Find the best next items.

        Args:
            history: Rows of the catalogue, oldest first, shape ``(B, S)``, S at most
                ``max_history``; -1 for padding, at the end. Each user has at least one item.
            k: Items for each user ``R``, at most ``N``.
            rules: What may be recommended, besides what the catalogue says.
            users: Hashed user keys, shape ``(B,)``, int64, with ``num_users``.
            num_beams: Beams ``W`` of the search; those of the run when None.

        Returns:
            Rows of the catalogue and scores, both ``(B, R)``; -1 and ``-inf`` where there are
            fewer.
        """
        rules = self.with_available(rules)
        given: Arrays = {"history": history}
        if self.num_users:
            assert users is not None
            given["user"] = (users.view(np.uint64) % np.uint64(self.num_users)).astype(np.int64)
        if self.index is None:
            return top_items(self._run("scores", given)["scores"], k, rules)
        given |= self._run("encoder", given)
        legal = rules.restrict(self.index)
        if self._skip_history:
            unseen = self.index.exclude_per_user(history)
            legal = unseen if legal is None else legal & unseen

        def step(level: int, beams: Arrays) -> tuple[Floats, Floats | None]:
            found = self._run(f"step_{level}", given | beams)
            return found["log_probs"], found.get("present")

        num_beams = max(k, min(num_beams or self.num_beams, self.index.num_items))
        items, scores = array_search(
            step,
            self.index,
            batch_size=len(history),
            num_beams=num_beams,
            num_results=k if self._rescore is None else num_beams,
            legal=legal,
        )
        if self._rescore is None:
            return items, scores
        anew = self._run("rescore", given | {"items": items})["scores"]
        return best_first(items, anew + np.float32(self._rescore) * scores, k)

    def with_available(self, rules: ArrayRules) -> ArrayRules:
        """Add to some rules what the catalogue says."""
        if self._mask is None:
            return rules
        mask = self._mask if rules.mask is None else self._mask & rules.mask
        return ArrayRules(rules.exclude, rules.allow, mask)

    def _run(self, name: str, given: Arrays) -> Arrays:
        """Run a graph on what it takes of some arrays."""
        session = self._sessions[name]
        found = session.run(None, {wanted: given[wanted] for wanted in self._inputs[name]})
        return dict(zip((output.name for output in session.get_outputs()), found, strict=True))


def _session(path: Path) -> Any:
    """Load a graph for one thread: batches stand side by side instead."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise ConfigError(
            "exported models must be run by onnxruntime, got none; pip install onnxruntime"
        ) from None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors, which are raised too
    try:
        return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises kinds of its own
        line = " ".join(str(error).split())[:160]
        raise ArtifactError(
            f"graph must be readable, got {path} with {line}; export the run again"
        ) from None

"""Writes a recommender as ONNX graphs, arrays and JSON, from which onnxruntime alone serves.

The model says what its parts are (:mod:`genrec.models.graphs`); here they are traced, brought to a
precision, and written with what the search needs, as :mod:`genrec.serving.onnx` reads it.

Shape legend: B = users, K = results.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.atomic import FolderKind, atomic_directory, write_json_atomic
from genrec.data.catalogue import Catalogue
from genrec.data.prepared import PreparedDataset
from genrec.decoding.array_index import ArrayIndex
from genrec.decoding.trie import PrefixIndex
from genrec.digests import sealed
from genrec.errors import ConfigError, did_you_mean, install_line
from genrec.serving.onnx import FORMAT, VERSION, OnnxRecommender
from genrec.serving.onnx_weights import PRECISIONS, at_precision, quietly, write_graphs
from genrec.serving.pretrained import PORTABLE, check_target
from genrec.serving.recommendations import Recommendations
from genrec.trained import Trained

__all__ = ["check_histories", "export_onnx", "same_items"]

Recommend = Callable[..., Recommendations]

#: What tracing, quantising and running need; the extra ``onnx``.
_PACKAGES = ("onnx", "onnxruntime")
_OPSET = 18
_EXPORTED = FolderKind(
    "an exported recommender",
    needed=frozenset({"meta.json"}),
    others=frozenset({"catalogue", "index", "weights.bin", "*.onnx"}),
    format=FORMAT,
)


def export_onnx(
    run: Trained,
    path: str | os.PathLike[str],
    recommend: Recommend,
    histories: Sequence[Sequence[str]],
    *,
    precision: str = "fp32",
    least_share: float = 0.99,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a run's model as a folder that onnxruntime serves without torch.

    What is written is opened again and asked for the top ten of some users, and kept only where
    enough of them get the same items as from the model itself.

    Args:
        run: The run; its catalogue may have other items than its folder.
        path: The folder to make.
        recommend: Of the recommender of this run.
        histories: Of the users that are compared, item keys, at least one.
        precision: ``fp32``; ``fp16`` or ``bf16``, in which weights are kept in 16 bits and
            computed with in 32; or ``int8``, which multiplies in 8 bits.
        least_share: Share of the users who must get the same top ten, in any order, in
            ``[0, 1]``.
        overwrite: Whether to replace what is there.

    Returns:
        What the folder's ``meta.json`` says.

    Raises:
        ConfigError: If the model cannot be exported or loses too much by it, a package is
            missing, or the folder is not empty and not to be replaced.
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision must be known, got {precision!r}; {did_you_mean(precision, PRECISIONS)}"
        )
    if not 0 <= least_share <= 1:
        raise ConfigError(f"least_share must lie in [0, 1], got {least_share}; 0.99 is usual")
    _check_packages()
    if not hasattr(run.model, "graphs"):
        raise ConfigError(
            "model must be one that can be taken apart for ONNX, got "
            f"{type(run.model).__name__}; export the run of a decoder or of SASRec"
        )
    target = Path(path)
    if target.resolve() in (run.path.resolve(), *run.path.resolve().parents):
        raise ConfigError(
            f"folder to save to must lie beside the run, got {target}, which holds it; name "
            "another one"
        )
    check_target(target, _EXPORTED, overwrite=overwrite)
    taken = run.model.graphs(run.catalogue, run.options)
    traced = {name: _trace(graph) for name, graph in taken.graphs.items()}
    with atomic_directory(target) as folder:
        write_graphs(at_precision(traced, precision), folder)
        run.catalogue.save(folder)
        if taken.index is not None:
            (folder / "index").mkdir()
            _arrays(taken.index).save(folder / "index")
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "name": taken.name,
            "precision": precision,
            "graphs": list(taken.graphs),
            "max_history": taken.max_history,
            "num_beams": taken.num_beams,
            "rescore": taken.rescore,
            "skip_history": taken.skip_history,
            "num_users": taken.num_users,
            "run": {name: run.meta[name] for name in PORTABLE if name in run.meta},
        }
        write_json_atomic(folder / "meta.json", sealed(folder, meta))
        users = [f"user {place}" for place in range(len(histories))]
        expected = recommend(histories, 10, users=users)
        found = OnnxRecommender.from_pretrained(folder).recommend(histories, 10, users=users)
        meta["check"] = check = same_items(expected, found)
        if check["same_top_10"] < least_share:
            raise ConfigError(
                f"precision must keep the top ten of {least_share:.1%} of the users, got "
                f"{check['same_top_10']:.1%} of {check['users']:,} with {precision}; take another "
                "one, or lower least_share"
            )
        (folder / "meta.json").unlink()
        write_json_atomic(folder / "meta.json", sealed(folder, meta))
    return meta


def check_histories(
    catalogue: Catalogue, data: PreparedDataset | None, count: int, max_history: int
) -> list[list[str]]:
    """Choose histories with which an export is checked.

    Args:
        catalogue: The items.
        data: Their data set, of which users are taken that are spread over all, without their
            held-out items; None for histories that are drawn, popular items more often.
        count: Most histories, >= 1.
        max_history: Newest items that count.

    Returns:
        Item keys, oldest first, at least one a history.
    """
    if data is None:
        rng = np.random.default_rng(0)
        counts = np.ones(catalogue.num_items) if catalogue.counts is None else catalogue.counts + 1
        lengths = rng.integers(1, min(max_history, catalogue.num_items) + 1, size=count)
        drawn = rng.choice(catalogue.num_items, size=lengths.sum(), p=counts / counts.sum())
        parts = np.split(drawn, np.cumsum(lengths)[:-1])
    else:
        begins, ends = np.asarray(data.sequence_offsets[:-1]), np.asarray(data.valid_ends)
        users = np.flatnonzero(ends > begins)
        users = users[np.linspace(0, len(users) - 1, min(count, len(users))).astype(np.int64)]
        begins = np.maximum(begins, ends - max_history)
        parts = [data.sequence_items[begins[user] : ends[user]] for user in users]
    keys = catalogue.item_keys if data is None else data.item_keys
    return [[keys[int(row)] for row in part] for part in parts]


def same_items(expected: Recommendations, found: Recommendations) -> dict[str, Any]:
    """Compare what two recommenders answered to the same users.

    Args:
        expected: Of one.
        found: Of the other.

    Returns:
        ``users``; ``same_top_10``, the share of them who get the same items; ``same_order``, the
        share who get them in the same order; ``largest_difference`` of an item's scores.
    """
    order = [a == b for a, b in zip(expected.items, found.items, strict=True)]
    same = [set(a) == set(b) for a, b in zip(expected.items, found.items, strict=True)]
    largest = 0.0
    for user in np.flatnonzero(same).tolist():
        theirs = dict(zip(expected.items[user], expected.scores[user], strict=True))
        ours = zip(found.items[user], found.scores[user], strict=True)
        largest = max([largest, *(abs(float(theirs[item] - score)) for item, score in ours)])
    return {
        "users": len(same),
        "same_top_10": float(np.mean(same)),
        "same_order": float(np.mean(order)),
        "largest_difference": largest,
    }


class _Positional(torch.nn.Module):
    """A part of a model that takes its tensors one after another, as tracing wants them."""

    def __init__(self, graph: Any) -> None:
        super().__init__()
        self.module, self.names = graph.module, list(graph.inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.module(dict(zip(self.names, tensors, strict=True)))
        return found


def _trace(graph: Any) -> Any:
    """Write a part of the model as an ONNX model in memory."""
    import onnx

    with quietly(), torch.no_grad(), _norms_written(), tempfile.TemporaryDirectory() as folder:
        # By tracing, not by torch.export: that takes thirty times as long, and what it makes of
        # int32 positions onnxruntime refuses. What comes out is compared with the model.
        torch.onnx.export(
            _Positional(graph).eval(),
            tuple(tensor.contiguous() for tensor, _ in graph.inputs.values()),
            Path(folder) / "graph.onnx",
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=graph.axes,
            opset_version=_OPSET,
            dynamo=False,
        )
        return onnx.load(Path(folder) / "graph.onnx")


@contextmanager
def _norms_written() -> Iterator[None]:
    """Let PyTorch know for a while how a norm over the last axis is written."""
    registry: Any = torch.onnx
    registry.register_custom_op_symbolic("aten::rms_norm", _rms_norm, _OPSET)
    try:
        yield
    finally:
        registry.unregister_custom_op_symbolic("aten::rms_norm", _OPSET)


def _rms_norm(g: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    """Write the norm over the last axis, which this set of operators does not have."""
    last = g.op("Constant", value_t=torch.tensor([-1]))
    mean = g.op("ReduceMean", g.op("Mul", x, x), last, keepdims_i=1)
    return g.op("Mul", g.op("Div", x, g.op("Sqrt", g.op("Add", mean, eps))), weight)


def _check_packages() -> None:
    """Refuse an environment in which nothing can be exported."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX must be written with {', '.join(_PACKAGES)}, got no {missing[0]}; "
            f"{install_line('onnx')}"
        )


def _arrays(index: PrefixIndex) -> ArrayIndex:
    """Copy a prefix index into numpy."""
    offsets = index.leaf_offsets
    return ArrayIndex(
        [table.cpu().numpy() for table in index.first_child],
        index.leaf_items.cpu().numpy(),
        None if offsets is None else offsets.cpu().numpy(),
    )

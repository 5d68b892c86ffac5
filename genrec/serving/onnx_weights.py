"""Brings the weights of ONNX graphs to a precision, and writes each weight once for all graphs."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

__all__ = ["PRECISIONS", "at_precision", "quietly", "write_graphs"]

PRECISIONS = ("fp32", "fp16", "bf16", "int8")

_WEIGHTS = "weights.bin"
_SMALL_BYTES = 1024  # less stays in the graph
_ALIGN_BYTES = 64
#: What 16 bits are, and the largest number that they hold.
_HALVES = {"fp16": ("float16", 65504.0), "bf16": ("bfloat16", 3.3e38)}


def at_precision(models: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Bring graphs to a precision.

    Args:
        models: ONNX models by name; they may be changed.
        precision: Of :data:`PRECISIONS`. With 16 bits matrices and tables are kept in these and
            brought back to 32 when the graph is opened, since processors multiply in 32; with
            ``int8`` matrices are kept in 8 bits, and what is multiplied with them is brought to 8
            bits by its own range; tables stay as they are.

    Returns:
        ONNX models by name.
    """
    for model in models.values():
        _gather_weights(model.graph)
    change = {"int8": _quantized, "fp16": _halved, "bf16": _halved}.get(precision)
    if change is None:
        return dict(models)
    return {name: change(model, precision) for name, model in models.items()}


def write_graphs(models: Mapping[str, Any], folder: Path) -> None:
    """Write graphs that share one file of weights, which onnxruntime maps into memory.

    Args:
        models: ONNX models by name; they are changed.
        folder: Where they go, as ``<name>.onnx`` and ``weights.bin``.
    """
    from onnx import TensorProto, numpy_helper

    places: dict[bytes, tuple[int, int]] = {}
    with (folder / _WEIGHTS).open("wb") as file:
        for name, model in models.items():
            for tensor in model.graph.initializer:
                raw = numpy_helper.to_array(tensor).tobytes()
                if len(raw) < _SMALL_BYTES:
                    continue
                digest = xxhash.xxh3_128_digest(raw)
                if digest not in places:
                    file.write(b"\0" * (-file.tell() % _ALIGN_BYTES))
                    places[digest] = file.tell(), len(raw)
                    file.write(raw)
                bare = TensorProto(
                    name=tensor.name,
                    data_type=tensor.data_type,
                    dims=tensor.dims,
                    data_location=TensorProto.EXTERNAL,
                )
                offset, length = places[digest]
                known = {"location": _WEIGHTS, "offset": offset, "length": length}
                for key, value in known.items():
                    bare.external_data.add(key=key, value=str(value))
                tensor.CopyFrom(bare)
            _forget_origins(model)
            (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


@contextmanager
def quietly() -> Iterator[None]:
    """Keep tools that write graphs from telling users about their own insides."""
    silenced = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(silenced)


def _gather_weights(graph: Any) -> None:
    """Make large constants among the nodes weights of the graph."""
    kept = []
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute[0].t.raw_data) >= _SMALL_BYTES:
            graph.initializer.append(node.attribute[0].t)
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _forget_origins(model: Any) -> None:
    """Drop what the exporter notes of each node: source lines, and paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""


def _halved(model: Any, precision: str) -> Any:
    """Keep matrices and tables in 16 bits; those whose numbers are too large stay as they are."""
    import ml_dtypes
    from onnx import TensorProto, helper, numpy_helper

    name, largest = _HALVES[precision]
    half = np.dtype(getattr(ml_dtypes, name, name))
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        weight = numpy_helper.to_array(tensor)
        if weight.nbytes < _SMALL_BYTES or not np.abs(weight).max() < largest:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(weight.astype(half), f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _quantized(model: Any, precision: str) -> Any:
    """Let onnxruntime's tools make matrix products of 8 bits."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quietly(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            # With signed weights, sums overflow in silence on processors without VNNI.
            weight_type=QuantType.QUInt8,
        )
        return onnx.load(path)

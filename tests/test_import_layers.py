"""Who may import whom: imports are read from the source, those inside functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "genrec"

#: Longest prefix wins.
LAYERS = {
    "genrec": 0,  # version and the lazy list of public names
    "genrec.allocator": 0,
    "genrec.atomic": 0,
    "genrec.checkpoint": 0,
    "genrec.config": 0,
    "genrec.device": 0,
    "genrec.digests": 0,
    "genrec.entry": 0,
    "genrec.errors": 0,
    "genrec.metric_rows": 0,
    "genrec.recipes": 0,
    "genrec.run_lock": 0,
    "genrec.runs": 0,
    "genrec.settings": 0,
    "genrec.threads": 0,
    "genrec.version": 0,
    "genrec.data.schemas": 0,
    "genrec.data": 1,
    "genrec.modules": 1,
    "genrec.decoding": 2,
    "genrec.models": 2,
    "genrec.tokenizer": 2,
    "genrec.evaluation": 3,
    "genrec.rankers": 3,
    "genrec.rankers_linear": 3,
    "genrec.registry": 4,
    "genrec.serving": 4,
    "genrec.trained": 4,
    "genrec.reporting": 5,
    "genrec.training": 5,
    "genrec.__main__": 6,
    "genrec.auto": 6,
    "genrec.benchmark": 6,
    "genrec.cli": 6,
    "genrec.commands": 6,
    "genrec.stages": 6,
}

#: Besides what the layers forbid.
FORBIDDEN = [
    ("genrec.data", "genrec.modules", "data knows no network"),
    ("genrec.modules", "genrec.data", "modules know no data"),
    ("genrec.tokenizer", "genrec.models", "the tokenizer sees models through a protocol"),
    ("genrec.models", "genrec.tokenizer", "models see semantic IDs as numbers"),
    ("genrec.decoding", "genrec.models", "the search knows no model"),
    ("genrec.decoding", "genrec.tokenizer", "the search knows no tokenizer"),
    ("genrec.evaluation", "genrec.models", "evaluation is given rankers"),
    ("genrec.rankers", "genrec.models", "the contract knows no model"),
    ("genrec.evaluation", "accelerate", "evaluation is given its processes"),
    ("genrec.rankers", "accelerate", "a ranker serves without Accelerate"),
    ("genrec.trained", "accelerate", "a run is opened without Accelerate"),
    ("genrec.serving", "accelerate", "serving needs no Accelerate"),
    ("genrec.serving", "genrec.models", "serving is given a ranker"),
    ("genrec.modules", "gin", "the library does not read gin"),
    ("genrec.decoding", "gin", "the library does not read gin"),
    ("genrec.tokenizer", "gin", "the library does not read gin"),
    ("genrec.evaluation", "gin", "the library does not read gin"),
    ("genrec.serving", "gin", "the library does not read gin"),
    ("genrec.training", "gin", "the front door reads gin"),
    ("genrec.settings", "gin", "the front door reads gin"),
    ("genrec.data.prepared", "polars", "training reads arrays only"),
    ("genrec.data.prepared", "torch", "a prepared set needs numpy only"),
    ("genrec.data.catalogue", "torch", "a catalogue needs numpy only"),
    ("genrec.data.catalogue", "polars", "a catalogue needs numpy only"),
    ("genrec.data.user_hashes", "torch", "serving from ONNX needs numpy only"),
    ("genrec.decoding.array_index", "torch", "serving from ONNX needs numpy only"),
    ("genrec.decoding.array_search", "torch", "serving from ONNX needs numpy only"),
    ("genrec.serving.onnx", "torch", "serving from ONNX needs numpy only"),
    ("genrec.serving.onnx_ranker", "torch", "serving from ONNX needs numpy only"),
    ("genrec.serving.request", "torch", "serving from ONNX needs numpy only"),
    ("genrec.data.sequence_dataset", "polars", "datasets must survive forked workers"),
    ("genrec.data.batching", "polars", "datasets must survive forked workers"),
    ("genrec.training", "polars", "training reads arrays only"),
    ("genrec.serving.http", "polars", "a service reads arrays only"),
    ("genrec.serving.recommender", "polars", "tables are made where they are asked for"),
]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str, source: str) -> Iterator[tuple[str, int]]:
    """Yield what a module imports, and the line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".")[: -node.level]
                base = ".".join([*package, base] if base else package)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield (whole if whole in MODULES else base), node.lineno


def inside(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def layer(name: str) -> int:
    prefixes = [prefix for prefix in LAYERS if inside(name, prefix)]
    return LAYERS[max(prefixes, key=len)]


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name):
    broken = []
    for target, line in imports(name, MODULES[name].read_text()):
        if inside(target, "genrec") and layer(target) > layer(name):
            broken.append(f"line {line}: layer {layer(name)} imports {target} of {layer(target)}")
        broken += [
            f"line {line}: {name} imports {target}, but {why}"
            for source, goal, why in FORBIDDEN
            if inside(name, source) and inside(target, goal)
            if goal != "genrec.data" or target != "genrec.data.schemas"
        ]
    assert not broken, "\n".join(broken)


def test_every_module_has_a_layer_of_its_own_package():
    """A new package must be put into a layer, not fall under ``genrec`` by default."""
    packages = [prefix for prefix in LAYERS if prefix != "genrec"]
    default = [name for name in MODULES if not any(inside(name, prefix) for prefix in packages)]
    assert default == ["genrec"]


def test_the_walk_sees_what_it_should():
    source = (
        "import torch.nn as nn\n"
        "from genrec.data import prepared\n"
        "from ..errors import DataError\n"
        "def f():\n    from genrec.models.rqvae import RqVae\n"
    )
    found = [target for target, _ in imports("genrec.data.batching", source)]
    assert found == ["torch.nn", "genrec.data.prepared", "genrec.errors", "genrec.models.rqvae"]
    assert layer("genrec.data.schemas") == 0
    assert layer("genrec.data.prepared") == 1


#: What each wing of ``genrec.data`` may import of ``genrec.data``, besides itself.
WINGS = {
    "genrec.data.files": set(),
    "genrec.data.fetch": set(),
    "genrec.data.text": {"genrec.data.prepared"},
    "genrec.data.readers": {
        "genrec.data.files",
        "genrec.data.fetch",
        "genrec.data.text",
        "genrec.data.tables",
    },
}


def data_imports(name: str) -> set[str]:
    """List the modules of ``genrec.data`` that a module imports, inside functions too."""
    found = {target for target, _ in imports(name, MODULES[name].read_text())}
    return {target for target in found if inside(target, "genrec.data") and target in MODULES}


@pytest.mark.parametrize("wing", WINGS)
def test_wings_of_data_keep_to_themselves(wing):
    rooms = [name for name in MODULES if inside(name, wing)]
    assert len(rooms) > 1
    allowed = WINGS[wing] | {wing}
    broken = [
        f"{name} imports {target}"
        for name in rooms
        for target in sorted(data_imports(name))
        if not any(inside(target, goal) for goal in allowed)
    ]
    assert not broken, "\n".join(broken)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Take away what imports nothing that is left, again and again; what stays is in circles."""
    left = dict(graph)
    while free := [name for name, targets in left.items() if not targets & set(left)]:
        for name in free:
            del left[name]
    return sorted(left)


def test_no_circle_inside_data():
    rooms = [name for name in MODULES if inside(name, "genrec.data")]
    assert circle({name: data_imports(name) - {name} for name in rooms}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["a", "b", "c", "d"]

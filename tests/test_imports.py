"""Every module imports with the core dependencies alone, and light imports stay light."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

OPTIONAL = ["fastapi", "httptools", "jinja2", "matplotlib", "orjson", "pandas"]
OPTIONAL += ["mlflow", "mlflow_skinny", "onnx", "onnxruntime", "prometheus_client", "pydantic"]
OPTIONAL += ["ray", "starlette", "tensorboard", "uvicorn", "uvloop", "vector_quantize_pytorch"]
OPTIONAL += ["wandb"]
DEVELOPMENT = ["pytest", "hypothesis", "_pytest"]
#: What is nothing but HTTP and its schema; the command imports them, and names the extra.
OF_AN_EXTRA = [
    f"genrec.serving.http.{name}"
    for name in ("app", "failures", "guard", "messages", "metrics", "page", "server")
]

IMPORT_ALL = """
import importlib, pkgutil, sys

hidden = set(sys.argv[1].split(","))

class Hiding:
    # A finder that does not see some packages, as if they were not installed.

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *more):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, *more)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
import genrec

count = 0
for module in pkgutil.walk_packages(genrec.__path__, "genrec."):
    if module.name == "genrec.__main__":
        continue
    try:
        importlib.import_module(module.name)
        count += 1
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in hidden or module.name not in sys.argv[2].split(","):
            raise
for name in genrec.__all__:
    getattr(genrec, name)
print(count)
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_without_the_extras():
    files = [path for path in (ROOT / "genrec").rglob("*.py") if path.name != "__main__.py"]
    count = int(python(IMPORT_ALL, ",".join(OPTIONAL + DEVELOPMENT), ",".join(OF_AN_EXTRA)))
    assert count == len(files) - 1 - len(OF_AN_EXTRA)  # the package itself is imported first


def test_the_hidden_packages_are_those_of_the_extras():
    """A new extra must be hidden here too."""
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        re.match(r"[\w-]+", requirement)[0].replace("-", "_")
        for name, group in project["optional-dependencies"].items()
        if name != "dev"
        for requirement in group
    }
    assert extras <= set(OPTIONAL)


LEARNING = ("polars", "sklearn", "transformers", "sentence_transformers", "accelerate")
HEAVY = ("torch", *LEARNING)


def loaded_by(statement: str, *names: str) -> list[str]:
    code = f"{statement}\nimport sys\nprint(*[n for n in {names!r} if n in sys.modules])"
    return python(code).split()


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("import genrec", (*HEAVY, "numpy", "gin")),
        ("import genrec.cli; genrec.cli.build_app()", (*HEAVY, "numpy", "gin")),
        ("import genrec.data.prepared", HEAVY),
        ("import genrec.data.batching", ("polars", "sklearn", "transformers", "accelerate")),
        ("import genrec.training.decoder", ("polars", "sklearn", "sentence_transformers")),
        ("import genrec.training.rqvae", ("polars", "sklearn", "sentence_transformers")),
        ("import genrec.serving.recommender", (*LEARNING, "genrec.training", "gin")),
        ("import genrec.serving.http.service", (*LEARNING, "genrec.training", "gin")),
        ("import genrec.serving.onnx", (*HEAVY, "gin", "onnx", "onnxruntime", "scipy")),
        ("import genrec.evaluation.compare", (*LEARNING, "genrec.training", "gin")),
        ("import genrec.data.catalogue", HEAVY),
    ],
)
def test_light_imports_stay_light(statement, names):
    assert loaded_by(statement, *names) == []


def test_public_names_are_known_before_they_are_loaded():
    out = python("import genrec; print(genrec.__version__, *dir(genrec))")
    version, *names = out.split()
    assert version.count(".") == 2
    assert {"RqVae", "SemanticIdTokenizer", "Recommender"} <= set(names)


def test_a_name_that_is_not_there_is_an_attribute_error():
    code = "import genrec\ntry:\n    genrec.RqVea\nexcept AttributeError as e:\n    print(e)"
    assert "has no attribute 'RqVea'" in python(code)

"""Every configuration in the repository parses, finalises, and binds what its stage knows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = ROOT / "configs"

#: Each folder of configs/, and the module whose ``train`` its files configure.
ROOTS = {
    "rqvae": "genrec.training.rqvae",
    "rkmeans": "genrec.training.rqvae",
    "decoder": "genrec.training.decoder",
    "sasrec": "genrec.training.sasrec",
}

#: And the script that takes them.
SCRIPTS = {
    "rqvae": "train_rqvae.py",
    "rkmeans": "train_rqvae.py",
    "decoder": "train_decoder.py",
    "sasrec": "train_sasrec.py",
}

#: All of them, so that none can fall out of the search.
FILES = {
    "decoder": ["amazon.gin", "amazon_cpu.gin", "movielens.gin", "sample.gin"],
    "rkmeans": ["amazon.gin"],
    "rqvae": ["amazon.gin", "movielens.gin", "sample.gin"],
    "sasrec": ["amazon.gin", "movielens.gin"],
}

PARSE = """
import importlib, json, sys
import gin
from genrec.config import configure

root = importlib.import_module(sys.argv[1]).train
answers = {}
for path in sys.argv[2:]:
    try:
        configure(path, root=root)
        answers[path] = {
            "text": gin.config_str(),
            "settings": {name: repr(value) for name, value in gin.get_bindings(root).items()},
            "locked": gin.config_is_locked(),
        }
    except Exception as error:
        answers[path] = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(answers))
"""


def files(stage: str) -> list[Path]:
    return sorted((CONFIGS / stage).rglob("*.gin"))


@pytest.fixture(scope="module", params=sorted(ROOTS))
def parsed(request) -> dict[str, dict]:
    """One process a stage, since both roots are named ``train``."""
    arguments = [sys.executable, "-c", PARSE, ROOTS[request.param], *map(str, files(request.param))]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_file_is_forgotten():
    assert {stage: [path.name for path in files(stage)] for stage in ROOTS} == FILES
    everywhere = sorted(CONFIGS.rglob("*.gin"))
    assert everywhere == sorted(path for stage in ROOTS for path in files(stage))


def test_every_file_parses_and_is_locked(parsed):
    assert parsed
    errors = {path: found["error"] for path, found in parsed.items() if "error" in found}
    assert not errors
    assert all(found["locked"] for found in parsed.values())


def test_every_file_configures_its_own_root_alone(parsed):
    for path, found in parsed.items():
        stage = Path(path).relative_to(CONFIGS).parts[0]
        bound = set(re.findall(r"^([\w./]+)\.\w+ = ", found["text"], flags=re.MULTILINE))
        assert bound == {"train"}, path
        settings = found["settings"]
        # A run that nobody said how long to train, or where to put, is a mistake.
        assert stage == "rkmeans" or {"iterations", "epochs"} & set(settings), path
        assert settings["save_dir_root"].startswith(f"'runs/{stage}"), path


HEADER = ("Paper", "Command", "Hardware", "Time", "Expected", "Validated")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.gin")), ids=lambda p: p.name)
def test_every_file_says_what_it_is(path):
    header = path.read_text().split("\n\n")[0]
    for word in HEADER:
        found = re.search(rf"^# {word}:\s+(\S.*)$", header, flags=re.MULTILINE)
        assert found, f"{path} has no line '# {word}:'"
    stage = path.relative_to(CONFIGS).parts[0]
    command = re.search(rf"accelerate launch scripts/{SCRIPTS[stage]}(?: (configs/\S+))?", header)
    assert command is not None
    assert ROOT / (command.group(1) or default_config(SCRIPTS[stage])) == path


def default_config(script: str) -> Path:
    """Read from a script which file it takes when none is named."""
    text = (ROOT / "scripts" / script).read_text()
    folder, name = re.findall(r'"configs" / "(\w+)" / "([\w.]+)"', text)[0]
    return CONFIGS / folder / name


@pytest.mark.parametrize("script", sorted(set(SCRIPTS.values())))
def test_the_scripts_default_is_there(script):
    assert default_config(script).is_file()

"""What the documents name exists, and what they tell the reader to type works."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genrec.auto import AUTO
from genrec.cli import build_app
from genrec.stages import STAGES, Options, plan

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "docs/scale.md")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SETTINGS = {
    f"train_{name}.py": {known.name for known in dataclasses.fields(stage.settings)}
    for name, stage in STAGES.items()
}


def arguments_of_train(words: list[str]) -> tuple[list[str], list[str]]:
    """Stages and recipes of ``genrec train ...``, and its overrides."""
    what, bindings, left = [], [], iter(words)
    for word in left:
        if word == "--gin":
            bindings.append(next(left))
        elif word != "--resume" and word.startswith("--"):
            next(left)
        else:
            what += [word] * (word != "--resume")
    return what, bindings


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Words of each command: lines of bash blocks, and code in the text."""
    lines = [
        line
        for block in blocks(text, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    lines += re.findall(r"`((?:accelerate launch|genrec|python|bash) [^`]+)`", text)
    return [shlex.split(line, comments=True) for line in lines]


ALL = [
    pytest.param(words, id=f"{name}: {' '.join(words)[:70]}")
    for name in DOCUMENTS
    for words in commands((REPOSITORY / name).read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("words", ALL)
def test_commands_name_what_exists(words):
    files = [word for word in words if re.match(r"(scripts|configs|\.ci)/[\w./]+$", word)]
    assert [word for word in files if not (REPOSITORY / word).is_file()] == []
    if words[0] == "genrec":
        name, *options = words[1:]
        if "|" in words or not name.islower():
            return
        known = CliRunner().invoke(build_app(), [name, "--help"], env={"COLUMNS": "200"})
        assert known.exit_code == 0, name
        missing = [o for o in options if o.startswith("--") and o not in known.output]
        assert missing == []
        if name == "train" and not words[-1].isupper():  # what it means is read, nothing is written
            what, bindings = arguments_of_train(options)
            if what == [AUTO]:  # it needs the data
                return
            assert plan(what, Options(name="nowhere-yet", bindings=bindings))
    for script in files:
        settings = SETTINGS.get(Path(script).name)
        if settings is None:
            continue
        used = {m[1] for word in words if (m := re.match(r"train\.(\w+)=", word))}
        assert used <= settings | {"NAME"}
    scripts = [s for s in files if s.startswith("scripts/") and s.endswith(".py")]
    if scripts and Path(scripts[0]).name not in SETTINGS:
        source = (REPOSITORY / scripts[0]).read_text()
        missing = [w for w in words if w.startswith("--") and w not in SETTINGS and w not in source]
        assert [w for w in missing if words.index(w) > words.index(scripts[0])] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    folder = (REPOSITORY / name).parent
    assert [link for link in links if not (folder / link).exists()] == []


def test_the_tree_is_the_one_there_is():
    tree = next(block for block in blocks(README, "text") if "genrec/" in block)
    named: set[Path] = set()
    folder = REPOSITORY / "genrec"
    for line in tree.splitlines():
        if not line.startswith(" "):
            folder = REPOSITORY
        if found := re.match(r"\s*(\w[\w/]*/) ", line):
            folder = (REPOSITORY if line[0] != " " else REPOSITORY / "genrec") / found.group(1)
            assert folder.is_dir(), line
            named.add(folder)
        for file in re.findall(r"\b(\w+\.(?:py|sh))\b", line):
            places = [folder / file, REPOSITORY / "genrec" / file]
            assert any(place.is_file() for place in places), f"{file} in {line!r}"
    packages = {path.parent for path in (REPOSITORY / "genrec").glob("*/__init__.py")}
    assert packages - named == set()


def places() -> list[tuple[str, str, str]]:
    """Rows of the table of new things, each cell with the files that it names."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [(row[0].strip(), row[1], row[2]) for row in rows[1:] if "---" not in row[0]]


@pytest.mark.parametrize(("what", "written", "known"), places(), ids=lambda text: text.strip()[:14])
def test_a_new_thing_has_a_place(what, written, known):
    for cell in (written, known):
        named = re.findall(r"`([^`]+)`", cell)
        paths = [REPOSITORY / name for name in named if "/" in name]
        assert [path for path in paths if not path.exists()] == []
        files = [
            file for path in paths for file in (path.glob("*.py") if path.is_dir() else [path])
        ]
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        names = [name for name in named if "/" not in name]
        assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_every_kind_of_new_thing_has_a_place():
    wanted = {"data set", "quantiser", "sequence model", "loss", "metric", "command", "ranker"}
    assert wanted <= {what for what, _, _ in places()}


def test_no_placeholder_is_left():
    texts = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in DOCUMENTS}
    texts |= {str(path): path.read_text() for path in (REPOSITORY / "configs").rglob("*.gin")}
    assert [name for name, text in texts.items() if "TBD" in text] == []


def test_python_examples_run(sample_decoder, tmp_path):
    """In a folder where the quick start has left its run, as the page supposes."""
    (tmp_path / "runs" / "decoder").mkdir(parents=True)
    (tmp_path / "runs" / "decoder" / "sample").symlink_to(sample_decoder)
    examples = blocks(README, "python")
    assert examples
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()

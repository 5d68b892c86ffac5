"""``genrec benchmark`` on the sample with models as small as they go."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import genrec.benchmark.run as running
from genrec.atomic import read_json
from genrec.benchmark.readme import write_between
from genrec.benchmark.settings import BenchmarkSettings
from genrec.checkpoint import RunDirectory
from genrec.cli import build_app
from genrec.errors import ConfigError, GenRecError, MissingPathError
from genrec.evaluation.results import ResultsFile

STAGE_ONE = {"iterations": 20, "kmeans_after_epochs": 1, "eval_every": 10}
STAGE_TWO = {
    "iterations": 8,
    "epochs": None,
    "full_eval_every": 4,
    "decoder_embed_dim": 16,
    "attn_embed_dim": 16,
    "attn_heads": 2,
    "attn_layers": 2,
    "ff_dim": 32,
    "num_beams": 20,
}
SASREC = {
    "iterations": 20,
    "epochs": None,
    "full_eval_every": 20,
    "warmup_steps": 5,
    "embed_dim": 16,
    "ff_dim": 32,
}
COMMAND = ("genrec", "benchmark", "tiny.gin")


def words(stage: str, settings: dict) -> tuple[str, ...]:
    return tuple(f"{stage}.{name}={value!r}" for name, value in settings.items())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> BenchmarkSettings:
    """A benchmark of every kind of model, with its data prepared."""
    place = tmp_path_factory.mktemp("benchmark")
    return BenchmarkSettings(
        dataset="sample",
        processed_dir=str(place / "processed"),
        out=str(place / "out"),
        seeds=[0, 1],
        models={
            "generative": "rqvae/paper_sample decoder/paper_sample",
            "SASRec": "sasrec/amazon",
            "EASE": "ease",
            "item-KNN": "item-knn",
            "popularity": "popularity",
        },
        bindings={
            "generative": words("rqvae", STAGE_ONE) + words("decoder", STAGE_TWO),
            "SASRec": words("sasrec", SASREC),
        },
        rankings={"generative": {"20 beams": {}, "60 beams": {"num_beams": 60}}},
        grid={
            "EASE": {"ridge": [10, 1000], "decay": [0.3, 1.0]},
            "item-KNN": {"num_neighbours": [20]},
        },
    )


@pytest.fixture(scope="module")
def page(tiny) -> str:
    return running.run_benchmark(tiny, command=COMMAND).read_text()


def block(page: str, title: str) -> list[list[str]]:
    """Cut the first table under a line out of a page: the cells of each of its lines."""
    lines = page[page.index(f"\n{title}\n") :].strip().split("\n\n")[1].split("\n")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_run_is_a_row(tiny, page) -> None:
    rows = ResultsFile(Path(tiny.out) / "results.jsonl").rows()
    names = ["generative, 20 beams", "generative, 60 beams"]
    assert [(row.model, row.seed) for row in rows] == [
        *[(name, seed) for seed in (0, 1) for name in names],
        *[("SASRec", 0), ("SASRec", 1), ("EASE", 0), ("item-KNN", 0), ("popularity", 0)],
    ]
    assert len({row.data_fingerprint for row in rows}) == 1
    assert set(rows[0].seconds) == {"rqvae", "decoder"}
    assert min(rows[0].seconds.values()) > 0
    assert [row.parameters > 0 for row in rows] == [True] * 8 + [False]
    for row in rows:
        assert row.threads >= 1
        for split in ("valid", "test"):
            prefixes = ("", "hidden_", "sid_", "hidden_sid_")[: 4 if "gen" in row.model else 2]
            for prefix in prefixes:
                assert 0 <= row.metrics[split][f"{prefix}ndcg@10"] <= 1
    assert rows[6].chosen.keys() == {"ridge", "decay"}
    assert rows[7].chosen == {"num_neighbours": 20}
    assert rows[1].settings["evaluation"] == {"num_beams": 60}


def test_ranks_are_those_of_the_metrics(tiny, page) -> None:
    results = ResultsFile(Path(tiny.out) / "results.jsonl")
    for row in results.rows():
        for split in ("valid", "test"):
            for hidden in ("", "hidden_"):
                ranks = results.ranks(row)[f"{hidden}{split}"]
                recall = np.mean((ranks >= 0) & (ranks < 10))
                assert recall == pytest.approx(row.metrics[split][f"{hidden}recall@10"])


def test_the_page_has_both_blocks_and_the_pairs(tiny, page) -> None:
    for title in ("History not hidden", "History hidden"):
        head, _, *rows = block(page, title)
        assert head[:6] == ["model", "level", "R@5", "R@10", "N@5", "N@10"]
        assert [row[0] for row in rows if row[1] == "item"] == [
            *("generative, 20 beams", "generative, 60 beams", "SASRec"),
            *("EASE", "item-KNN", "popularity"),
        ]
    assert "genrec train rqvae/paper_sample decoder/paper_sample --gin rqvae." in page
    assert "`genrec benchmark tiny.gin --model EASE`" in page
    assert "--gin \"sasrec.dataset='sample'\"" in page
    assert str(Path(tiny.out).parent) not in page
    assert page.count("| difference in recall@10 |") == 2
    assert page.count("| generative, 20 beams | SASRec |") == 4
    assert re.search(r"^- EASE: ridge 10+, decay", page, re.MULTILINE)


def test_the_same_table_twice_and_nothing_runs_again(tiny, page, monkeypatch) -> None:
    monkeypatch.setattr(running, "_answers", None)
    assert running.run_benchmark(tiny, command=COMMAND).read_text() == page


def test_short_tables_go_between_the_lines_of_a_file(tiny, page, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(running, "_answers", None)  # all is known
    readme = tmp_path / "README.md"
    around = "# Mine\n\n{}<!-- benchmark tiny -->\n{}<!-- end of benchmark tiny -->\n\nThe end.\n"
    readme.write_text(around.format("", ""))
    running.run_benchmark(tiny, command=COMMAND, into=(readme, "tiny"))
    first = readme.read_text()
    running.run_benchmark(tiny, command=COMMAND, into=(readme, "tiny"))
    assert readme.read_text() == first
    between = first.split("<!-- benchmark tiny -->\n")[1].split("<!-- end of")[0]
    assert around.format("", between) == first
    tables = between.strip().split("\n\n")
    assert tables[0].startswith("`genrec benchmark tiny.gin`: ")
    _, _, *lines = [line.strip("|").split("|") for line in tables[1].split("\n")]
    models = ["generative, 20 beams", "generative, 60 beams", "SASRec"]
    models += ["EASE", "item-KNN", "popularity"]
    titles = ["**history not hidden**", "**history hidden**"]
    assert [line[0].strip() for line in lines] == [titles[0], *models, titles[1], *models]
    rows = ResultsFile(Path(tiny.out) / "results.jsonl").rows()
    mean = np.mean([row.metrics["test"]["recall@5"] for row in rows if row.model == "SASRec"])
    assert lines[3][1].strip().startswith(f"{mean:.4f}"[1:] + " ± ")
    hidden = next(row for row in rows if row.model == "popularity").metrics["test"]
    assert lines[-1][4].strip() == f"{hidden['hidden_ndcg@10']:.4f}"[1:]
    pairs = [line.strip("|").split("|") for line in tables[2].split("\n")]
    assert pairs[0][0].strip() == models[0]
    assert [pair[0].strip() for pair in pairs[3:8]] == models[1:]
    long = re.search(r"\| generative, 20 beams \| SASRec \| ([+-])0(\S+) \|", page)
    assert long is not None
    assert pairs[4][1].strip() == long[1] + long[2]


@pytest.mark.parametrize("text", ["", "<!-- benchmark tiny -->\n", None])
def test_a_file_without_a_place_is_refused_before_anything_runs(
    tiny, tmp_path, monkeypatch, text
) -> None:
    monkeypatch.setattr(running, "plan_jobs", None)
    readme = tmp_path / "README.md"
    if text is not None:
        readme.write_text(text)
    with pytest.raises(GenRecError, match=r"^--into must .*README.md; (create|put)"):
        running.run_benchmark(tiny, command=COMMAND, into=(readme, "tiny"))


def test_test_is_read_only_when_wanted(tiny, page) -> None:
    target = running.run_benchmark(
        dataclasses.replace(tiny, test=False), command=COMMAND, only=["SASRec", "popularity"]
    )
    assert target.name == "validation.md"
    rows = ResultsFile(target.with_suffix(".jsonl")).rows()
    assert [row.model for row in rows] == ["SASRec", "SASRec", "popularity"]
    assert all(set(row.metrics) == {"valid"} for row in rows)
    assert "test split" not in target.read_text()


def test_finished_runs_are_found(tiny, page, tmp_path) -> None:
    """A training of the same settings and data is not repeated, one of others is."""
    ours = Path(tiny.out) / "runs" / "generative" / "seed-1" / "decoder"
    other = dataclasses.replace(tiny, out=str(tmp_path))
    target = running.run_benchmark(other, command=COMMAND, only=["generative"], use=[ours])
    rows = ResultsFile(target.with_suffix(".jsonl")).rows()
    assert [row.seed for row in rows] == [0, 0, 1, 1]
    assert not (tmp_path / "runs" / "generative" / "seed-1").exists()
    assert (tmp_path / "runs" / "generative" / "seed-0" / "decoder").is_dir()
    first = ResultsFile(Path(tiny.out) / "results.jsonl").rows()
    for one, two in zip(first[:4], rows, strict=True):
        assert two.metrics["test"]["ndcg@10"] == one.metrics["test"]["ndcg@10"]


def test_an_interrupted_run_is_resumed(tiny, page, tmp_path, monkeypatch) -> None:
    """Cut off in the middle of a training, the benchmark comes to the same numbers."""
    one = dataclasses.replace(tiny, out=str(tmp_path), seeds=[1])
    point = RunDirectory.point

    def cut_off(self, name, step):
        point(self, name, step)
        if "decoder" in str(self.path) and name == "latest":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "point", cut_off)
        with pytest.raises(KeyboardInterrupt):
            running.run_benchmark(one, command=COMMAND, only=["generative"])
    assert ResultsFile(tmp_path / "results.jsonl").rows() == []
    place = tmp_path / "runs" / "generative" / "seed-1"
    before = read_json(place / "seconds.json")
    assert [path.name for path in (place / "decoder").glob("step_*")] == ["step_4"]
    target = running.run_benchmark(one, command=COMMAND, only=["generative"])
    found = ResultsFile(target.with_suffix(".jsonl")).rows()
    assert found[0].seconds["rqvae"] == before["rqvae"]
    assert found[0].seconds["decoder"] > before["decoder"]
    whole = ResultsFile(Path(tiny.out) / "results.jsonl").rows()[2:4]
    for now, then in zip(found, whole, strict=True):
        assert without_speed(now.metrics["test"]) == without_speed(then.metrics["test"])


def without_speed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if "users_per_s" not in name}


def test_rows_and_runs_of_other_settings_are_refused(tiny, page) -> None:
    changed = dataclasses.replace(tiny, grid={"EASE": {"ridge": [10]}})
    with pytest.raises(ConfigError, match="got a row of EASE, seed 0, with others; delete it"):
        running.run_benchmark(changed, command=COMMAND)
    bindings = {**tiny.bindings, "SASRec": words("sasrec", SASREC | {"ff_dim": 16})}
    changed = dataclasses.replace(tiny, bindings=bindings, test=False)
    with pytest.raises(ConfigError, match="sasrec with another ff_dim; delete it, or set"):
        running.run_benchmark(changed, command=COMMAND)


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (
            ["models={'a': 'eas'}", "rankings=None", "grid=None"],
            "WHAT must be a stage, a recipe or a gin file, got 'eas'",
        ),
        (
            ["models={'a': 'rqvae/paper_sample'}", "rankings=None", "grid=None"],
            "models must end with a stage that recommends, got 'a'",
        ),
        (
            ["models={'a b': 'ease', 'a-b': 'ease'}", "rankings=None", "grid=None"],
            "models must have folders of their own, got",
        ),
        (["models=['ease']"], "models must be a dictionary of names, each with a text, got"),
        (["models={}"], "models must have an entry, got none"),
        (["seeds=[]"], "seeds must have an entry, got none"),
        (
            ["bindings={'sasrec': []}"],
            "bindings must be of the models, got 'sasrec'; allowed: EASE, SASRec",
        ),
        (
            ["models={'a': 'ease'}", "grid=None"],
            "got 'item tokens'; allowed: a; or set benchmark.rankings=None",
        ),
        (["bindings={'EASE': []}"], "bindings must be of trained models, got 'EASE'"),
        (["grid={'SASRec': {'x': [1]}}"], "grid must be of fitted models, got 'SASRec'"),
        (["grid={'EASE': {'rigde': [1]}}"], "of ease, got 'rigde'; did you mean ridge?"),
        (["grid={'EASE': {'ridge': []}}"], "grid must hold values, got none for ridge"),
        (["grid={'popularity': {'x': [1]}}"], "got 'x'; leave it out: there are none"),
        (["rankings={'SASRec': {'a': {'beams': 1}}}"], "got 'beams'; did you mean num_beams?"),
        (["choose_by='ndcg@7'"], "choose_by must be known, got 'ndcg@7'"),
        (["dataset=None"], "dataset_folder must be set, got none"),
        (["sedes=[1]"], "setting must exist, got benchmark.sedes; did you mean seeds"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, bindings, message) -> None:
    monkeypatch.setattr(running, "load_or_prepare", None)  # it is refused before anything is read
    given = [word for one in bindings for word in ("--gin", f"benchmark.{one}")]
    given += ["--gin", f"benchmark.out='{tmp_path / 'out'}'"]
    done = CliRunner().invoke(build_app(), ["benchmark", "sample", *given])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["beuaty"], "RECIPE must be an existing gin file or the name of a recipe, got beuaty"),
        (
            ["sample", "--model", "easy"],
            "--model must be of the benchmark, got 'easy'; allowed: EASE",
        ),
        (["sample", "--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_words_are_one_line(tmp_path, monkeypatch, given, message) -> None:
    monkeypatch.setenv("GENREC_PROCESSED_DIR", str(tmp_path / "processed"))
    given += ["--gin", f"benchmark.out='{tmp_path / 'out'}'"]
    done = CliRunner().invoke(build_app(), ["benchmark", *given])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


BEGIN, END = "<!-- benchmark tiny -->\n", "<!-- end of benchmark tiny -->\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{BEGIN}keep me\n{BEGIN}old\n{END}", "got 2 and 1 of them"),
        (f"```\n{BEGIN}```\nA chapter.\n{BEGIN}{END}", "got 2 and 1 of them"),
        (f"{BEGIN}old\n{END}keep\n{END}", "got 1 and 2 of them"),
        (f"{END}{BEGIN}", "got 1 and 1 of them"),
        (f"{BEGIN}<!-- benchmark other -->\n{END}", "nothing of other benchmarks"),
        (b"\xff\xfe", "must be a file in UTF-8"),
    ],
)
def test_a_place_in_doubt_is_refused(tmp_path, text, message) -> None:
    readme = tmp_path / "README.md"
    readme.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = readme.read_bytes()
    with pytest.raises(ConfigError, match=message):
        write_between(readme, "tiny", "| a |")
    assert readme.read_bytes() == before
    with pytest.raises(MissingPathError, match="got a folder"):
        write_between(tmp_path, "tiny", "| a |")


def test_the_rest_of_the_file_stays_as_it_is(tmp_path) -> None:
    place, readme = tmp_path / "docs.md", tmp_path / "README.md"
    around = "\ufeff  <!-- benchmark tiny --> \r\n{}<!-- end of benchmark tiny -->\r\nEnd\r\n\r\n"
    place.write_bytes(around.format("old\r\n").encode())
    place.chmod(0o640)
    readme.symlink_to(place)
    write_between(readme, "tiny", "| a |\n| b |")
    assert readme.is_symlink()
    assert place.read_bytes() == around.format("\r\n| a |\r\n| b |\r\n\r\n").encode()
    assert place.stat().st_mode & 0o777 == 0o640


def test_a_table_of_validation_does_not_go_into_a_readme(tiny, tmp_path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(BEGIN + END)
    with pytest.raises(ConfigError, match=r"test split, got benchmark.test=False"):
        running.run_benchmark(
            dataclasses.replace(tiny, test=False), command=COMMAND, into=(readme, "tiny")
        )

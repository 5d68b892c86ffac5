"""``genrec tokenize`` on runs of both kinds of quantiser."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from genrec.atomic import write_json_atomic
from genrec.checkpoint import RunDirectory
from genrec.commands.tokenize import app_command
from genrec.data.text.known_vectors import KnownVectors
from genrec.models.rqvae import RqVae
from genrec.tokenizer.residual_kmeans import ResidualKMeans
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from genrec.trained import load_quantizer
from genrec.training.tokenizer_run import load_ids

RUNNER = CliRunner()


def tokenize(*arguments):
    app = typer.Typer()
    app.callback()(lambda: None)
    app_command(app)
    return RUNNER.invoke(app, ["tokenize", *map(str, arguments)])


@pytest.fixture
def keys(embeddings):
    return [f"B{row:03d}" for row in range(len(embeddings))]


@pytest.fixture
def run(tmp_path, quantizer, embeddings, keys, write_data):
    """A finished stage-one run of residual k-means that knows its data set."""
    data = write_data(tmp_path / "data", keys, embeddings)
    run_dir = RunDirectory(tmp_path / "run")
    run_dir.save(7, weights=quantizer.state_dict(), config=quantizer.config)
    write_json_atomic(run_dir.path / "meta.json", {"prepared": str(data.path)})
    KnownVectors.of(data).save(run_dir.path)
    return run_dir.path


def test_table_is_written_and_described(run, quantizer, embeddings, keys):
    done = tokenize(run)
    assert done.exit_code == 0, done.output
    table = SemanticIdTokenizer.load(run)
    expected = SemanticIdTokenizer.build(quantizer, embeddings, item_keys=keys)
    assert table.fingerprint == expected.fingerprint
    assert table.items_fingerprint == expected.items_fingerprint
    count = expected.statistics
    assert f"{count['items_sharing_id']} items share an ID, largest group" in done.output
    assert "policy dedup_token: 0 items share an ID, largest group 1" in done.output
    assert f"semantic_ids: 4 levels of {expected.level_sizes} codes" in " ".join(
        done.output.split()
    )


def test_policy_is_kept_from_call_to_call(run):
    assert tokenize(run, "--policy", "reassign").exit_code == 0
    first = SemanticIdTokenizer.load(run)
    assert first.policy == "reassign"
    assert tokenize(run).exit_code == 0
    assert SemanticIdTokenizer.load(run).fingerprint == first.fingerprint


def test_json_and_exports(run, tmp_path):
    done = tokenize(
        run, "--json", "--out", tmp_path / "ids", "--index-json", tmp_path / "x.index.json",
        "--npy", tmp_path / "x.npy",
    )  # fmt: skip
    said = json.loads(done.output)
    table = SemanticIdTokenizer.load(tmp_path / "ids")
    assert said["fingerprint"] == table.fingerprint
    assert said["items_sharing_id"] == table.statistics["items_sharing_id"]
    assert np.array_equal(np.load(tmp_path / "x.npy"), table.ids)
    assert len(json.loads((tmp_path / "x.index.json").read_text())) == 90
    assert not (run / "semantic_ids").exists()


@pytest.mark.parametrize("taken", ["the run", "notes"])
def test_nothing_else_is_lost_for_a_table(run, tmp_path, taken):
    out = run if taken == "the run" else tmp_path / "mine"
    out.mkdir(exist_ok=True)
    (out / "thesis.txt").write_text("years of work")
    before = sorted(path.name for path in out.iterdir())
    done = tokenize(run, "--out", out)
    assert done.exit_code == 2
    assert "--out must be new or empty, or hold an ID table and nothing else, got" in done.stderr
    assert sorted(path.name for path in out.iterdir()) == before
    (tmp_path / "items.csv").write_text("item_id\n")
    done = tokenize(run, "--npy", tmp_path / "items.csv")
    assert "--npy must end in .npy" in done.stderr
    assert (tmp_path / "items.csv").read_text() == "item_id\n"


@pytest.fixture
def grow(run, tmp_path, embeddings, keys, write_data):
    """A prepared data set of the run's items and some new ones, mixed up."""

    def write(num_new, vectors=embeddings):
        order = np.random.default_rng(0).permutation(90 + num_new)
        grown = np.concatenate([vectors, embeddings[:num_new] + 0.01])[order]
        grown_keys = np.array([*keys, *(f"N{row}" for row in range(num_new))])[order].tolist()
        return write_data(tmp_path / f"grown{num_new}", grown_keys, grown)

    return write


def test_extend_moves_no_id_and_leaves_the_table_of_the_run(run, grow, keys):
    assert tokenize(run).exit_code == 0
    old = SemanticIdTokenizer.load(run)
    data = grow(5)
    done = tokenize(run, "--extend", "--data", data.path)
    assert done.exit_code == 0, done.output
    assert "5 items added" in done.output
    assert SemanticIdTokenizer.load(run).fingerprint == old.fingerprint
    table = SemanticIdTokenizer.load(run / "semantic_ids-extended")
    assert table.level_sizes == old.level_sizes
    assert table.item_keys[:90] == keys  # what a model of the run's items needs
    assert np.array_equal(table.ids[:90], old.ids)
    assert len(np.unique(table.ids, axis=0)) == 95
    rows = load_ids(run / "semantic_ids-extended", data, dedup_digit=True)
    assert list(rows.item_keys) == list(data.item_keys)


def test_extend_goes_on_from_its_last_table(run, grow, tmp_path):
    assert tokenize(run).exit_code == 0
    for more in ([], ["--out", tmp_path / "ids"]):
        assert tokenize(run, "--extend", "--data", grow(5).path, *more).exit_code == 0
        path = more[1] if more else run / "semantic_ids-extended"
        first = SemanticIdTokenizer.load(path)
        assert tokenize(run, "--extend", "--data", grow(8).path, *more).exit_code == 0
        second = SemanticIdTokenizer.load(path)
        assert second.num_items == 98
        assert np.array_equal(second.ids[:95], first.ids)


def test_other_vectors_of_the_known_items_are_refused(run, grow, embeddings):
    assert tokenize(run).exit_code == 0
    before = SemanticIdTokenizer.load(run).fingerprint
    for extend in ([], ["--extend"]):
        done = tokenize(run, *extend, "--data", grow(5, vectors=embeddings[:, ::-1]).path)
        assert done.exit_code == 2
        assert "got other ones for 90 of 90" in done.stderr
    assert SemanticIdTokenizer.load(run).fingerprint == before
    assert not (run / "semantic_ids-extended").exists()


def test_extend_refuses_a_data_set_of_other_items(run, embeddings, write_data, tmp_path):
    assert tokenize(run).exit_code == 0
    data = write_data(tmp_path / "other", [f"N{row}" for row in range(90)], embeddings)
    done = tokenize(run, "--extend", "--data", data.path)
    assert "must hold the run's items beside new ones, got none of its 90" in done.stderr


def test_extend_says_why_there_is_nothing_to_add(run, grow):
    assert tokenize(run).exit_code == 0
    data = grow(0)
    done = tokenize(run, "--extend", "--data", data.path)
    assert done.exit_code == 2
    assert "must hold items that the table lacks, got 90 that all have IDs" in done.stderr
    card = {"card": {"items_left_out_without_interactions": 20}}
    unsealed = {name: value for name, value in data.meta.items() if name not in ("files", "seal")}
    write_json_atomic(data.path / "meta.json", unsealed | card)
    done = tokenize(run, "--extend", "--data", data.path)
    assert "20 items of its source were left out" in done.stderr
    assert "--keep-unseen-items" in done.stderr


def test_extend_needs_data_and_another_folder(run, grow):
    assert tokenize(run).exit_code == 0
    done = tokenize(run, "--extend")
    assert done.exit_code == 2
    assert "--extend needs --data" in done.stderr
    done = tokenize(run, "--extend", "--data", grow(5).path, "--out", run / "semantic_ids")
    assert done.exit_code == 2
    assert "--out must not be the run's own table" in done.stderr


def test_rqvae_run_and_choice_of_checkpoint(tmp_path, embeddings, keys, write_data):
    data = write_data(tmp_path / "data", keys, embeddings)
    run_dir = RunDirectory(tmp_path / "run", keep_last=5)
    models = []
    for step in (1, 2):
        torch.manual_seed(step)
        model = RqVae(8, embed_dim=4, hidden_dims=(8,), codebook_size=6, n_layers=2)
        model.initialize_codebooks(torch.from_numpy(embeddings))
        run_dir.save(step, weights=model.state_dict(), config=model.config)
        models.append(model.eval())
    run_dir.point("best_collision", 1)
    write_json_atomic(run_dir.path / "meta.json", {"prepared": str(data.path)})
    for arguments, model in (([], models[1]), (["--checkpoint", "best_collision"], models[0]),
                             (["--checkpoint", "step_2"], models[1])):  # fmt: skip
        assert tokenize(run_dir.path, *arguments).exit_code == 0
        expected = SemanticIdTokenizer.build(model, embeddings)
        assert SemanticIdTokenizer.load(run_dir.path).fingerprint == expected.fingerprint
    assert isinstance(load_quantizer(run_dir.path), RqVae)


def test_non_finite_embeddings(run, tmp_path, embeddings, keys, write_data):
    broken = embeddings.copy()
    broken[3, 2] = np.nan
    data = write_data(tmp_path / "broken", keys, broken)
    done = tokenize(run, "--data", data.path)
    assert done.exit_code == 2
    assert "1 items with NaN or inf" in done.stderr
    assert not (run / "semantic_ids").exists()
    assert tokenize(run, "--data", data.path, "--replace-non-finite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--policy", "reasign"], "did you mean reassign"),
        (["--checkpoint", "step_99"], "must name a step or a pointer of"),
        (["--data", "nowhere"], "prepared data set must be a folder"),
        (["--extend"], "--extend needs the table of an earlier call"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(run, arguments, match):
    done = tokenize(run, *arguments)
    assert done.exit_code == 2
    assert match in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (run / "semantic_ids").exists()


def test_folders_that_are_no_stage_one_run(tmp_path, quantizer):
    assert "RUN_DIR must be a folder" in tokenize(tmp_path / "nowhere").stderr
    RunDirectory(tmp_path / "other").save(
        1, weights=quantizer.state_dict(), config={"model": "retrieval"}
    )
    assert "must hold a quantiser, got 'retrieval'" in tokenize(tmp_path / "other").stderr
    RunDirectory(tmp_path / "bare").save(1, weights=quantizer.state_dict(), config=quantizer.config)
    assert "--data must be given where the run" in tokenize(tmp_path / "bare").stderr


def test_extend_refuses_another_policy(run, grow):
    assert tokenize(run).exit_code == 0
    done = tokenize(run, "--extend", "--policy", "none", "--data", grow(5).path)
    assert "--policy must be the table's dedup_token with --extend, got none" in done.stderr


def test_load_quantizer_from_a_step_folder(run):
    assert isinstance(load_quantizer(run / "step_7"), ResidualKMeans)


def test_the_ids_of_another_run_are_not_replaced(run, tmp_path):
    assert tokenize(run).exit_code == 0
    other = tmp_path / "decoder"
    SemanticIdTokenizer.load(run).save(other / "semantic_ids")
    (other / "meta.json").write_text("{}")
    before = (other / "semantic_ids" / "meta.json").read_bytes()
    done = tokenize(run, "--out", other / "semantic_ids")
    assert done.exit_code == 2
    assert "--out must not lie in another run, got" in done.stderr
    assert (other / "semantic_ids" / "meta.json").read_bytes() == before

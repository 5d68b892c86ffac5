"""The plan of ``genrec train``: which stages, which recipes, which settings, what is kept."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from genrec.checkpoint import RunDirectory
from genrec.data.readers.table_columns import MissingColumns
from genrec.errors import ConfigError, DataError, GenRecError
from genrec.recipes import recipes_folder
from genrec.stages import STAGES, Options, plan, run_plan
from genrec.tokenizer.semantic_id import SemanticIdTokenizer


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def chosen(*words: str, **options) -> list[tuple[str, str]]:
    return [
        (step.stage, step.recipe.relative_to(recipes_folder()).with_suffix("").as_posix())
        for step in plan(words, Options(**options))
    ]


def checkpoint(path: str, *, finished: bool = False) -> None:
    run = Path(path)
    RunDirectory(run).save(1, weights={}, config={}, pointers=("latest",))
    (run / "meta.json").write_text(json.dumps({"train_seconds": 1.0} if finished else {}))


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["sample"], [("rqvae", "rqvae/sample"), ("decoder", "decoder/sample")]),
        (["amazon_cpu"], [("decoder", "decoder/amazon_cpu")]),
        (["rqvae", "sample"], [("rqvae", "rqvae/sample")]),
        (["rqvae"], [("rqvae", "rqvae/amazon")]),
        (["rkmeans/amazon"], [("rqvae", "rkmeans/amazon")]),
        (["sasrec", "movielens"], [("sasrec", "sasrec/movielens")]),
        (
            ["rqvae/amazon", "decoder/amazon_cpu"],
            [("rqvae", "rqvae/amazon"), ("decoder", "decoder/amazon_cpu")],
        ),
        (["rqvae", "decoder"], [("rqvae", "rqvae/amazon"), ("decoder", "decoder/amazon")]),
    ],
)
def test_words(words, steps):
    assert chosen(*words) == steps


def test_a_file_of_ones_own_needs_its_stage():
    Path("mine.gin").write_text("train.dataset = 'sample'\n")
    (step,) = plan(["rqvae", "mine.gin"], Options())
    assert step.recipe == Path("mine.gin")
    assert step.settings.recipe == "mine.gin"
    with pytest.raises(ConfigError, match=r"STAGE must be named before .* train rqvae mine\.gin"):
        plan(["mine.gin"], Options())


def test_stage_two_takes_the_run_of_stage_one():
    one, two = plan(["amazon"], Options(split="toys"))
    assert one.run == Path("runs/rqvae/amazon/toys")
    assert two.settings.pretrained_rqvae_path == str(one.run)
    assert two.run == Path("runs/decoder/amazon/toys")


def test_a_run_knows_its_recipe_by_any_name():
    steps = plan(["sample"], Options(name="my-shop"))
    assert [step.settings.recipe for step in steps] == ["rqvae/sample", "decoder/sample"]
    assert [step.settings.outside() >= {"recipe"} for step in steps] == [True, True]


def test_data_goes_to_the_first_stage_and_a_name_to_all():
    one, two = plan(["sample"], Options(data="shop", name="mine"))
    assert (one.settings.dataset_folder, two.settings.dataset_folder) == ("shop", None)
    assert [one.run, two.run] == [Path("runs/rqvae/mine"), Path("runs/decoder/mine")]
    (alone,) = plan(["decoder", "sample"], Options(data="shop"))
    assert alone.settings.dataset_folder == "shop"


def test_a_prepared_data_set_has_no_split(monkeypatch, write_data):
    data = write_data(Path("mine"), ["a", "b"])
    one, two = plan(["amazon"], Options(data=str(data.path)))
    assert (one.settings.dataset_split, two.settings.dataset_split) == (None, None)
    assert one.run == Path("runs/rqvae/amazon")
    larger = plan(  # what the README tells larger shops
        ["rqvae/amazon", "decoder/amazon_cpu"], Options(data=str(data.path), name="my-shop")
    )
    assert [step.run for step in larger] == [
        Path("runs/rqvae/my-shop"),
        Path("runs/decoder/my-shop"),
    ]


def test_overrides_find_their_stage():
    bindings = ["rqvae.epochs=3", "decoder.epochs=4", "decoder.dataset_split='toys'"]
    one, two = plan(["amazon"], Options(bindings=bindings, split="sports"))
    assert (one.settings.epochs, two.settings.epochs) == (3, 4)
    assert two.settings.dataset_split == "toys"  # said in full, it wins over the shorthand
    for root in ("train", "sasrec"):
        (alone,) = plan(["sasrec", "amazon"], Options(bindings=[f"{root}.epochs=3"]))
        assert alone.settings.epochs == 3


@pytest.mark.parametrize(
    ("words", "bindings", "message"),
    [
        (["sampl"], [], r"WHAT must be a stage, a recipe or a gin file, got 'sampl'; .*sample"),
        (
            ["rqvae", "sampl"],
            [],
            r"RECIPE must be .*, got sampl; did you mean sample, paper_sample\?",
        ),
        (["decoder/sampl"], [], r"got decoder/sampl; did you mean decoder/sample"),
        (["sample"], ["train.seed=1"], r"got 'train\.seed=1'; write rqvae\.seed=1 or decoder\.s"),
        (["sample"], ["seed=1"], r"got 'seed=1'; write rqvae\.seed=1 or decoder\.seed=1"),
        (["sample"], ["sasrec.seed=1"], r"a stage that is trained, rqvae or decoder, got 'sasrec"),
        (["rqvae"], ["seed=1"], r"write train\.seed=1"),
        (["sample"], ["rqvae/train.seed=1"], r"got 'rqvae/train\.seed=1'; write rqvae\.seed=1$"),
        (["sample"], ["foo.seed=1"], r"; write rqvae\.seed=1 or decoder\.seed=1$"),
        (["sample"], ["--seed=1"], r"; write rqvae\.seed=1 or decoder\.seed=1$"),
        (["sample"], ["rqvae.train.seed=1"], r"; write rqvae\.seed=1$"),
        (["sample"], ["x/train.seed=1"], r"; write rqvae\.seed=1 or decoder\.seed=1$"),
        (["sample"], ["decoder/x='a/b.c'"], r"; write decoder\.x='a/b\.c'$"),
        (["rqvae", "sample"], ["rqvae/train.seed=1"], r"; write rqvae\.seed=1$"),  # gin: no effect
        (["rqvae", "sample"], ["x/genrec.train.seed=1"], r"; write rqvae\.seed=1$"),
        (
            ["rqvae/amazon", "rkmeans/amazon"],
            [],
            r"each stage must be named once, got rqvae, rqvae",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, words, bindings, message):
    with pytest.raises(GenRecError, match=message):
        plan(words, Options(bindings=bindings))
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_the_way_of_the_last_stage_is_told_before_the_first_trains():
    checkpoint("runs/decoder/sample")
    with pytest.raises(ConfigError, match=r"run folder must be new, got runs/decoder/sample"):
        plan(["sample"], Options())
    with pytest.raises(ConfigError, match=r"decoder\.overwrite=True") as caught:
        plan(["sample"], Options())
    assert "train." not in str(caught.value)
    with pytest.raises(ConfigError, match=r"train\.overwrite=True"):
        plan(["decoder", "sample"], Options())
    # Its IDs would be those of another stage one, so going on does not take it either.
    with pytest.raises(ConfigError, match=r"run folder must be new, got runs/decoder/sample"):
        plan(["sample"], Options(resume=True))
    assert plan(["sample"], Options(bindings=["decoder.overwrite=True"]))


def test_going_on_keeps_what_is_finished_and_resumes_the_rest():
    assert [(s.done, s.settings.resume) for s in plan(["sample"], Options(resume=True))] == [
        (False, True),
        (False, False),
    ]
    checkpoint("runs/rqvae/sample", finished=True)
    checkpoint("runs/decoder/sample")
    one, two = plan(["sample"], Options(resume=True))
    assert (one.done, two.done, two.settings.resume) == (True, False, True)


def finish(step) -> None:
    """Leave what a training of these settings leaves at its end."""
    checkpoint(str(step.run), finished=True)
    meta = {"train_seconds": 1.0, "settings": step.settings.as_dict(), "data_fingerprint": "x"}
    (step.run / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("words", "bindings", "said"),
    [
        (["sample"], ["decoder.attn_heads=3"], "decoder_embed_dim must .* got 64 and 3; .*heads=2"),
        (["paper"], ["decoder.attn_heads=7"], "attn_embed_dim must .* got 384 and 7; .*=6"),
        (["sasrec", "sample"], ["train.attn_heads=5"], "embed_dim must .* got 64 and 5; .*=4"),
    ],
)
def test_heads_that_do_not_fit_are_refused_before_the_first_stage(words, bindings, said):
    with pytest.raises(ConfigError, match=said):
        plan(words, Options(bindings=bindings))


def test_a_finished_stage_is_kept_only_as_it_was_told_to_be():
    for step in plan(["sample"], Options()):
        finish(step)
    assert [step.done for step in plan(["sample"], Options(resume=True))] == [True, True]
    for binding, what in (
        ("rqvae.iterations=900", "iterations None -> 900"),
        ("decoder.learning_rate=0.002", r"learning_rate 0\.003 -> 0\.002"),
    ):
        stage = binding.partition(".")[0]
        with pytest.raises(ConfigError, match=rf"{what}; put it back, or add {stage}\.resume_cha"):
            plan(["sample"], Options(resume=True, bindings=[binding]))
    more = ["decoder.learning_rate=0.002", "decoder.resume_changed=True"]
    one, two = plan(["sample"], Options(resume=True, bindings=more))
    assert (one.done, two.done, two.settings.resume) == (True, False, True)


def test_a_finished_stage_is_kept_only_with_its_data(write_data, capsys):
    vectors = np.eye(4, dtype=np.float32)
    mine, other = (
        write_data(Path(name), [*"abcd"], vectors, [walk, walk])
        for name, walk in (("mine", [0, 1, 2]), ("other", [3, 2, 1]))
    )
    steps = plan(["sample"], Options(data="mine"))
    for step in steps:
        finish(step)
    meta = json.loads((steps[0].run / "meta.json").read_text())
    meta["data_fingerprint"] = mine.fingerprint
    (steps[0].run / "meta.json").write_text(json.dumps(meta))
    run_plan(plan(["sample"], Options(data="mine", resume=True)))
    run_plan(plan(["sample"], Options(resume=True)))
    assert "2/2 decoder: recipe decoder/sample; done before" in capsys.readouterr().out
    assert mine.fingerprint != other.fingerprint
    with pytest.raises(ConfigError, match="got another one in other; name that one, or train ano"):
        run_plan(plan(["sample"], Options(data="other", resume=True)))
    shutil.rmtree("mine")  # what is gone is needed no more
    run_plan(plan(["sample"], Options(data="mine", resume=True)))


def test_a_longer_run_under_a_constant_schedule_is_not_finished():
    constant = ["decoder.schedule='constant'"]
    for step in plan(["sample"], Options(bindings=constant)):
        finish(step)
    longer = [*constant, "decoder.epochs=90"]
    one, two = plan(["sample"], Options(resume=True, bindings=longer))
    assert (one.done, two.done, two.settings.resume) == (True, False, True)


def test_a_finished_stage_is_kept_only_with_its_ids(write_data):
    steps = plan(["sample"], Options())
    for step in steps:
        finish(step)
    table = SemanticIdTokenizer([[0], [1]], level_sizes=(2,), policy="reassign")
    table.save(steps[0].run / "semantic_ids")
    meta = json.loads((steps[1].run / "meta.json").read_text())
    (steps[1].run / "meta.json").write_text(
        json.dumps(meta | {"ids_fingerprint": table.fingerprint})
    )
    run_plan(plan(["sample"], Options(resume=True)))
    other = SemanticIdTokenizer([[1], [0]], level_sizes=(2,), policy="reassign")
    other.save(steps[0].run / "semantic_ids")
    with pytest.raises(ConfigError, match="got others in runs/rqvae/sample, which was trained or"):
        run_plan(plan(["sample"], Options(resume=True)))


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../x", "/abs", "a/../../b", "a\0b"])
def test_a_name_is_that_of_a_folder(name):
    with pytest.raises(ConfigError, match="--name must be the name of a folder below runs/STAGE"):
        plan(["sample"], Options(name=name))


def test_one_stage_alone_begins_where_there_is_nothing_to_go_on_with(monkeypatch, capsys):
    monkeypatch.setattr("genrec.training.rqvae.train", lambda given: None)
    run_plan(plan(["rqvae", "sample"], Options(resume=True)))
    assert "recipe rqvae/sample; train runs/rqvae/sample" in capsys.readouterr().out


def test_the_plan_is_said_and_trained_in_order(monkeypatch, capsys):
    trained = []
    monkeypatch.setattr("genrec.training.rqvae.train", lambda given: trained.append(given))
    monkeypatch.setattr("genrec.training.decoder.train", lambda given: trained.append(given))
    steps = plan(["sample"], Options())
    run_plan(steps)
    assert trained == [step.settings for step in steps]
    assert "1/2 rqvae: recipe rqvae/sample; train runs/rqvae/sample" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    run_plan(steps)
    assert capsys.readouterr().out == ""


def test_every_stage_has_recipes_and_a_training():
    for name, stage in STAGES.items():
        assert issubclass(stage.settings, object)
        assert callable(stage.train)
        assert all((recipes_folder() / folder).is_dir() for folder in stage.folders), name


@pytest.mark.parametrize("words", [["sample"], ["rqvae", "sample"]])
def test_columns_that_cannot_be_guessed_name_the_way_to_say_them(words):
    """A training has no options for columns, and a wrapped error keeps its kind."""
    Path("odd").mkdir()
    Path("odd/items.csv").write_text("kkk;ttt\nA;Tee\nB;Kaffee\n")
    Path("odd/interactions.csv").write_text("wer;kkk\nu;A\nu;B\nv;A\n")
    message = (
        r"column for the user, got wer, kkk in odd/interactions.csv; .* --user-column wer; then "
        "train with --data data/processed/odd$"
    )
    with pytest.raises(MissingColumns, match=message):
        run_plan(plan(words, Options(data="odd")))
    Path("odd/interactions.csv").unlink()
    with pytest.raises(GenRecError, match="these are options of `genrec prepare odd --out data/"):
        run_plan(plan(words, Options(data="odd")))


def test_tables_in_place_of_a_release_are_told():
    Path("shop").mkdir()
    Path("shop/items.csv").write_text("item_id,title\nA,Tee\n")
    Path("shop/interactions.csv").write_text("user_id,item_id\nu,A\n")
    settings = ["train.encoder_model_name='tfidf'"]
    with pytest.raises(GenRecError, match=r"its files are of the kind .*, which `genrec prepare s"):
        run_plan(plan(["sasrec", "amazon"], Options(data="shop", bindings=settings)))


def test_a_run_on_other_data_is_refused_with_its_data():
    checkpoint("runs/sasrec/amazon/beauty", finished=True)
    meta = {"train_seconds": 1.0, "prepared": "data/processed/ml"}
    Path("runs/sasrec/amazon/beauty/meta.json").write_text(json.dumps(meta))
    with pytest.raises(ConfigError, match=r"of a run on data/processed/ml; .* --name NAME"):
        plan(["sasrec", "amazon"], Options())


def test_an_error_of_many_parts_goes_to_another_process():
    error = MissingColumns("columns; name them", options="--user-column x", note=" (now)")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.options, again.note) == (str(error), error.options, error.note)


def test_one_event_a_user_names_the_setting_of_each_stage():
    Path("shop").mkdir()
    Path("shop/items.csv").write_text("item_id,title\na,Tee\nb,Brot\nc,Salz\n")
    Path("shop/interactions.csv").write_text("user_id,item_id\nu,a\nv,b\nw,c\n")
    short = ["rqvae.iterations=2", "decoder.iterations=2"]
    with pytest.raises(DataError, match=r"got none; set rqvae.collaborative_weight=0 for text"):
        run_plan(plan(["sample"], Options(data="shop", bindings=short)))
    short.append("rqvae.collaborative_weight=0")
    with pytest.raises(DataError, match=r"got none; set decoder.start_weight=0 for text alone"):
        run_plan(plan(["sample"], Options(data="shop", bindings=short)))
